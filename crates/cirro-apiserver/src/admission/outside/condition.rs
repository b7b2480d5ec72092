//! Match conditions: expressions that say whether a webhook or a policy is asked at all.

use cirro_seams::api::ApiError;
use serde_json::Value;

use super::Attributes;
use crate::asker;
use crate::auth::User;
use crate::cel::{Asked, Authority, Budget, Cel, Failure, Program, Scope};
use crate::json;
use crate::storage::Storage;

/// What all conditions and expressions about a write may cost.
pub(super) const BUDGET: u64 = 2_000_000;

/// A condition.
#[derive(Debug)]
pub(super) struct Condition {
    name: String,
    program: Result<Program, String>,
}

/// Reads the conditions of a webhook or a policy.
pub(super) fn read(list: &[Value]) -> Vec<Condition> {
    let condition = |one: &Value| Condition {
        name: json::text(one, "name").to_owned(),
        program: Program::parse(json::text(one, "expression").trim()),
    };
    list.iter().map(condition).collect()
}

/// Whether all conditions hold. One that is false decides, whatever the errors of others.
pub(super) fn hold(conditions: &[Condition], scope: &Scope<'_>, budget: &mut Budget) -> Result<bool, String> {
    let mut fault = None;
    for condition in conditions {
        let result = match &condition.program {
            Ok(program) => program.run(scope, budget).map_err(|why: Failure| why.to_string()),
            Err(why) => Err(why.clone()),
        };
        match result {
            Ok(Cel::Bool(true)) => {}
            Ok(Cel::Bool(false)) => return Ok(false),
            Ok(_) => fault = Some(format!("expression {:?} is not a bool", condition.name)),
            Err(why) => fault = Some(format!("expression {:?} resulted in error: {why}", condition.name)),
        }
    }
    fault.map_or(Ok(true), Err)
}

/// Returns the variable `authorizer` of expressions about a write.
///
/// # Errors
/// When the policy cannot be read.
pub(super) async fn authorizer(storage: &Storage, attributes: &Attributes<'_>) -> Result<Cel, ApiError> {
    let policy = storage.rbac.policy().await?;
    let user = asker::current().unwrap_or_else(|| User::internal().into());
    let asked = Asked {
        group: attributes.kind.group.clone(),
        resource: attributes.kind.plural.clone(),
        subresource: attributes.subresource.into(),
        namespace: attributes.namespace.into(),
        name: attributes.name.into(),
    };
    Ok(Authority::variable(policy, user, asked))
}

/// Returns the variables of expressions about a write; `request` is that of a review.
pub(super) fn scope<'a>(request: &Value, authorizer: Cel) -> Scope<'a> {
    let mut about = request.clone();
    let (object, old) = (Cel::of(&request["object"]), Cel::of(&request["oldObject"]));
    for member in ["object", "oldObject", "uid"] {
        json::remove(&mut about, member);
    }
    Scope::default()
        .with("object", object)
        .with("oldObject", old)
        .with("request", Cel::of(&about))
        .with("authorizer", authorizer)
}
