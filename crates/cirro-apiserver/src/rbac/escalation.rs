//! Nobody grants what he does not hold.
//!
//! Source: `pkg/registry/rbac/validation/rule.go`, `pkg/registry/rbac/*/policybased/storage.go`.

use cirro_seams::api::ApiError;
use serde::Deserialize;
use serde_json::Value;

use super::{Access, Binding, GROUP, Policy, Rule, rule};
use crate::auth::User;
use crate::error;
use crate::json;
use crate::registry::Kind;

/// Checks that a user may write a role or a binding of these contents.
///
/// # Errors
/// 403 in upstream's words.
pub(crate) fn check(
    policy: &Policy,
    user: &User,
    kind: &Kind,
    new: &Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if kind.group != GROUP || user.is_master() {
        return Ok(());
    }
    let refuse = |what: String| Err(error::forbidden(kind, json::name(new), &what));
    let namespace = json::namespace(new);
    let unchanged =
        |members: &[&str]| old.is_some_and(|old| members.iter().all(|one| old.get(one) == new.get(one)));
    let granted = match kind.plural.as_str() {
        "roles" | "clusterroles" => {
            let may = |verb: &str| {
                let access = Access::to_resource(verb, GROUP, &kind.plural, "", namespace, json::name(new));
                policy.grant(user, &access).is_some()
            };
            if unchanged(&["rules", "aggregationRule"]) || may("escalate") {
                return Ok(());
            }
            if json::at(new, "aggregationRule").is_some() && !holds_everything(policy, user) {
                return refuse("must have cluster-admin privileges to use the aggregationRule".into());
            }
            Vec::<Rule>::deserialize(&new["rules"]).unwrap_or_default()
        }
        _ => {
            let binding = Binding::deserialize(new).unwrap_or_default();
            let plural = if binding.role_ref.kind == "Role" { "roles" } else { "clusterroles" };
            let access = Access::to_resource("bind", GROUP, plural, "", namespace, &binding.role_ref.name);
            if unchanged(&["subjects", "roleRef"]) || policy.grant(user, &access).is_some() {
                return Ok(());
            }
            match policy.rules_of(namespace, &binding.role_ref) {
                Some(rules) => rules.to_vec(),
                None => {
                    let name = &binding.role_ref.name;
                    let message = format!("{plural}.{GROUP} {name:?} not found");
                    let details = serde_json::json!({"name": name, "group": GROUP, "kind": plural});
                    return Err(ApiError {
                        code: 404,
                        reason: "NotFound".into(),
                        message,
                        details: Some(details),
                    });
                }
            }
        }
    };
    let missing = not_held(&policy.rules(user, namespace), &granted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut missing: Vec<_> = rule::compacted(missing).iter().map(Rule::compact).collect();
    missing.sort();
    refuse(format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        rule::quoted(&user.groups),
        missing.join("\n")
    ))
}

/// Returns the atoms of `granted` that none of the rules held covers.
pub(super) fn not_held(held: &[&Rule], granted: &[Rule]) -> Vec<Rule> {
    let atoms = granted.iter().flat_map(Rule::atoms);
    atoms.filter(|atom| !held.iter().any(|rule| rule.covers(atom))).collect()
}

fn holds_everything(policy: &Policy, user: &User) -> bool {
    let all = || vec!["*".to_owned()];
    let everything = [
        Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), non_resource_urls: all(), ..Rule::default() },
    ];
    not_held(&policy.rules(user, ""), &everything).is_empty()
}
