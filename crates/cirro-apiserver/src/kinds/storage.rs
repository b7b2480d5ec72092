//! storage.k8s.io/v1: StorageClass, CSIDriver, CSINode, CSIStorageCapacity, VolumeAttachment.
//!
//! Source: `pkg/apis/storage/v1/defaults.go`, `pkg/apis/storage/validation/validation.go`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::storage as columns;
use crate::validate::fields::{one_of, quantity, required, required_one_of, unchanged};
use crate::validate::{self, selector};

const GROUP: &str = "storage.k8s.io";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster(GROUP, "v1", "StorageClass", "storageclasses")
            .short(&["sc"])
            .schema("io.k8s.api.storage.v1.StorageClass")
            .columns(columns::class())
            .strategy(&StorageClass),
        Kind::cluster(GROUP, "v1", "CSIDriver", "csidrivers")
            .schema("io.k8s.api.storage.v1.CSIDriver")
            .columns(columns::csi_driver())
            .strategy(&CsiDriver),
        Kind::cluster(GROUP, "v1", "CSINode", "csinodes")
            .schema("io.k8s.api.storage.v1.CSINode")
            .columns(columns::csi_node())
            .strategy(&CsiNode),
        Kind::namespaced(GROUP, "v1", "CSIStorageCapacity", "csistoragecapacities")
            .schema("io.k8s.api.storage.v1.CSIStorageCapacity")
            .columns(columns::csi_capacity())
            .strategy(&CsiStorageCapacity),
        Kind::cluster(GROUP, "v1", "VolumeAttachment", "volumeattachments")
            .schema("io.k8s.api.storage.v1.VolumeAttachment")
            .subresources(&[Subresource::Status])
            .columns(columns::attachment())
            .strategy(&VolumeAttachment),
    ]
}

struct StorageClass;

impl Strategy for StorageClass {
    fn defaults(&self, object: &mut Value) {
        set_default(object, "reclaimPolicy", "Delete");
        set_default(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        if required("provisioner", object, "", causes)
            && let Err(why) =
                validate::names::qualified_name(&json::text(object, "provisioner").to_lowercase())
        {
            causes.invalid("provisioner", &object["provisioner"], &why);
        }
        one_of("reclaimPolicy", object, &["Delete", "Retain"], causes);
        required_one_of("volumeBindingMode", object, &["Immediate", "WaitForFirstConsumer"], causes);
        for (key, _) in json::object(object, "parameters").into_iter().flatten() {
            if key.is_empty() {
                causes.invalid("parameters", &"".into(), "field can not be empty.");
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            unchanged(field, object, old, &format!("updates to {field} are forbidden."), causes);
        }
        validate::immutable("volumeBindingMode", object, old, causes);
    }
}

struct CsiDriver;

impl Strategy for CsiDriver {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        json::object_mut(object, "spec");
        let spec = &mut object["spec"];
        set_default(spec, "attachRequired", true);
        for member in ["podInfoOnMount", "requiresRepublish", "storageCapacity", "seLinuxMount"] {
            set_default(spec, member, false);
        }
        set_default(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if json::array(spec, "volumeLifecycleModes").is_empty() {
            spec["volumeLifecycleModes"] = json!(["Persistent"]);
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        if json::name(object).len() > 63 {
            causes.too_long("metadata.name", "may not be more than 63 bytes");
        }
        let policies = ["File", "None", "ReadWriteOnceWithFSType"];
        one_of("spec.fsGroupPolicy", object, &policies, causes);
        for mode in json::array(object, "spec.volumeLifecycleModes") {
            if mode != "Persistent" && mode != "Ephemeral" {
                causes.unsupported("spec.volumeLifecycleModes", mode, &["Ephemeral", "Persistent"]);
            }
        }
        let mut audiences = HashSet::new();
        for (index, token) in json::array(object, "spec.tokenRequests").iter().enumerate() {
            let field = format!("spec.tokenRequests[{index}]");
            let audience = json::text(token, "audience");
            if !audiences.insert(audience) {
                causes.duplicate(&format!("{field}.audience"), &audience.into());
            }
            if let Some(seconds) = json::number(token, "expirationSeconds").filter(|seconds| *seconds < 600) {
                let detail = "may not specify a duration less than 10 minutes";
                causes.invalid(&format!("{field}.expirationSeconds"), &seconds.into(), detail);
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        for member in ["attachRequired", "volumeLifecycleModes"] {
            validate::immutable(&format!("spec.{member}"), object, old, causes);
        }
    }
}

struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        let mut seen = HashSet::new();
        for (index, driver) in json::array(object, "spec.drivers").iter().enumerate() {
            let field = format!("spec.drivers[{index}]");
            let name = json::text(driver, "name");
            if name.is_empty() {
                causes.required(&format!("{field}.name"), "");
            } else if !seen.insert(name) {
                causes.duplicate(&format!("{field}.name"), &name.into());
            }
            let node = json::text(driver, "nodeID");
            if node.is_empty() {
                causes.required(&format!("{field}.nodeID"), "");
            } else if node.len() > 192 {
                let detail = "must be 192 characters or less";
                causes.invalid(&format!("{field}.nodeID"), &node.into(), detail);
            }
            if let Some(count) = json::number(driver, "allocatable.count").filter(|count| *count < 0) {
                let detail = "must be greater than or equal to 0";
                causes.invalid(&format!("{field}.allocatable.count"), &count.into(), detail);
            }
            for key in json::array(driver, "topologyKeys") {
                if let Err(why) = validate::names::qualified_name(key.as_str().unwrap_or_default()) {
                    causes.invalid(&format!("{field}.topologyKeys"), key, &why);
                }
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let find = |name: &str| {
            json::array(object, "spec.drivers").iter().find(|driver| json::text(driver, "name") == name)
        };
        for before in json::array(old, "spec.drivers") {
            let same = |now: &Value| {
                now["nodeID"] == before["nodeID"] && now.get("topologyKeys") == before.get("topologyKeys")
            };
            if let Some(now) = find(json::text(before, "name")).filter(|now| !same(now)) {
                causes.invalid("spec.drivers", now, "field is immutable");
            }
        }
    }
}

struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        required("storageClassName", object, "", causes);
        if let Some(chosen) = object.get("nodeTopology") {
            selector::check("nodeTopology", chosen, causes);
        }
        for member in ["capacity", "maximumVolumeSize"] {
            let Some(value) = json::at(object, member) else { continue };
            match quantity(value) {
                Err(why) => causes.invalid(member, value, &why),
                Ok(size) if size.is_negative() => {
                    causes.invalid(member, value, "must be greater than or equal to 0");
                }
                Ok(_) => {}
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        for member in ["nodeTopology", "storageClassName"] {
            validate::immutable(member, object, old, causes);
        }
    }
}

struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"attached": false});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        for member in ["attacher", "nodeName"] {
            required(&format!("spec.{member}"), object, "", causes);
        }
        let inline = json::at(object, "spec.source.inlineVolumeSpec").is_some();
        match (inline, json::at(object, "spec.source.persistentVolumeName")) {
            (false, None) => causes.required(
                "spec.source",
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (true, Some(_)) => causes.forbidden(
                "spec.source",
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            _ => {}
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        if object.get("spec") != old.get("spec") {
            causes.invalid("spec", &object["spec"], "field is immutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_drivers_get_upstreams_defaults_and_keep_them() {
        let mut class = json!({"provisioner": "x.example/y"});
        StorageClass.defaults(&mut class);
        assert_eq!(
            (&class["reclaimPolicy"], &class["volumeBindingMode"]),
            (&json!("Delete"), &json!("Immediate"))
        );
        let mut other = class.clone();
        other["parameters"] = json!({"a": "b"});
        let mut causes = Causes::default();
        StorageClass.validate_update(&other, &class, &mut causes);
        assert!(format!("{causes:?}").contains("updates to parameters are forbidden."));
        let mut driver = json!({"metadata": {"name": "d"}});
        CsiDriver.defaults(&mut driver);
        assert_eq!(driver["spec"]["volumeLifecycleModes"], json!(["Persistent"]));
    }

    #[test]
    fn attachments_have_one_source() {
        let mut causes = Causes::default();
        VolumeAttachment
            .validate(&json!({"spec": {"attacher": "a", "nodeName": "n", "source": {}}}), &mut causes);
        assert!(format!("{causes:?}").contains("must specify exactly one"));
    }
}
