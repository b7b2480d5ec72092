//! core/v1 PersistentVolume and PersistentVolumeClaim.
//!
//! Source: `pkg/apis/core/v1/defaults.go`, `pkg/apis/core/validation/validation.go`.

use serde_json::{Value, json};

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::storage as columns;
use crate::validate::fields::{one_of, quantity};
use crate::validate::{NameRule, selector};

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// Members of a volume's spec that are no source.
const NO_SOURCE: [&str; 9] = [
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster("", "v1", "PersistentVolume", "persistentvolumes")
            .short(&["pv"])
            .schema("io.k8s.api.core.v1.PersistentVolume")
            .subresources(&[Subresource::Status])
            .columns(columns::volume())
            .strategy(&PersistentVolume),
        Kind::namespaced("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
            .short(&["pvc"])
            .schema("io.k8s.api.core.v1.PersistentVolumeClaim")
            .subresources(&[Subresource::Status])
            .columns(columns::claim())
            .strategy(&PersistentVolumeClaim),
    ]
}

struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(host) = spec.get_mut("hostPath").filter(|host| host.is_object()) {
            set_default(host, "type", "");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"phase": "Pending"});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        access_modes("spec.accessModes", json::array(spec, "accessModes"), "", causes);
        capacity(spec, causes);
        let sources = sources(spec);
        match sources.as_slice() {
            [] => causes.required("spec", "must specify a volume type"),
            [_] => {}
            [_, others @ ..] => {
                for other in others {
                    causes.forbidden(&format!("spec.{other}"), "may not specify more than 1 volume type");
                }
            }
        }
        for (source, member) in [
            ("hostPath", "path"),
            ("local", "path"),
            ("nfs", "server"),
            ("nfs", "path"),
            ("csi", "driver"),
            ("csi", "volumeHandle"),
        ] {
            if spec.get(source).is_some() && json::text(&spec[source], member).is_empty() {
                causes.required(&format!("spec.{source}.{member}"), "");
            }
        }
        if spec.get("local").is_some() && spec.get("nodeAffinity").is_none() {
            causes.required("spec.nodeAffinity", "Local volume requires node affinity");
        }
        let policies = ["Delete", "Recycle", "Retain"];
        one_of("spec.persistentVolumeReclaimPolicy", object, &policies, causes);
        one_of("spec.volumeMode", object, &["Block", "Filesystem"], causes);
        class_name(object, causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let (new_spec, old_spec) = (&object["spec"], &old["spec"]);
        let changed = |source: &String| new_spec.get(source) != old_spec.get(source);
        let (now, before) = (sources(new_spec), sources(old_spec));
        if now != before || now.iter().any(changed) {
            let detail = "spec.persistentvolumesource is immutable after creation";
            causes.forbidden("spec.persistentvolumesource", detail);
        }
        crate::validate::immutable("spec.volumeMode", object, old, causes);
        if old_spec.get("nodeAffinity").is_some() {
            crate::validate::immutable("spec.nodeAffinity", object, old, causes);
        }
    }
}

fn sources(spec: &Value) -> Vec<String> {
    let members = spec.as_object().into_iter().flatten().map(|(member, _)| member);
    members.filter(|member| !NO_SOURCE.contains(&member.as_str())).cloned().collect()
}

fn capacity(spec: &Value, causes: &mut Causes) {
    let capacity = json::object(spec, "capacity");
    match capacity {
        Some(capacity) if !capacity.is_empty() => {}
        _ => {
            causes.required("spec.capacity", "");
            return;
        }
    }
    for (resource, value) in capacity.into_iter().flatten() {
        let field = format!("spec.capacity[{resource}]");
        if resource != "storage" {
            causes.unsupported("spec.capacity", &resource.as_str().into(), &["storage"]);
        }
        above_zero(&field, value, causes);
    }
}

fn above_zero(field: &str, value: &Value, causes: &mut Causes) {
    match quantity(value) {
        Err(why) => causes.invalid(field, value, &why),
        Ok(size) if size.is_negative() || quantity(&"0".into()) == Ok(size) => {
            causes.invalid(field, value, "must be greater than zero");
        }
        Ok(_) => {}
    }
}

fn access_modes(field: &str, modes: &[Value], absent: &str, causes: &mut Causes) {
    if modes.is_empty() {
        causes.required(field, absent);
    }
    for mode in modes {
        if !ACCESS_MODES.contains(&mode.as_str().unwrap_or_default()) {
            causes.unsupported(field, mode, &ACCESS_MODES);
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let detail = "may not use ReadWriteOncePod with other access modes";
        causes.forbidden(field, detail);
    }
}

fn class_name(object: &Value, causes: &mut Causes) {
    let class = json::text(object, "spec.storageClassName");
    if !class.is_empty()
        && let Err(why) = NameRule::Subdomain.check(class)
    {
        causes.invalid("spec.storageClassName", &class.into(), &why);
    }
}

/// Fills in a claim, also one that a StatefulSet makes.
pub(super) fn claim_defaults(object: &mut Value) {
    if object["spec"].is_object() {
        set_default(&mut object["spec"], "volumeMode", "Filesystem");
    }
}

struct PersistentVolumeClaim;

const CLAIM_FIXED: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

impl Strategy for PersistentVolumeClaim {
    fn defaults(&self, object: &mut Value) {
        claim_defaults(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"phase": "Pending"});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        if let Some(chosen) = spec.get("selector") {
            selector::check("spec.selector", chosen, causes);
        }
        let absent = "at least 1 access mode is required";
        access_modes("spec.accessModes", json::array(spec, "accessModes"), absent, causes);
        match json::object(spec, "resources.requests").and_then(|all| all.get("storage")) {
            None => causes.required("spec.resources[storage]", ""),
            Some(size) => above_zero("spec.resources[storage]", size, causes),
        }
        one_of("spec.volumeMode", object, &["Block", "Filesystem"], causes);
        class_name(object, causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let (mut new_spec, mut old_spec) = (object["spec"].clone(), old["spec"].clone());
        let storage = |spec: &Value| {
            json::object(spec, "resources.requests").and_then(|all| quantity(all.get("storage")?).ok())
        };
        let bound = old["status"]["phase"] == "Bound";
        if bound && storage(&new_spec) < storage(&old_spec) {
            causes.forbidden("spec.resources.requests.storage", "field can not be less than status.capacity");
        }
        let mut free = Vec::new();
        if bound {
            free.extend(["resources", "volumeAttributesClassName"]);
        }
        // The binder writes them.
        for member in ["volumeName", "storageClassName"] {
            if json::text(&old_spec, member).is_empty() {
                free.push(member);
            }
        }
        for member in free {
            json::remove(&mut new_spec, member);
            json::remove(&mut old_spec, member);
        }
        if new_spec != old_spec {
            causes.forbidden("spec", CLAIM_FIXED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(strategy: &dyn Strategy, spec: Value) -> String {
        let mut object = json!({"spec": spec});
        let mut causes = Causes::default();
        strategy.defaults(&mut object);
        strategy.validate(&object, &mut causes);
        format!("{causes:?}")
    }

    #[test]
    fn a_volume_has_one_source_and_a_size() {
        let spec = json!({"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}});
        assert_eq!(faults(&PersistentVolume, spec.clone()), "Causes([])");
        let mut two = spec.clone();
        two["nfs"] = json!({"server": "s", "path": "/"});
        assert!(faults(&PersistentVolume, two).contains("more than 1 volume type"));
        let mut none = spec;
        none["capacity"] = json!({"storage": "0"});
        assert!(faults(&PersistentVolume, none).contains("must be greater than zero"));
    }

    #[test]
    fn a_claim_grows_only_when_it_is_bound() {
        let claim = |size: &str, phase: &str| {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "volumeName": "v", "storageClassName": "c",
                "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}})
        };
        let refused = |new: &str, phase: &str| {
            let mut causes = Causes::default();
            PersistentVolumeClaim.validate_update(&claim(new, phase), &claim("1Gi", phase), &mut causes);
            !causes.is_empty()
        };
        assert!(!refused("2Gi", "Bound") && refused("2Gi", "Pending") && refused("1Mi", "Bound"));
        let spec = json!({"resources": {"requests": {}}});
        assert!(faults(&PersistentVolumeClaim, spec).contains("at least 1 access mode is required"));
    }
}
