use proptest::prelude::*;

use super::*;

fn kind(group: &str, plural: &str) -> std::sync::Arc<Kind> {
    crate::kinds::registry().kind(group, plural).unwrap().clone()
}

fn deployment(containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": containers}}}})
}

fn apply(live: &Value, config: &Value, manager: &str) -> Result<Value, ApiError> {
    applied(&kind("apps", "deployments"), Target::Object, live, config, manager, false)
}

fn fields(object: &Value, manager: &str) -> Value {
    let entries = json::array(object, "metadata.managedFields");
    entries
        .iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

#[test]
fn an_applied_configuration_is_owned_by_its_keys() {
    let config = deployment(json!([{"name": "a", "image": "1", "ports": [{"containerPort": 80}]}]));
    let object = apply(&json!({"metadata": {}}), &config, "me").unwrap();
    let containers = &fields(&object, "me")["f:spec"]["f:template"]["f:spec"]["f:containers"];
    let container = &containers["k:{\"name\":\"a\"}"];
    assert_eq!(container["."], json!({}));
    assert_eq!(container["f:image"], json!({}));
    let port = &container["f:ports"]["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"];
    assert_eq!(port["f:containerPort"], json!({}));
    assert_eq!(fields(&object, "me")["f:metadata"], Value::Null);
}

#[test]
fn what_a_manager_says_no_more_is_removed_unless_others_own_it() {
    let two = deployment(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]));
    let mut live = apply(&json!({"metadata": {}}), &two, "me").unwrap();
    // Defaults are nobody's and go with their container.
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = "Always".into();
    let one = deployment(json!([{"name": "a", "image": "1"}]));
    let left = apply(&live, &one, "me").unwrap();
    assert_eq!(left["spec"], one["spec"]);
    let shared = apply(&live, &two, "other").unwrap();
    let kept = apply(&shared, &one, "me").unwrap();
    assert_eq!(json::array(&kept, "spec.template.spec.containers").len(), 2);
}

#[test]
fn another_owners_value_is_a_conflict_with_its_path() {
    let live =
        apply(&json!({"metadata": {}}), &deployment(json!([{"name": "a", "image": "1"}])), "me").unwrap();
    let other = deployment(json!([{"name": "a", "image": "2"}]));
    let refusal = apply(&live, &other, "you").unwrap_err();
    assert_eq!(refusal.code, 409);
    let path = ".spec.template.spec.containers[name=\"a\"].image";
    assert_eq!(refusal.message, format!("Apply failed with 1 conflict: conflict with \"me\": {path}"));
    assert_eq!(refusal.details.unwrap()["causes"][0]["field"], path);
    let forced = applied(&kind("apps", "deployments"), Target::Object, &live, &other, "you", true).unwrap();
    assert_eq!(forced["spec"]["template"]["spec"]["containers"][0]["image"], "2");
    assert!(!fields(&forced, "me").to_string().contains("f:image"));
    // The same value is no conflict: it is owned by both.
    assert!(apply(&live, &deployment(json!([{"name": "a", "image": "1"}])), "you").is_ok());
}

#[test]
fn an_update_takes_what_it_changes() {
    let kind = kind("", "configmaps");
    let config = json!({"metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}});
    let old = applied(&kind, Target::Object, &json!({"metadata": {}}), &config, "me", false).unwrap();
    let mut new = old.clone();
    new["data"] = json!({"a": "2", "c": "1"});
    updated(&kind, Target::Object, &mut new, &old);
    assert_eq!(fields(&new, "me"), Value::Null);
    assert_eq!(fields(&new, OWN_MANAGER)["f:data"], json!({"f:a": {}, "f:c": {}}));
    let refusal = applied(&kind, Target::Object, &new, &config, "me", false).unwrap_err();
    assert_eq!(refusal.message, "Apply failed with 1 conflict: conflict with \"cirro\" using v1: .data.a");
}

#[test]
fn a_creator_owns_all_but_the_servers_members() {
    let kind = kind("", "configmaps");
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1"},
        "metadata": {"name": "c", "uid": "u", "labels": {"x": "y"}}});
    created(&kind, &mut object);
    let wanted = json!({"f:data": {".": {}, "f:a": {}}, "f:metadata": {"f:labels": {".": {}, "f:x": {}}}});
    assert_eq!(fields(&object, OWN_MANAGER), wanted);
}

#[test]
fn old_managers_of_updates_are_merged() {
    let kind = kind("", "configmaps");
    let mut object = json!({"metadata": {"name": "c"}, "data": {}});
    for number in 0..14 {
        let old = object.clone();
        object["data"][format!("k{number}")] = "v".into();
        let mut entries = read(&object).unwrap();
        let mut own = entry(&kind, Target::Object, format!("m{number}"), false);
        own.fields = walk::compare(&shape_of(&kind), &old, &object).changed();
        entries.push(own);
        cap(&mut entries);
        write(&mut object, entries);
    }
    assert_eq!(json::array(&object, "metadata.managedFields").len(), MAX_UPDATE_MANAGERS);
    assert!(fields(&object, "ancient-changes").to_string().contains("f:k0"));
}

fn data() -> impl Strategy<Value = Value> {
    proptest::collection::btree_map("[a-d]", "[0-2]", 0..4)
        .prop_map(|data| json!({"metadata": {"name": "c"}, "data": data}))
}

proptest! {
    #[test]
    fn sets_read_as_they_were_written(object in data()) {
        let set = walk::owned(&shape_of(&kind("", "configmaps")), &object);
        prop_assert_eq!(Set::read(&set.clone().into_value()).unwrap(), set);
    }

    /// One manager alone: the object is what it said last.
    #[test]
    fn alone_the_last_word_holds(configs in proptest::collection::vec(data(), 1..5)) {
        let kind = kind("", "configmaps");
        let mut live = json!({"metadata": {}});
        for config in &configs {
            live = applied(&kind, Target::Object, &live, config, "me", false).unwrap();
        }
        let keys = |object: &Value| json::object(object, "data").cloned().unwrap_or_default();
        prop_assert_eq!(keys(&live), keys(configs.last().unwrap()));
    }

    /// Several managers, forced: each key has the value of the last one that named it, if that one or another
    /// that named the same value still names it.
    #[test]
    fn together_each_key_is_the_last_words(configs in proptest::collection::vec((0..3usize, data()), 1..8)) {
        let kind = kind("", "configmaps");
        let mut live = json!({"metadata": {}});
        // The model: value and owners of each key.
        let mut model = std::collections::BTreeMap::<String, (String, std::collections::BTreeSet<usize>)>::new();
        for (manager, config) in &configs {
            let wanted = json::object(config, "data").cloned().unwrap_or_default();
            live = applied(&kind, Target::Object, &live, config, &format!("m{manager}"), true).unwrap();
            model.retain(|key, (_, owners)| {
                if !wanted.contains_key(key) {
                    owners.remove(manager);
                }
                !owners.is_empty()
            });
            for (key, value) in &wanted {
                let value = value.as_str().unwrap().to_owned();
                let (present, owners) = model.entry(key.clone()).or_default();
                if *present != value {
                    owners.clear();
                    *present = value;
                }
                owners.insert(*manager);
            }
        }
        let live: std::collections::BTreeMap<_, _> =
            json::object(&live, "data").into_iter().flatten().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned())).collect();
        let model: std::collections::BTreeMap<_, _> = model.into_iter().map(|(key, (value, _))| (key, value)).collect();
        prop_assert_eq!(live, model);
    }

    #[test]
    fn an_apply_repeated_changes_nothing(config in data(), other in data()) {
        let kind = kind("", "configmaps");
        let base = applied(&kind, Target::Object, &json!({"metadata": {}}), &other, "other", true).unwrap();
        let once = applied(&kind, Target::Object, &base, &config, "me", true).unwrap();
        prop_assert_eq!(applied(&kind, Target::Object, &once, &config, "me", true).unwrap(), once);
    }
}
