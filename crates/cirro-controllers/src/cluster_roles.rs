//! Fills the rules of aggregated ClusterRoles with those of the roles that their selectors select.

use std::sync::Arc;

use cirro_client::{Cache, Next, WorkQueue, key_of, labels, matches_labels, name};
use cirro_seams::api::{ApiError, Resource};
use serde_json::{Value, json};

use crate::Context;

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let roles = context.cache("rbac.authorization.k8s.io", "clusterroles");
    roles.synced().await;
    let queue: Arc<WorkQueue<String>> = WorkQueue::new();
    let (own, all) = (queue.clone(), roles.clone());
    roles.on_change(move |_, _| {
        // Any role may be selected by any other; there are few that aggregate.
        for role in all.list().iter().filter(|role| aggregates(role)) {
            own.add(name(role).to_owned());
        }
    });
    let stop = context.stop.clone();
    cirro_client::run("cluster role", queue, 1, stop, move |name| {
        let (context, roles) = (context.clone(), roles.clone());
        async move { reconcile(&context, &roles, &name).await }
    })
    .await;
}

fn aggregates(role: &Value) -> bool {
    role.get("aggregationRule").is_some_and(Value::is_object)
}

async fn reconcile(context: &Context, roles: &Cache, name: &str) -> Result<Next, ApiError> {
    let Some(role) = roles.get("", name).filter(|role| aggregates(role)) else { return Ok(Next::Wait) };
    let rules = aggregated(&role, &roles.list());
    if role["rules"].as_array().is_some_and(|present| *present == rules)
        || rules.is_empty() && role["rules"].is_null()
    {
        return Ok(Next::Wait);
    }
    let key = key_of(&Resource::new("rbac.authorization.k8s.io", "clusterroles"), &role);
    let patch = json!({"metadata": {"resourceVersion": role["metadata"]["resourceVersion"]}, "rules": rules});
    match context.api.merge_patch(&key, false, patch).await {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(Next::Wait),
    }
}

/// Returns the rules of the selected roles, in the order of their names, each once.
fn aggregated(role: &Value, roles: &[Arc<Value>]) -> Vec<Value> {
    let selectors = role.pointer("/aggregationRule/clusterRoleSelectors").and_then(Value::as_array);
    let mut selected: Vec<_> = roles
        .iter()
        .filter(|one| name(one) != name(role))
        .filter(|one| selectors.into_iter().flatten().any(|selector| matches_labels(selector, &labels(one))))
        .collect();
    selected.sort_by_key(|one| name(one));
    let mut rules: Vec<Value> = Vec::new();
    for rule in selected.into_iter().flat_map(|one| one["rules"].as_array()).flatten() {
        if !rules.contains(rule) {
            rules.push(rule.clone());
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_gathered_by_label_in_the_order_of_names() {
        let role = |name: &str, label: &str, verb: &str| {
            Arc::new(
                json!({"metadata": {"name": name, "labels": {(label): "true"}}, "rules": [{"verbs": [verb]}]}),
            )
        };
        let own = json!({"metadata": {"name": "all", "labels": {"a": "true"}}, "rules": [{"verbs": ["old"]}],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "true"}}, {"matchLabels": {"b": "true"}}]}});
        let roles =
            [role("z", "a", "get"), role("c", "b", "list"), role("d", "b", "get"), role("e", "x", "no")];
        let roles: Vec<_> = roles.into_iter().chain([Arc::new(own.clone())]).collect();
        let rules = aggregated(&own, &roles);
        assert_eq!(rules, [json!({"verbs": ["list"]}), json!({"verbs": ["get"]})]);
    }
}
