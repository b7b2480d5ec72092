use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::error::Causes;

fn schema() -> Value {
    json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1, "maximum": 5},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "port": {"x-kubernetes-int-or-string": true},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
            "nested": {"type": "object", "default": {}, "properties": {"deep": {"type": "boolean", "default": true}}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "n": {"type": "integer", "default": 1}}}}}}}})
}

fn faults(schema: &Value, object: &Value) -> Causes {
    let mut causes = Causes::default();
    validate(schema, object, None, &mut causes);
    causes
}

fn told(object: Value) -> String {
    format!("{:?}", faults(&schema(), &object))
}

#[test]
fn what_the_schema_does_not_name_is_taken_out() {
    let mut object = json!({"kind": "X", "metadata": {"name": "x", "foo": 1}, "other": 1, "spec": {"size": 1, "x": 1,
        "free": {"any": {"thing": 1}}, "labels": {"a": "b"}, "items": [{"name": "a", "z": 1}]}});
    let gone = prune(&schema(), &mut object);
    assert_eq!(gone, ["other", "spec.items[0].z", "spec.x"]);
    assert_eq!(object["spec"]["free"]["any"]["thing"], 1);
    assert_eq!(object["metadata"]["foo"], 1);
}

#[test]
fn defaults_go_in_below_defaults() {
    let mut object = json!({"spec": {"size": 1, "color": null, "items": [{"name": "a"}]}});
    fill(&schema(), &mut object);
    let spec = &object["spec"];
    assert_eq!(
        (&spec["color"], &spec["nested"]["deep"], &spec["items"][0]["n"]),
        (&json!("red"), &json!(true), &json!(1))
    );
}

#[test]
fn faults_are_told_in_upstreams_words() {
    assert_eq!(told(json!({"spec": {"size": 1, "port": "http"}})), "Causes([])");
    for (spec, wanted) in [
        (json!({}), "spec.size"),
        (json!({"size": "x"}), "spec.size in body must be of type integer"),
        (json!({"size": 6}), "spec.size in body should be less than or equal to 5"),
        (json!({"size": 1, "color": "green"}), "supported values: \\\"red\\\", \\\"blue\\\""),
        (json!({"size": 1, "name": "A"}), "spec.name in body should match '^[a-z]+$'"),
        (json!({"size": 1, "port": true}), "must be of type integer,string"),
        (json!({"size": 1, "items": [{"name": "a"}, {"name": "a"}]}), "Duplicate value"),
    ] {
        let text = told(json!({"spec": spec}));
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

#[test]
fn junctions_choose() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}});
    assert!(faults(&schema, &json!({"a": 1})).is_empty());
    for bad in [json!({}), json!({"a": 1, "b": 1}), json!({"a": 1, "c": 1})] {
        assert!(!faults(&schema, &bad).is_empty(), "{bad}");
    }
}

#[test]
fn schemas_are_structural() {
    let told = |schema: Value| {
        let mut causes = Causes::default();
        check("s", &schema, &mut causes);
        format!("{causes:?}")
    };
    assert_eq!(told(schema()), "Causes([])");
    for (schema, wanted) in [
        (json!({}), "must not be empty at the root"),
        (json!({"type": "object", "properties": {"a": {}}}), "must not be empty for specified object fields"),
        (json!({"type": "object", "anyOf": [{"type": "object"}]}), "must be empty to be structural"),
        (json!({"type": "object", "properties": {"a": {"type": "array"}}}), "s.properties[a].items"),
        (json!({"type": "object", "properties": {"a": {"$ref": "#/x"}}}), "$ref is not supported"),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {}}}}}),
            "must not specify anything other than name and generateName",
        ),
    ] {
        let text = told(schema);
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("spec|size|color|nested|items|name|labels", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn nothing_panics_and_twice_is_once(object in any_value()) {
        let mut once = object;
        prune(&schema(), &mut once);
        fill(&schema(), &mut once);
        let mut twice = once.clone();
        prop_assert!(prune(&schema(), &mut twice).is_empty());
        fill(&schema(), &mut twice);
        prop_assert_eq!(&twice, &once);
        faults(&schema(), &once);
    }
}

#[test]
fn what_did_not_change_may_stay_wrong() {
    let old = json!({"spec": {"size": 9, "name": "TOO-LONG", "items": [{"name": "a", "n": "x"}]}});
    let told = |new: &Value| {
        let mut causes = Causes::default();
        validate(&schema(), new, Some(&old), &mut causes);
        format!("{causes:?}")
    };
    let mut new = old.clone();
    new["spec"]["color"] = "red".into();
    new["spec"]["items"] = json!([{"name": "b", "n": 1}, {"name": "a", "n": "x"}]);
    assert_eq!(told(&new), "Causes([])");
    new["spec"]["size"] = 8.into();
    new["spec"]["items"][0]["n"] = "y".into();
    let text = told(&new);
    assert!(
        text.contains("spec.size") && text.contains("spec.items[0].n") && !text.contains("items[1]"),
        "{text}"
    );
}
