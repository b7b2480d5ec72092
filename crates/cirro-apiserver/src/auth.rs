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

    /// Whether nobody said who asks.
    pub fn is_anonymous(&self) -> bool {
        *self == Self::anonymous()
    }

    /// Reads a user from a certificate that was verified against our authority.
    pub(crate) fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
        let mut groups: Vec<_> = groups.map(str::to_owned).collect();
        groups.push("system:authenticated".into());
        Some(Self { name, groups })
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == Self::MASTERS)
    }
}
