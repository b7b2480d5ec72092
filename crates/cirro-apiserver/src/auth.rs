//! Who asks: users by the certificates of our own authority.

/// A user as authentication found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name: the certificate's common name.
    pub name: String,
    /// Groups: the certificate's organizations.
    pub groups: Vec<String>,
}

impl User {
    /// The group that may do everything.
    pub const MASTERS: &'static str = "system:masters";

    /// Returns the server's own components.
    pub fn internal() -> Self {
        Self { name: "system:apiserver".into(), groups: vec![Self::MASTERS.into()] }
    }

    /// Returns the one who did not say who he is.
    pub fn anonymous() -> Self {
        Self { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == Self::MASTERS)
    }
}
