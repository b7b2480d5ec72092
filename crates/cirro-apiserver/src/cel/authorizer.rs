//! `authorizer` in expressions: may the one who asks, or an account, do something?
//!
//! Decisions are those of RBAC over the policy of the moment in which the expression began; that of a node over its own
//! pods is not walked here.
//!
//! Source: apiserver `pkg/cel/library/authz.go`.

use std::sync::Arc;

use super::eval::Found;
use super::value::Cel;
use crate::auth::User;
use crate::authenticate::service_account_groups;
use crate::rbac::{Access, Policy};

pub(super) const NAMES: [&str; 14] = [
    "path",
    "group",
    "serviceAccount",
    "resource",
    "subresource",
    "namespace",
    "name",
    "fieldSelector",
    "labelSelector",
    "check",
    "allowed",
    "reason",
    "errored",
    "error",
];

/// What expressions ask.
#[derive(Debug, Clone)]
pub(crate) enum Authz {
    /// Somebody, and what he asks for now.
    Authorizer(Authority),
    /// He and a path.
    Path(Authority, Arc<str>),
    /// He and a group.
    Group(Authority, Arc<str>),
    /// He and objects.
    Resource(Authority, Asked),
    /// Yes or no, and why.
    Decision(bool, Arc<str>),
}

/// Somebody, as the policy knows him.
#[derive(Debug, Clone)]
pub(crate) struct Authority {
    policy: Arc<Policy>,
    user: Arc<User>,
    /// What the request is about; an account that is asked for has none.
    request: Option<Asked>,
}

/// Objects.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// API group.
    pub(crate) group: String,
    /// Plural.
    pub(crate) resource: String,
    /// Part of the object; empty for the whole.
    pub(crate) subresource: String,
    /// Namespace; empty for none.
    pub(crate) namespace: String,
    /// Name; empty for all.
    pub(crate) name: String,
}

impl Authority {
    /// Returns the variable `authorizer`.
    pub(crate) fn variable(policy: Arc<Policy>, user: Arc<User>, request: Asked) -> Cel {
        Cel::Authz(Arc::new(Authz::Authorizer(Self { policy, user, request: Some(request) })))
    }

    fn decide(&self, access: &Access) -> Authz {
        if self.user.is_master() {
            return Authz::Decision(true, "".into());
        }
        match self.policy.grant(&self.user, access) {
            Some(grant) => Authz::Decision(true, grant.0.into()),
            None => Authz::Decision(false, "".into()),
        }
    }

    fn account(&self, namespace: &str, name: &str) -> Self {
        let mut groups = service_account_groups(namespace);
        groups.push(User::AUTHENTICATED.into());
        let name = format!("system:serviceaccount:{namespace}:{name}");
        let user = Arc::new(User { name, groups, ..User::default() });
        Self { policy: self.policy.clone(), user, request: None }
    }
}

impl Authz {
    /// Returns the name of the type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Authorizer(_) => "kubernetes.authorization.Authorizer",
            Self::Path(..) => "kubernetes.authorization.PathCheck",
            Self::Group(..) => "kubernetes.authorization.GroupCheck",
            Self::Resource(..) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(..) => "kubernetes.authorization.Decision",
        }
    }

    /// Returns a member: `requestResource` is the only one.
    pub(super) fn member(&self, name: &str) -> Option<Cel> {
        match self {
            Self::Authorizer(authority) if name == "requestResource" => {
                let asked = authority.request.clone()?;
                Some(made(Self::Resource(authority.clone(), asked)))
            }
            _ => None,
        }
    }
}

fn made(authz: Authz) -> Cel {
    Cel::Authz(Arc::new(authz))
}

/// Calls one of the functions; `None` when it is none.
pub(super) fn call(target: Option<&Cel>, name: &str, args: &[Cel]) -> Option<Found> {
    let Some(Cel::Authz(authz)) = target else { return None };
    let texts: Option<Vec<&str>> = args
        .iter()
        .map(|arg| match arg {
            Cel::Text(text) => Some(&**text),
            _ => None,
        })
        .collect();
    let result = match (&**authz, name, texts?.as_slice()) {
        (Authz::Authorizer(authority), "path", [path]) => Authz::Path(authority.clone(), (*path).into()),
        (Authz::Authorizer(authority), "group", [group]) => Authz::Group(authority.clone(), (*group).into()),
        (Authz::Authorizer(authority), "serviceAccount", [namespace, name]) => {
            Authz::Authorizer(authority.account(namespace, name))
        }
        (Authz::Path(authority, path), "check", [verb]) => authority.decide(&Access::to_path(verb, path)),
        (Authz::Group(authority, group), "resource", [resource]) => Authz::Resource(
            authority.clone(),
            Asked { group: group.to_string(), resource: (*resource).into(), ..Asked::default() },
        ),
        (Authz::Resource(authority, asked), "check", [verb]) => authority.decide(&asked.access(verb)),
        // Roles know no selectors.
        (Authz::Resource(..), "fieldSelector" | "labelSelector", [_]) => (**authz).clone(),
        (Authz::Resource(authority, asked), part, [text]) => {
            Authz::Resource(authority.clone(), asked.with(part, text)?)
        }
        (Authz::Decision(allowed, _), "allowed", []) => return Some(Ok(Cel::Bool(*allowed))),
        (Authz::Decision(_, reason), "reason", []) => return Some(Ok(Cel::Text(reason.clone()))),
        (Authz::Decision(..), "errored", []) => return Some(Ok(Cel::Bool(false))),
        (Authz::Decision(..), "error", []) => return Some(Ok("".into())),
        _ => return None,
    };
    Some(Ok(made(result)))
}

impl Asked {
    fn access(&self, verb: &str) -> Access {
        let Self { group, resource, subresource, namespace, name } = self;
        Access::to_resource(verb, group, resource, subresource, namespace, name)
    }

    fn with(&self, part: &str, text: &str) -> Option<Self> {
        let mut asked = self.clone();
        let slot = match part {
            "subresource" => &mut asked.subresource,
            "namespace" => &mut asked.namespace,
            "name" => &mut asked.name,
            _ => return None,
        };
        *slot = text.to_owned();
        Some(asked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cel::{Budget, Program, Scope};

    #[test]
    fn masters_may_and_strangers_may_not() {
        let ask = |groups: Vec<String>, text: &str| {
            let user = Arc::new(User { name: "jane".into(), groups, ..User::default() });
            let asked = Asked { resource: "pods".into(), namespace: "x".into(), ..Asked::default() };
            let authorizer = Authority::variable(Arc::default(), user, asked);
            let scope = Scope::default().with("authorizer", authorizer);
            let program = Program::parse(text).unwrap();
            program.run(&scope, &mut Budget::new(1000)).unwrap()
        };
        let check = "authorizer.group('').resource('pods').namespace('x').name('a').check('get').allowed()";
        assert!(ask(vec![User::MASTERS.into()], check).equals(&Cel::Bool(true)));
        assert!(ask(Vec::new(), check).equals(&Cel::Bool(false)));
        let own = "authorizer.requestResource.subresource('status').check('update').allowed()";
        assert!(ask(vec![User::MASTERS.into()], own).equals(&Cel::Bool(true)));
        let other = "authorizer.serviceAccount('x', 'y').path('/healthz').check('get').reason() == ''";
        assert!(ask(vec![User::MASTERS.into()], other).equals(&Cel::Bool(true)));
    }
}
