//! The default policy: made at the first start, completed at every later one.
//!
//! What people took out of the default roles and bindings comes back at the next start, unless they
//! annotated the object with `rbac.authorization.kubernetes.io/autoupdate: "false"`, as upstream.

use cirro_seams::api::ApiError;
use serde::Deserialize as _;
use serde_json::{Value, json};

use super::{GROUP, Rule, escalation};
use crate::json;
use crate::storage::{Place, Storage, Target};

const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
static POLICY: &str = include_str!("policy.txt");

/// One object of the default policy.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) plural: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) object: Value,
}

/// Writes the default policy into a store, or completes what is there.
///
/// # Errors
/// When the store fails.
pub(crate) async fn reconcile(storage: &Storage) -> Result<(), ApiError> {
    let mut absent = Vec::new();
    for wanted in defaults() {
        let kind = storage.registry.kind(GROUP, wanted.plural).expect("RBAC is built in");
        let place = Place { kind, namespace: wanted.namespace, name: json::name(&wanted.object) };
        match storage.get(place).await {
            Ok(present) => complete(storage, place, &present, &wanted.object).await?,
            Err(refusal) if refusal.is_not_found() => absent.push(wanted),
            Err(refusal) => return Err(refusal),
        }
    }
    let absent = absent.into_iter().map(|wanted| {
        let kind = storage.registry.kind(GROUP, wanted.plural).expect("RBAC is built in");
        (kind.clone(), wanted.namespace.to_owned(), wanted.object)
    });
    storage.create_many(absent.collect()).await
}

async fn complete(
    storage: &Storage,
    place: Place<'_>,
    present: &Value,
    wanted: &Value,
) -> Result<(), ApiError> {
    if present["metadata"]["annotations"][AUTO_UPDATE] != "true" {
        return Ok(());
    }
    if wanted.get("roleRef").is_some() && present["roleRef"] != wanted["roleRef"] {
        // A binding's role is fixed: the binding is made anew.
        storage.delete(place, &Default::default(), false).await?;
        return storage.create(place.kind, place.namespace, wanted.clone(), false).await.map(drop);
    }
    let change = |old: &Value| Ok(completed(old, wanted));
    if completed(present, wanted) != *present {
        storage.modify(place, Target::Object, false, change).await?;
    }
    Ok(())
}

/// Returns an object with what it lacks of the default.
fn completed(present: &Value, wanted: &Value) -> Value {
    let mut next = present.clone();
    for member in ["labels", "annotations"] {
        let members = json::object_mut(&mut next["metadata"], member);
        for (key, value) in wanted["metadata"][member].as_object().into_iter().flatten() {
            members.entry(key).or_insert_with(|| value.clone());
        }
    }
    let rules = |object: &Value| Vec::<Rule>::deserialize(&object["rules"]).unwrap_or_default();
    if wanted.get("aggregationRule").is_some() {
        next["aggregationRule"] = wanted["aggregationRule"].clone();
    } else if wanted.get("rules").is_some() {
        let held = rules(present);
        let missing = escalation::not_held(&held.iter().collect::<Vec<_>>(), &rules(wanted));
        let missing = super::rule::compacted(missing).into_iter().map(|rule| json!(rule));
        let mut all = json::array(present, "rules").to_vec();
        all.extend(missing);
        next["rules"] = all.into();
    }
    let mut subjects = json::array(present, "subjects").to_vec();
    for subject in json::array(wanted, "subjects") {
        if !subjects.contains(subject) {
            subjects.push(subject.clone());
        }
    }
    if !subjects.is_empty() {
        next["subjects"] = subjects.into();
    }
    next
}

/// Reads the default policy.
pub(crate) fn defaults() -> Vec<Entry> {
    let mut objects: Vec<Entry> = Vec::new();
    for line in POLICY.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let words: Vec<&'static str> = line.split(' ').collect();
        match words.as_slice() {
            ["role", name] => objects.push(role("clusterroles", "", name)),
            ["namespaced-role", namespace, name] => objects.push(role("roles", namespace, name)),
            ["controller", name] => {
                let full = format!("system:controller:{name}");
                objects.push(binding("", &full, &full, &[&format!("account:kube-system/{name}")]));
                objects.push(role("clusterroles", "", &full));
            }
            ["aggregated-by", suffix] => {
                let label = aggregation_label(suffix);
                let selectors = json!([{"matchLabels": {(label): "true"}}]);
                last(&mut objects)["aggregationRule"] = json!({"clusterRoleSelectors": selectors});
            }
            ["aggregates-to", suffix] => {
                last(&mut objects)["metadata"]["labels"][aggregation_label(suffix)] = "true".into();
            }
            ["bind", role, subjects @ ..] => objects.push(binding("", role, role, subjects)),
            ["bind-in", namespace, name, role, subjects @ ..] => {
                objects.push(binding(namespace, name, role, subjects));
            }
            _ => {
                let rules = &mut last(&mut objects)["rules"];
                rules.as_array_mut().expect("a role begins with none").push(json!(read_rule(line)));
            }
        }
    }
    objects
}

fn aggregation_label(suffix: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{suffix}")
}

fn last(objects: &mut [Entry]) -> &mut Value {
    &mut objects.last_mut().expect("the file begins with a role").object
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {(AUTO_UPDATE): "true"}})
}

fn role(plural: &'static str, namespace: &'static str, name: &str) -> Entry {
    Entry { plural, namespace, object: json!({"metadata": metadata(name), "rules": []}) }
}

fn binding(namespace: &'static str, name: &str, role: &str, subjects: &[&str]) -> Entry {
    let subjects: Vec<_> = subjects
        .iter()
        .map(|subject| match subject.split_once(':').expect("the file is built in") {
            ("account", place) => {
                let (namespace, name) = place.split_once('/').expect("the file is built in");
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
            ("user", name) => json!({"kind": "User", "apiGroup": GROUP, "name": name}),
            (_, name) => json!({"kind": "Group", "apiGroup": GROUP, "name": name}),
        })
        .collect();
    let (plural, kind) =
        if namespace.is_empty() { ("clusterrolebindings", "ClusterRole") } else { ("rolebindings", "Role") };
    let mut object =
        json!({"metadata": metadata(name), "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role}});
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Entry { plural, namespace, object }
}

fn read_rule(line: &str) -> Rule {
    let words = |text: &str| -> Vec<String> {
        text.split_whitespace()
            .flat_map(|word| match word {
                "@read" => vec!["get", "list", "watch"],
                "@write" => vec!["create", "delete", "deletecollection", "patch", "update"],
                "core" => vec![""],
                other => vec![other],
            })
            .map(str::to_owned)
            .collect()
    };
    let (is_url, line) = match line.strip_prefix("url ") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let parts: Vec<_> = line.split('|').map(words).collect();
    let part = |index: usize| parts.get(index).cloned().unwrap_or_default();
    let verbs = part(0);
    if is_url {
        return Rule { verbs, non_resource_urls: part(1), ..Rule::default() };
    }
    Rule { verbs, api_groups: part(1), resources: part(2), resource_names: part(3), ..Rule::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_read_whole() {
        let objects = defaults();
        let find = |plural: &str, name: &str| {
            let mut found =
                objects.iter().filter(|one| one.plural == plural && json::name(&one.object) == name);
            let one = &found.next().unwrap_or_else(|| panic!("no {plural} {name}")).object;
            assert!(found.next().is_none(), "two {plural} {name}");
            one
        };
        let edit = find("clusterroles", "edit");
        assert_eq!(edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"], "true");
        let selector = &edit["aggregationRule"]["clusterRoleSelectors"][0]["matchLabels"];
        assert_eq!(selector["rbac.authorization.k8s.io/aggregate-to-edit"], "true");
        let view = find("clusterroles", "system:aggregate-to-view");
        assert_eq!(view["rules"][0]["verbs"], json!(["get", "list", "watch"]));
        assert_eq!(view["rules"][0]["apiGroups"], json!([""]));
        assert!(!view.to_string().contains("secrets"));
        let bound = find("clusterrolebindings", "system:controller:job-controller");
        assert_eq!(bound["subjects"][0]["namespace"], "kube-system");
        assert!(find("clusterrolebindings", "system:node").get("subjects").is_none());
        assert_eq!(find("clusterroles", "cluster-admin")["rules"][1]["nonResourceURLs"], json!(["*"]));
        for one in objects.iter().filter(|one| one.plural.ends_with("roles")) {
            for rule in json::array(&one.object, "rules") {
                let rule = Rule::deserialize(rule).unwrap();
                assert!(!rule.atoms().is_empty(), "{} grants nothing by {rule:?}", one.object);
            }
        }
    }

    #[test]
    fn what_was_taken_out_comes_back_and_what_was_added_stays() {
        let wanted = role("clusterroles", "", "x").object;
        let rule = |verb: &str| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]});
        let wanted = json!({"metadata": wanted["metadata"], "rules": [rule("get"), rule("list")]});
        let present = json!({"metadata": {"name": "x", "labels": {"mine": "1"}}, "rules": [rule("get"), rule("watch")]});
        let next = completed(&present, &wanted);
        assert_eq!(next["rules"], json!([rule("get"), rule("watch"), rule("list")]));
        assert_eq!(next["metadata"]["labels"]["mine"], "1");
        assert_eq!(completed(&next, &wanted), next);
    }
}
