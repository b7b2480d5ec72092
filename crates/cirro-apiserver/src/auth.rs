//! Who asks: users by certificate, by token, or by another one's word.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A user as authentication found it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Name: a certificate's common name, or `system:serviceaccount:NAMESPACE:NAME`.
    pub name: String,
    /// Uid, when there is one: a service account's.
    pub uid: String,
    /// Groups: a certificate's organizations, or those of every service account.
    pub groups: Vec<String>,
    /// What else authentication knows: which credential, which pod.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The group that may do everything.
    pub const MASTERS: &'static str = "system:masters";
    /// The group of everybody who said who he is.
    pub const AUTHENTICATED: &'static str = "system:authenticated";
    /// The group of everybody who did not.
    pub const UNAUTHENTICATED: &'static str = "system:unauthenticated";
    /// The name of one who did not say who he is.
    pub const ANONYMOUS: &'static str = "system:anonymous";

    /// Returns the server's own components.
    pub fn internal() -> Self {
        Self { name: "system:apiserver".into(), groups: vec![Self::MASTERS.into()], ..Self::default() }
    }

    /// Returns the one who did not say who he is.
    pub fn anonymous() -> Self {
        let groups = vec![Self::UNAUTHENTICATED.into()];
        Self { name: Self::ANONYMOUS.into(), groups, ..Self::default() }
    }

    /// Whether nobody said who asks.
    pub fn is_anonymous(&self) -> bool {
        self.name == Self::ANONYMOUS
    }

    /// Reads a user from a certificate that was verified against our authority.
    pub(crate) fn from_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let groups = subject.iter_organization().filter_map(|group| group.as_str().ok());
        let mut groups: Vec<_> = groups.map(str::to_owned).collect();
        groups.push(Self::AUTHENTICATED.into());
        let fingerprint = hex::encode(ring::digest::digest(&ring::digest::SHA256, der));
        let credential = format!("X509SHA256={fingerprint}");
        let extra = [("authentication.kubernetes.io/credential-id".to_owned(), vec![credential])].into();
        Some(Self { name, groups, uid: String::new(), extra })
    }

    /// Whether the user may do everything.
    pub fn is_master(&self) -> bool {
        self.is_in(Self::MASTERS)
    }

    /// Whether the user is in a group.
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one == group)
    }

    /// Returns the user as `userInfo` of reviews has it.
    pub(crate) fn info(&self) -> Value {
        let mut info = json!({"username": self.name, "groups": self.groups});
        if !self.uid.is_empty() {
            info["uid"] = self.uid.clone().into();
        }
        if !self.extra.is_empty() {
            info["extra"] = json!(self.extra);
        }
        info
    }
}
