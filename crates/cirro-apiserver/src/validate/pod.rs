//! Pods and pod templates.
//!
//! Source: `pkg/apis/core/validation/validation.go`.

use std::collections::HashSet;

use serde_json::Value;

use super::names::{self, NameRule};
use super::quantity::Quantity;
use crate::error::Causes;
use crate::json;

pub(crate) mod ephemeral;
pub(crate) mod resize;

const IMMUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a pod spec at `field`.
pub(crate) fn spec(field: &str, spec: &Value, causes: &mut Causes) {
    let volumes = volume_names(field, spec, causes);
    let containers = json::array(spec, "containers");
    if containers.is_empty() {
        causes.required(&format!("{field}.containers"), "");
    }
    let mut seen = HashSet::new();
    let mut host_ports = HashSet::new();
    for list in ["initContainers", "containers"] {
        for (index, one) in json::array(spec, list).iter().enumerate() {
            let field = format!("{field}.{list}[{index}]");
            container(&field, one, &volumes, causes);
            if !seen.insert(json::text(one, "name")) {
                causes.duplicate(&format!("{field}.name"), &one["name"]);
            }
            if list == "containers" {
                ports(&field, one, &mut host_ports, causes);
                resize::policy(&field, one, json::text(spec, "restartPolicy"), causes);
            }
        }
    }
    ephemeral::containers(field, spec, &volumes, &mut seen, causes);
    pod_members(field, spec, causes);
}

fn pod_members(field: &str, spec: &Value, causes: &mut Causes) {
    one_of(field, spec, "restartPolicy", &["Always", "OnFailure", "Never"], causes);
    one_of(field, spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], causes);
    let grace = format!("{field}.terminationGracePeriodSeconds");
    if json::number(spec, "terminationGracePeriodSeconds").is_some_and(|grace| grace < 0) {
        causes.invalid(&grace, &spec["terminationGracePeriodSeconds"], "must be greater than or equal to 0");
    }
    if json::number(spec, "activeDeadlineSeconds").is_some_and(|deadline| deadline < 1) {
        let detail = "must be between 1 and 2147483647, inclusive";
        causes.invalid(&format!("{field}.activeDeadlineSeconds"), &spec["activeDeadlineSeconds"], detail);
    }
    super::labels(&format!("{field}.nodeSelector"), spec.get("nodeSelector"), causes);
    for (member, rule) in [
        ("hostname", NameRule::Label),
        ("subdomain", NameRule::Label),
        ("nodeName", NameRule::Subdomain),
        ("serviceAccountName", NameRule::Subdomain),
    ] {
        let name = json::text(spec, member);
        if !name.is_empty()
            && let Err(why) = rule.check(name)
        {
            causes.invalid(&format!("{field}.{member}"), &name.into(), &why);
        }
    }
}

fn one_of(field: &str, object: &Value, member: &str, supported: &[&str], causes: &mut Causes) {
    let value = json::text(object, member);
    if !value.is_empty() && !supported.contains(&value) {
        causes.unsupported(&format!("{field}.{member}"), &value.into(), supported);
    }
}

fn volume_names<'a>(field: &str, spec: &'a Value, causes: &mut Causes) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (index, volume) in json::array(spec, "volumes").iter().enumerate() {
        let at = format!("{field}.volumes[{index}]");
        let name = json::text(volume, "name");
        if name.is_empty() {
            causes.required(&format!("{at}.name"), "");
        } else if let Err(why) = NameRule::Label.check(name) {
            causes.invalid(&format!("{at}.name"), &name.into(), &why);
        }
        if !seen.insert(name) {
            causes.duplicate(&format!("{at}.name"), &name.into());
        }
        let sources = volume.as_object().map_or(0, |volume| volume.len().saturating_sub(1));
        if sources > 1 {
            causes.forbidden(&at, "may not specify more than 1 volume type");
        }
    }
    seen
}

fn container(field: &str, one: &Value, volumes: &HashSet<&str>, causes: &mut Causes) {
    let name = json::text(one, "name");
    if name.is_empty() {
        causes.required(&format!("{field}.name"), "");
    } else if let Err(why) = NameRule::Label.check(name) {
        causes.invalid(&format!("{field}.name"), &name.into(), &why);
    }
    let image = json::text(one, "image");
    if image.is_empty() {
        causes.required(&format!("{field}.image"), "");
    } else if image.trim() != image {
        causes.invalid(
            &format!("{field}.image"),
            &image.into(),
            "must not have leading or trailing whitespace",
        );
    }
    one_of(field, one, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], causes);
    one_of(field, one, "terminationMessagePolicy", &["File", "FallbackToLogsOnError"], causes);
    environment(field, one, causes);
    mounts(field, one, volumes, causes);
    resources(field, one, causes);
    for member in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(value) = one.get(member) {
            probe(&format!("{field}.{member}"), value, causes);
        }
    }
}

fn environment(field: &str, one: &Value, causes: &mut Causes) {
    for (index, variable) in json::array(one, "env").iter().enumerate() {
        let at = format!("{field}.env[{index}]");
        let name = json::text(variable, "name");
        if name.is_empty() {
            causes.required(&format!("{at}.name"), "");
        } else if let Err(why) = names::env_name(name) {
            causes.invalid(&format!("{at}.name"), &name.into(), &why);
        }
        let Some(source) = json::object(variable, "valueFrom") else { continue };
        if source.is_empty() {
            let detail =
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`";
            causes.invalid(&format!("{at}.valueFrom"), &"".into(), detail);
        } else if !json::text(variable, "value").is_empty() {
            let detail = "may not be specified when `value` is not empty";
            causes.invalid(&format!("{at}.valueFrom"), &"".into(), detail);
        }
    }
}

fn mounts(field: &str, one: &Value, volumes: &HashSet<&str>, causes: &mut Causes) {
    let mut paths = HashSet::new();
    for (index, mount) in json::array(one, "volumeMounts").iter().enumerate() {
        let at = format!("{field}.volumeMounts[{index}]");
        let (name, path) = (json::text(mount, "name"), json::text(mount, "mountPath"));
        if name.is_empty() {
            causes.required(&format!("{at}.name"), "");
        } else if !volumes.contains(name) {
            causes.not_found(&format!("{at}.name"), &name.into());
        }
        if path.is_empty() {
            causes.required(&format!("{at}.mountPath"), "");
        } else if !paths.insert(path) {
            causes.invalid(&format!("{at}.mountPath"), &path.into(), "must be unique");
        }
        let sub = json::text(mount, "subPath");
        if sub.starts_with('/') {
            causes.invalid(&format!("{at}.subPath"), &sub.into(), "must be a relative path");
        } else if sub.split('/').any(|part| part == "..") {
            causes.invalid(&format!("{at}.subPath"), &sub.into(), "must not contain '..'");
        }
    }
}

fn resources(field: &str, one: &Value, causes: &mut Causes) {
    for list in ["limits", "requests"] {
        for (resource, value) in json::object(one, &format!("resources.{list}")).into_iter().flatten() {
            let at = format!("{field}.resources.{list}[{resource}]");
            let quantity =
                value.as_str().map_or_else(|| Quantity::parse(&value.to_string()), Quantity::parse);
            match quantity {
                Err(why) => causes.invalid(&at, value, &why),
                Ok(quantity) if quantity.is_negative() => {
                    causes.invalid(&at, value, "must be greater than or equal to 0");
                }
                Ok(quantity) if list == "requests" => over_limit(&at, one, resource, value, quantity, causes),
                Ok(_) => {}
            }
        }
    }
}

fn over_limit(at: &str, one: &Value, resource: &str, value: &Value, request: Quantity, causes: &mut Causes) {
    let limits = json::object(one, "resources.limits");
    let Some(limit) = limits.and_then(|limits| limits.get(resource)) else { return };
    let text = limit.as_str().map_or_else(|| limit.to_string(), str::to_owned);
    if Quantity::parse(&text).is_ok_and(|limit| request > limit) {
        causes.invalid(at, value, &format!("must be less than or equal to {resource} limit of {text}"));
    }
}

fn ports<'a>(
    field: &str,
    one: &'a Value,
    host_ports: &mut HashSet<(i64, &'a str, &'a str)>,
    causes: &mut Causes,
) {
    let mut seen = HashSet::new();
    for (index, port) in json::array(one, "ports").iter().enumerate() {
        let at = format!("{field}.ports[{index}]");
        let (name, protocol) = (json::text(port, "name"), json::text(port, "protocol"));
        if !name.is_empty() {
            match names::port_name(name) {
                Err(why) => causes.invalid(&format!("{at}.name"), &name.into(), &why),
                Ok(()) if !seen.insert(name) => causes.duplicate(&format!("{at}.name"), &name.into()),
                Ok(()) => {}
            }
        }
        match json::number(port, "containerPort") {
            None | Some(0) => causes.required(&format!("{at}.containerPort"), ""),
            Some(number) => {
                if let Err(why) = names::port(number) {
                    causes.invalid(&format!("{at}.containerPort"), &number.into(), &why);
                }
            }
        }
        if let Some(number) = json::number(port, "hostPort").filter(|number| *number != 0) {
            if let Err(why) = names::port(number) {
                causes.invalid(&format!("{at}.hostPort"), &number.into(), &why);
            }
            if !host_ports.insert((number, protocol, json::text(port, "hostIP"))) {
                causes.duplicate(&format!("{at}.hostPort"), &format!("{number}/{protocol}").into());
            }
        }
        one_of(&at, port, "protocol", &["SCTP", "TCP", "UDP"], causes);
    }
}

fn probe(field: &str, probe: &Value, causes: &mut Causes) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"];
    match handlers.iter().filter(|handler| probe.get(**handler).is_some()).count() {
        0 => causes.required(field, "must specify a handler type"),
        1 => {}
        _ => causes.forbidden(field, "may not specify more than 1 handler type"),
    }
    for member in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if let Some(value) = json::number(probe, member).filter(|value| *value < 0) {
            let detail = "must be greater than or equal to 0";
            causes.invalid(&format!("{field}.{member}"), &value.into(), detail);
        }
    }
    if !field.ends_with("readinessProbe")
        && json::number(probe, "successThreshold").is_some_and(|value| value != 1)
    {
        causes.invalid(&format!("{field}.successThreshold"), &probe["successThreshold"], "must be 1");
    }
    for handler in ["httpGet", "tcpSocket"] {
        let Some(port) = probe.get(handler).map(|handler| &handler["port"]) else { continue };
        let fault = match port {
            Value::Number(number) => names::port(number.as_i64().unwrap_or(0)).err(),
            Value::String(name) => names::port_name(name).err(),
            _ => Some("must be a number or a name".into()),
        };
        if let Some(why) = fault {
            causes.invalid(&format!("{field}.{handler}.port"), port, &why);
        }
    }
}

/// Refuses changes of a pod's spec beyond the few that are let through.
pub(crate) fn update(pod: &Value, old: &Value, causes: &mut Causes) {
    let (new_spec, old_spec) = (&pod["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if json::array(new_spec, list).len() != json::array(old_spec, list).len() {
            causes.forbidden(&format!("spec.{list}"), "pod updates may not add or remove containers");
            return;
        }
    }
    let kept = json::array(old_spec, "tolerations")
        .iter()
        .all(|old| json::array(new_spec, "tolerations").contains(old));
    if !kept {
        causes.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    let mut candidate = new_spec.clone();
    for list in ["containers", "initContainers"] {
        let olds = json::array(old_spec, list);
        for (one, old) in json::elements_mut(&mut candidate, list).zip(olds) {
            one["image"] = old["image"].clone();
        }
    }
    for member in ["tolerations", "activeDeadlineSeconds", "schedulingGates"] {
        match old_spec.get(member) {
            Some(value) => candidate[member] = value.clone(),
            None => {
                candidate.as_object_mut().map(|spec| spec.remove(member));
            }
        }
    }
    if candidate != *old_spec {
        causes.forbidden("spec", &format!("{IMMUTABLE}\n{}", differing(&candidate, old_spec).join(", ")));
    }
}

fn differing<'a>(new: &'a Value, old: &'a Value) -> Vec<&'a str> {
    let keys = |value: &'a Value| value.as_object().into_iter().flat_map(|object| object.keys());
    let mut keys: Vec<_> =
        keys(new).chain(keys(old)).filter(|key| new.get(key) != old.get(key)).map(String::as_str).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}
