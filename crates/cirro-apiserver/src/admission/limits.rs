//! LimitRange admission: what containers get that did not say, and what they may not exceed.
//!
//! Source: `plugin/pkg/admission/limitranger/admission.go`.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::error;
use crate::json;
use crate::kinds::quality_of_service;
use crate::registry::Kind;
use crate::storage::{ListOptions, Storage};
use crate::validate::quantity::Quantity;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

/// Returns the limit ranges of a namespace.
async fn ranges(storage: &Storage, namespace: &str) -> Result<Vec<Arc<Value>>, ApiError> {
    let kind = storage.registry.kind("", "limitranges").expect("it is built in");
    let page = storage.list(kind, Some(namespace), &ListOptions::default()).await?;
    page.records.iter().map(|record| storage.decoded.decode(record)).collect()
}

/// Gives a new pod's containers the defaults of the namespace, then checks the pod against its limits.
pub(super) async fn admit(
    storage: &Storage,
    kind: &Kind,
    namespace: &str,
    object: &mut Value,
) -> Result<(), ApiError> {
    let ranges = ranges(storage, namespace).await?;
    if ranges.is_empty() {
        return Ok(());
    }
    if kind.plural == "pods" {
        let limits = ranges.iter().flat_map(|range| json::array(range, "spec.limits"));
        for limit in limits.filter(|limit| json::text(limit, "type") == "Container") {
            set_defaults(object, limit);
        }
        // The class follows from requests and limits, which may be new.
        object["status"]["qosClass"] = quality_of_service(&object["spec"]).into();
    }
    refuse_excess(kind, &ranges, object)
}

/// Checks an object that exists against the limits of its namespace.
pub(super) async fn allow(
    storage: &Storage,
    kind: &Kind,
    namespace: &str,
    object: &Value,
) -> Result<(), ApiError> {
    refuse_excess(kind, &ranges(storage, namespace).await?, object)
}

fn refuse_excess(kind: &Kind, ranges: &[Arc<Value>], object: &Value) -> Result<(), ApiError> {
    let mut faults = Vec::new();
    for limit in ranges.iter().flat_map(|range| json::array(range, "spec.limits")) {
        check(limit, object, kind.plural == "pods", &mut faults);
    }
    let what = match faults.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    };
    Err(error::forbidden(kind, json::name(object), &what))
}

fn set_defaults(pod: &mut Value, limit: &Value) {
    let mut notes = Vec::new();
    for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
        for container in json::elements_mut(&mut pod["spec"], list) {
            let name = json::text(container, "name").to_owned();
            for (from, to, of) in [("defaultRequest", "requests", "request"), ("default", "limits", "limit")]
            {
                let set = merge(container, to, json::object(limit, from));
                if !set.is_empty() {
                    notes.push(format!("{} {of} for {what} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        json::object_mut(&mut pod["metadata"], "annotations").insert(ANNOTATION.into(), text.into());
    }
}

fn merge(container: &mut Value, to: &str, defaults: Option<&serde_json::Map<String, Value>>) -> Vec<String> {
    let mut set = Vec::new();
    for (resource, value) in defaults.into_iter().flatten() {
        json::object_mut(container, "resources");
        let target = json::object_mut(&mut container["resources"], to);
        if !target.contains_key(resource) {
            target.insert(resource.clone(), value.clone());
            set.push(resource.clone());
        }
    }
    set
}

/// Amounts by resource.
type Amounts = BTreeMap<String, Quantity>;

fn read(map: &Value) -> Amounts {
    let entries = map.as_object().into_iter().flatten();
    let read =
        |value: &Value| Quantity::parse(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    entries.filter_map(|(resource, value)| Some((resource.clone(), read(value).ok()?))).collect()
}

fn check(limit: &Value, object: &Value, is_pod: bool, faults: &mut Vec<String>) {
    let kind = json::text(limit, "type");
    let containers = ["containers", "initContainers"].map(|list| json::array(&object["spec"], list));
    match kind {
        "Container" if is_pod => {
            for container in containers.into_iter().flatten() {
                let [requests, limits] =
                    ["requests", "limits"].map(|member| read(&container["resources"][member]));
                compare(kind, limit, &requests, &limits, faults);
            }
        }
        "Pod" if is_pod => {
            let [requests, limits] = ["requests", "limits"].map(|member| of_pod(object, member));
            compare(kind, limit, &requests, &limits, faults);
        }
        "PersistentVolumeClaim" if !is_pod => {
            let requests = read(&object["spec"]["resources"]["requests"]);
            compare_one("maximum storage", kind, limit, "max", &requests, faults, |asked, hard| asked > hard);
            compare_one("minimum storage", kind, limit, "min", &requests, faults, |asked, hard| asked < hard);
        }
        _ => {}
    }
}

/// The sum over containers, or the largest of what runs before them if that is more.
pub(super) fn of_pod(pod: &Value, member: &str) -> Amounts {
    let mut sum = Amounts::new();
    let mut before = Amounts::new();
    let mut beside = Amounts::new();
    let add = |to: &mut Amounts, more: Amounts| {
        for (resource, amount) in more {
            let entry = to.entry(resource).or_insert(Quantity::ZERO);
            *entry = entry.plus(amount);
        }
    };
    for container in json::array(&pod["spec"], "containers") {
        add(&mut sum, read(&container["resources"][member]));
    }
    for container in json::array(&pod["spec"], "initContainers") {
        let own = read(&container["resources"][member]);
        let mut now = beside.clone();
        add(&mut now, own.clone());
        // One that keeps running is there beside all that come after it.
        if container["restartPolicy"] == "Always" {
            add(&mut beside, own);
        }
        for (resource, amount) in now {
            let most = before.entry(resource).or_insert(amount);
            *most = (*most).max(amount);
        }
    }
    add(&mut sum, beside);
    for (resource, amount) in before {
        let most = sum.entry(resource).or_insert(amount);
        *most = (*most).max(amount);
    }
    let overhead = read(&pod["spec"]["overhead"]);
    for (resource, amount) in overhead {
        // Limits that are not set stay without an end.
        if member == "requests" || sum.contains_key(&resource) {
            let entry = sum.entry(resource).or_insert(Quantity::ZERO);
            *entry = entry.plus(amount);
        }
    }
    sum
}

fn compare_one(
    what: &str,
    kind: &str,
    limit: &Value,
    member: &str,
    asked: &Amounts,
    faults: &mut Vec<String>,
    beyond: impl Fn(&Quantity, &Quantity) -> bool,
) {
    let (hard, Some(given)) = (read(&limit[member]), asked.get("storage")) else { return };
    if let Some(hard) = hard.get("storage").filter(|hard| beyond(given, hard)) {
        let [hard, given] = [hard, given].map(|quantity| quantity.written(true));
        faults.push(format!("{what} usage per {kind} is {hard}, but request is {given}"));
    }
}

fn compare(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
    let text = |quantity: &Quantity, resource: &str| quantity.written(resource != "cpu");
    for (resource, min) in read(&limit["min"]) {
        let head = format!("minimum {resource} usage per {kind} is {}", text(&min, &resource));
        match requests.get(&resource) {
            None => faults.push(format!("{head}.  No request is specified")),
            Some(request) if *request < min => {
                faults.push(format!("{head}, but request is {}", text(request, &resource)));
            }
            Some(_) => {}
        }
        if let Some(given) = limits.get(&resource).filter(|given| **given < min) {
            faults.push(format!("{head}, but limit is {}", text(given, &resource)));
        }
    }
    for (resource, max) in read(&limit["max"]) {
        let head = format!("maximum {resource} usage per {kind} is {}", text(&max, &resource));
        match limits.get(&resource) {
            None => faults.push(format!("{head}.  No limit is specified")),
            Some(given) if *given > max => {
                faults.push(format!("{head}, but limit is {}", text(given, &resource)));
            }
            Some(_) => {}
        }
        if let Some(request) = requests.get(&resource).filter(|request| **request > max) {
            faults.push(format!("{head}, but request is {}", text(request, &resource)));
        }
    }
    for (resource, ratio) in read(&limit["maxLimitRequestRatio"]) {
        let head = format!("{resource} max limit to request ratio per {kind} is {}", text(&ratio, &resource));
        let some =
            |amounts: &Amounts| amounts.get(&resource).copied().filter(|amount| *amount != Quantity::ZERO);
        match (some(requests), some(limits)) {
            (None, _) => faults.push(format!("{head}, but no request is specified or request is 0")),
            (_, None) => faults.push(format!("{head}, but no limit is specified or limit is 0")),
            (Some(request), Some(given)) => {
                let observed = given.ratio(request);
                if observed > ratio.ratio(Quantity::from_units(1)) {
                    faults.push(format!("{head}, but provided ratio is {observed:.6}"));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(limit: Value, resources: Value) -> Vec<String> {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}});
        let mut faults = Vec::new();
        check(&limit, &pod, true, &mut faults);
        faults
    }

    #[test]
    fn faults_are_told_as_upstream() {
        let limit = json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}});
        assert_eq!(
            faults(limit.clone(), json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "2"}})),
            [
                "minimum cpu usage per Container is 100m, but request is 50m",
                "maximum cpu usage per Container is 1, but limit is 2"
            ]
        );
        assert_eq!(faults(limit, json!({})).len(), 2);
        let ratio = json!({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}});
        let given = json!({"requests": {"memory": "1Mi"}, "limits": {"memory": "3Mi"}});
        assert!(faults(ratio, given)[0].ends_with("but provided ratio is 3.000000"));
    }

    #[test]
    fn defaults_fill_what_is_missing_and_are_noted() {
        let mut pod = json!({"metadata": {}, "spec": {"containers": [
            {"name": "a"}, {"name": "b", "resources": {"limits": {"cpu": "3"}}}]}});
        set_defaults(&mut pod, &json!({"default": {"cpu": "2"}, "defaultRequest": {"cpu": "1"}}));
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}})
        );
        assert_eq!(pod["spec"]["containers"][1]["resources"]["limits"]["cpu"], "3");
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a; cpu request for container b"
        );
    }

    #[test]
    fn a_pod_needs_its_containers_or_the_largest_before_them() {
        let cpu = |amount: &str| json!({"requests": {"cpu": amount}});
        let pod = json!({"spec": {
            "containers": [{"resources": cpu("1")}, {"resources": cpu("500m")}],
            "initContainers": [{"resources": cpu("200m"), "restartPolicy": "Always"}, {"resources": cpu("2")}]}});
        assert_eq!(of_pod(&pod, "requests")["cpu"], Quantity::parse("2200m").unwrap());
    }
}
