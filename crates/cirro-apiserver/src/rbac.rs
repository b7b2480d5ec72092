//! Role-based access control: who may do what.
//!
//! ```text
//! roles, bindings in the store ─▶ follow: one Policy in memory ─▶ allowed? / rules of a user
//! ```
//! A decision reads memory only. The policy is brought up to date before each decision from a watch
//! that the store fills within the commit, so that a grant holds as soon as its write was answered.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::auth::User;

pub(crate) mod bootstrap;
pub(crate) mod escalation;
mod follow;
pub(crate) mod rule;

pub(crate) use follow::Rbac;
pub(crate) use rule::Rule;

/// The API group.
pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";

/// What a request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) verb: String,
    pub(crate) target: Target,
    /// What a field selector asks fields to be, when the request has one.
    pub(crate) fields: Vec<(String, String)>,
}

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Objects; members that do not apply are empty.
    Resource { group: String, resource: String, subresource: String, namespace: String, name: String },
    /// A path that is not of objects.
    Path(String),
}

impl Access {
    /// Describes a request for objects.
    pub(crate) fn to_resource(
        verb: &str,
        group: &str,
        resource: &str,
        subresource: &str,
        namespace: &str,
        name: &str,
    ) -> Self {
        let [group, resource, subresource, namespace, name] =
            [group, resource, subresource, namespace, name].map(str::to_owned);
        let target = Target::Resource { group, resource, subresource, namespace, name };
        Self { verb: verb.into(), target, fields: Vec::new() }
    }

    /// Adds what a field selector asks for.
    pub(crate) fn with_fields(self, fields: Vec<(String, String)>) -> Self {
        Self { fields, ..self }
    }

    /// Whether only objects with a field of this value are asked for.
    pub(crate) fn selects(&self, field: &str, value: &str) -> bool {
        self.fields.iter().any(|(name, wanted)| name == field && wanted == value)
    }

    /// Describes a request for a path.
    pub(crate) fn to_path(verb: &str, path: &str) -> Self {
        Self { verb: verb.into(), target: Target::Path(path.into()), fields: Vec::new() }
    }

    /// Returns the namespace; empty when it is about none.
    pub(crate) fn namespace(&self) -> &str {
        match &self.target {
            Target::Resource { namespace, .. } => namespace,
            Target::Path(_) => "",
        }
    }
}

/// One to whom a binding gives a role.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Subject {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
}

impl Subject {
    /// Whether the subject is this user; a service account without a namespace is of the binding's.
    fn is(&self, user: &User, namespace: &str) -> bool {
        match self.kind.as_str() {
            "User" => user.name == self.name,
            "Group" => user.is_in(&self.name),
            "ServiceAccount" => {
                let of = if self.namespace.is_empty() { namespace } else { &self.namespace };
                let rest = user.name.strip_prefix("system:serviceaccount:");
                !of.is_empty() && rest.and_then(|rest| rest.split_once(':')) == Some((of, &self.name))
            }
            _ => false,
        }
    }

    fn describe(&self, namespace: &str) -> String {
        if self.kind == "ServiceAccount" {
            let of = if self.namespace.is_empty() { namespace } else { &self.namespace };
            return format!("{} {:?}", self.kind, format!("{}/{of}", self.name));
        }
        format!("{} {:?}", self.kind, self.name)
    }
}

/// What a binding refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct RoleRef {
    pub(crate) kind: String,
    pub(crate) name: String,
}

/// A binding.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Binding {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) role_ref: RoleRef,
}

/// All roles and bindings. The namespace of cluster-wide ones is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy {
    /// Namespace, then name.
    roles: HashMap<String, HashMap<String, Arc<[Rule]>>>,
    bindings: HashMap<String, HashMap<String, Arc<Binding>>>,
}

/// Why something is allowed.
pub(crate) struct Grant(pub(crate) String);

impl Policy {
    /// Decides a request; `None` when nothing grants it.
    pub(crate) fn grant(&self, user: &User, access: &Access) -> Option<Grant> {
        self.bound(user, access.namespace()).find_map(|bound| {
            let rules = self.rules_of(bound.namespace, &bound.binding.role_ref)?;
            rules.iter().any(|rule| rule.allows(access)).then(|| Grant(bound.describe()))
        })
    }

    /// Returns every rule that a user has in a namespace, the cluster-wide ones included.
    pub(crate) fn rules<'a>(&'a self, user: &'a User, namespace: &'a str) -> Vec<&'a Rule> {
        let bound = self.bound(user, namespace);
        let rules = bound.filter_map(|bound| self.rules_of(bound.namespace, &bound.binding.role_ref));
        rules.flat_map(|rules| rules.iter()).collect()
    }

    /// Returns the rules of a role that a binding in `namespace` refers to.
    pub(crate) fn rules_of(&self, namespace: &str, role: &RoleRef) -> Option<&Arc<[Rule]>> {
        let of = if role.kind == "Role" { namespace } else { "" };
        self.roles.get(of)?.get(&role.name)
    }

    fn bound<'a>(&'a self, user: &'a User, namespace: &'a str) -> impl Iterator<Item = Bound<'a>> {
        let scopes = std::iter::once("").chain(Some(namespace).filter(|namespace| !namespace.is_empty()));
        scopes.flat_map(move |namespace| {
            let bindings = self.bindings.get(namespace).into_iter().flatten();
            bindings.filter_map(move |(name, binding)| {
                let subject = binding.subjects.iter().find(|subject| subject.is(user, namespace))?;
                Some(Bound { namespace, name, binding, subject })
            })
        })
    }
}

/// A binding that applies to a user.
struct Bound<'a> {
    namespace: &'a str,
    name: &'a str,
    binding: &'a Binding,
    subject: &'a Subject,
}

impl Bound<'_> {
    fn describe(&self) -> String {
        let (kind, name) = match self.namespace {
            "" => ("ClusterRoleBinding", self.name.to_owned()),
            namespace => ("RoleBinding", format!("{}/{namespace}", self.name)),
        };
        let role = &self.binding.role_ref;
        let subject = self.subject.describe(self.namespace);
        format!("RBAC: allowed by {kind} {name:?} of {} {:?} to {subject}", role.kind, role.name)
    }
}
