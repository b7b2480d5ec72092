//! Strategic merge patch: a merge patch that knows which lists are sets of keyed elements.
//!
//! Source: apimachinery `util/strategicpatch/patch.go`; the directives are `$patch`, `$retainKeys`,
//! `$setElementOrder/<list>` and `$deleteFromPrimitiveList/<list>`.

use cirro_seams::api::ApiError;
use serde_json::{Map, Value};

use crate::error;
use crate::schema::{Patch, Shape, types};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Returns `target`, an object of `definition`, with a strategic merge patch merged in.
///
/// # Errors
/// 400 for a patch that contradicts itself or the type.
pub(crate) fn strategic(definition: &str, target: &Value, patch: &Value) -> Result<Value, ApiError> {
    let (Some(target), Some(patch)) = (target.as_object(), patch.as_object()) else {
        return Err(error::bad_request("a strategic merge patch is an object"));
    };
    let shape = types().find(definition).map_or(Shape::Object, Shape::Type);
    merge_objects(&shape, target.clone(), patch).map(Value::Object)
}

/// Returns shape and rule of a member.
fn member_of(shape: &Shape, member: &str) -> (Shape, Patch) {
    match shape {
        Shape::Type(index) => match types().get(*index).field(member) {
            Some(field) => (field.shape.clone(), field.patch.clone()),
            None => (Shape::Any, Patch::default()),
        },
        Shape::Map(values) => ((**values).clone(), Patch::default()),
        _ => (Shape::Any, Patch::default()),
    }
}

fn merge_objects(shape: &Shape, mut target: Object, patch: &Object) -> Result<Object, ApiError> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        Some("replace") => {
            let mut patch = patch.clone();
            patch.remove(DIRECTIVE);
            return Ok(patch);
        }
        Some("delete") => return Ok(Object::new()),
        Some("merge") | None => {}
        Some(other) => return Err(error::bad_request(format!("unknown patch type found: {other}"))),
    }
    retain_keys(&mut target, patch)?;
    for (key, change) in patch {
        if let Some(list) = key.strip_prefix(DELETE_PRIMITIVES) {
            delete_primitives(&mut target, list, change);
        } else if key != DIRECTIVE && key != RETAIN_KEYS && !key.starts_with(ELEMENT_ORDER) {
            merge_member(shape, &mut target, key, change)?;
        }
    }
    for (key, order) in patch {
        if let Some(list) = key.strip_prefix(ELEMENT_ORDER) {
            order_elements(shape, &mut target, list, order);
        }
    }
    Ok(target)
}

fn retain_keys(target: &mut Object, patch: &Object) -> Result<(), ApiError> {
    let Some(keys) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = keys.as_array().ok_or_else(|| error::bad_request("$retainKeys must be a list"))?;
    let kept = |key: &String| keys.iter().any(|one| one.as_str() == Some(key));
    let stray = |key: &&String| !key.starts_with('$') && !kept(key);
    if let Some(key) = patch.iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key).find(stray) {
        return Err(error::bad_request(format!("{key} is in the patch but not in $retainKeys")));
    }
    target.retain(|key, _| kept(key));
    Ok(())
}

fn delete_primitives(target: &mut Object, list: &str, gone: &Value) {
    if let (Some(Value::Array(items)), Some(gone)) = (target.get_mut(list), gone.as_array()) {
        items.retain(|item| !gone.contains(item));
    }
}

fn merge_member(shape: &Shape, target: &mut Object, key: &str, change: &Value) -> Result<(), ApiError> {
    if change.is_null() {
        target.remove(key);
        return Ok(());
    }
    let (inner, rule) = member_of(shape, key);
    let next = match (target.remove(key), change) {
        (Some(Value::Object(present)), Value::Object(change)) => {
            Value::Object(merge_objects(&inner, present, change)?)
        }
        (Some(Value::Array(present)), Value::Array(change)) if rule.merge => {
            Value::Array(merge_lists(&inner, &rule, present, change)?)
        }
        _ => without_directives(change),
    };
    target.insert(key.to_owned(), next);
    Ok(())
}

/// A value that replaces or is new: what the directives in it would say of a value that is not there.
fn without_directives(change: &Value) -> Value {
    match change {
        Value::Object(members) if members.get(DIRECTIVE).is_some_and(|directive| directive == "delete") => {
            Value::Object(Object::new())
        }
        Value::Object(members) => {
            let kept = members.iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
            Value::Object(kept.map(|(key, value)| (key.clone(), without_directives(value))).collect())
        }
        Value::Array(items) => {
            let kept = items.iter().filter(|item| item.get(DIRECTIVE).is_none_or(|it| it == "merge"));
            Value::Array(kept.map(without_directives).collect())
        }
        other => other.clone(),
    }
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE
        || key == RETAIN_KEYS
        || key.starts_with(ELEMENT_ORDER)
        || key.starts_with(DELETE_PRIMITIVES)
}

fn merge_lists(
    shape: &Shape,
    rule: &Patch,
    mut present: Vec<Value>,
    change: &[Value],
) -> Result<Vec<Value>, ApiError> {
    let items = match shape {
        Shape::List(items) => &**items,
        _ => &Shape::Any,
    };
    let Some(key) = rule.key.as_deref() else {
        for item in change {
            if !present.contains(item) {
                present.push(item.clone());
            }
        }
        return Ok(present);
    };
    if change.iter().any(|item| item[DIRECTIVE] == "replace") {
        let others = change.iter().filter(|item| item.get(DIRECTIVE).is_none());
        return Ok(others.map(without_directives).collect());
    }
    for item in change {
        let identity = item.get(key).ok_or_else(|| {
            error::bad_request(format!("map: {item} does not contain declared merge key: {key}"))
        })?;
        let at = present.iter().position(|one| one.get(key) == Some(identity));
        match (item.get(DIRECTIVE).and_then(Value::as_str), at) {
            (Some("delete"), _) => present.retain(|one| one.get(key) != Some(identity)),
            (_, Some(at)) => {
                let (target, item) = (present[at].as_object(), item.as_object());
                if let (Some(target), Some(item)) = (target.cloned(), item) {
                    present[at] = Value::Object(merge_objects(items, target, item)?);
                }
            }
            (_, None) => present.push(without_directives(item)),
        }
    }
    Ok(present)
}

/// Sorts a list as the patch says; elements that only the server has stay where they were relative
/// to each other, before what follows them.
fn order_elements(shape: &Shape, target: &mut Object, list: &str, order: &Value) {
    let (_, rule) = member_of(shape, list);
    let (Some(Value::Array(items)), Some(order)) = (target.get_mut(list), order.as_array()) else { return };
    let key = rule.key.as_deref();
    let identity = |item: &Value| match key {
        Some(key) => item.get(key).cloned().unwrap_or_default(),
        None => item.clone(),
    };
    let place = |item: &Value| order.iter().position(|one| identity(one) == identity(item));
    let server_order = items.clone();
    let (mut ordered, rest): (Vec<_>, Vec<_>) =
        std::mem::take(items).into_iter().partition(|item| place(item).is_some());
    ordered.sort_by_key(|item| place(item));
    let server_place = |item: &Value| server_order.iter().position(|one| one == item);
    let mut rest = rest.into_iter().peekable();
    for item in ordered {
        while let Some(server_only) = rest.next_if(|one| server_place(one) < server_place(&item)) {
            items.push(server_only);
        }
        items.push(item);
    }
    items.extend(rest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(target: Value, patch: Value) -> Value {
        strategic("io.k8s.api.core.v1.Pod", &target, &patch).unwrap()
    }

    fn containers(list: Value) -> Value {
        json!({"spec": {"containers": list}})
    }

    #[test]
    fn keyed_lists_are_merged_and_others_replaced() {
        let target = containers(json!([{"name": "a", "image": "1", "args": ["x"]}, {"name": "b"}]));
        let patch = containers(json!([{"name": "a", "image": "2", "args": ["y"]}, {"name": "c"}]));
        let wanted =
            containers(json!([{"name": "a", "image": "2", "args": ["y"]}, {"name": "b"}, {"name": "c"}]));
        assert_eq!(patched(target, patch), wanted);
    }

    #[test]
    fn elements_are_deleted_and_replaced_by_directive() {
        let target = || containers(json!([{"name": "a", "image": "1"}, {"name": "b"}]));
        let delete = containers(json!([{"name": "a", "$patch": "delete"}]));
        assert_eq!(patched(target(), delete), containers(json!([{"name": "b"}])));
        let replace = containers(json!([{"$patch": "replace"}, {"name": "z"}]));
        assert_eq!(patched(target(), replace), containers(json!([{"name": "z"}])));
        let replace = json!({"spec": {"$patch": "replace", "hostname": "x"}});
        assert_eq!(patched(target(), replace), json!({"spec": {"hostname": "x"}}));
    }

    #[test]
    fn the_order_of_the_patch_holds_and_server_elements_stay() {
        let target = containers(json!([{"name": "server"}, {"name": "a"}, {"name": "b"}]));
        let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}],
            "containers": [{"name": "c"}]}});
        let wanted = json!([{"name": "server"}, {"name": "b"}, {"name": "c"}, {"name": "a"}]);
        assert_eq!(patched(target, patch), containers(wanted));
    }

    #[test]
    fn retained_keys_drop_the_rest() {
        let target = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}});
        let wanted = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}});
        assert_eq!(patched(target, patch), wanted);
    }

    #[test]
    fn lists_of_primitives_are_sets() {
        let target = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"],
            "$setElementOrder/finalizers": ["c", "b"]}});
        assert_eq!(patched(target, patch), json!({"metadata": {"finalizers": ["c", "b"]}}));
    }

    #[test]
    fn nulls_delete_and_maps_merge() {
        let target = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"hostname": "x"}});
        let patch = json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": {"hostname": null, "subdomain": null}});
        assert_eq!(patched(target, patch), json!({"metadata": {"labels": {"b": "2", "c": "3"}}, "spec": {}}));
    }

    #[test]
    fn a_missing_merge_key_is_refused() {
        let patch = containers(json!([{"image": "x"}]));
        let target = containers(json!([{"name": "a"}]));
        assert_eq!(strategic("io.k8s.api.core.v1.Pod", &target, &patch).unwrap_err().code, 400);
    }

    fn list() -> impl Strategy<Value = Value> {
        proptest::collection::btree_map("[a-d]", "[0-3]", 0..4).prop_map(|list| {
            let items = list.iter().map(|(name, image)| json!({"name": name, "image": image}));
            containers(items.collect())
        })
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_is_applied_once(target in list(), patch in list()) {
            let once = patched(target, patch.clone());
            prop_assert_eq!(patched(once.clone(), patch), once);
        }
    }
}
