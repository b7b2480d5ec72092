//! compute.cirro.dev/v1: machines.

use cirro_types::kinds::InstanceSpec;
use serde_json::Value;

use super::network::{read_spec, reference};
use crate::error::Causes;
use crate::json::set_default;
use crate::registry::{Kind, Strategy, Subresource};
use crate::validate::quantity::Quantity;
use crate::validate::{self, NameRule};

/// Largest user data, as in every large cloud.
const MAX_USER_DATA: usize = 16 * 1024;
/// What every guest needs at least.
const MIN_MEMORY: &str = "64Mi";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("compute.cirro.dev", "v1", "Instance", "instances")
            .short(&["inst", "vm"])
            .category("all")
            .category("cirro")
            .schema("dev.cirro.compute.v1.Instance")
            .subresources(&[Subresource::Status, Subresource::Console])
            .selectable(&["spec.image", "spec.subnet", "status.phase", "status.node"])
            .columns(crate::table::own::instance())
            .strategy(&Instance),
    ]
}

struct Instance;

impl Strategy for Instance {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if spec.is_object() {
            set_default(spec, "cpu", 1);
            set_default(spec, "memory", "256Mi");
            set_default(spec, "running", true);
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let Some(spec) = read_spec::<InstanceSpec>(object, causes) else { return };
        if spec.image.parse::<cirro_types::ImageReference>().is_err() {
            causes.invalid("spec.image", &spec.image.into(), "must be the name of an image");
        }
        if !(1..=64).contains(&spec.cpu) {
            causes.invalid("spec.cpu", &spec.cpu.into(), "must be between 1 and 64, inclusive");
        }
        let memory = spec.memory.as_str();
        match Quantity::parse(memory) {
            Err(why) => causes.invalid("spec.memory", &memory.into(), &why),
            Ok(memory_size) if Ok(memory_size) < Quantity::parse(MIN_MEMORY) => {
                let detail = format!("must be at least {MIN_MEMORY}");
                causes.invalid("spec.memory", &memory.into(), &detail);
            }
            Ok(_) => {}
        }
        reference("spec.subnet", &spec.subnet, causes);
        for (index, group) in spec.security_groups.iter().enumerate() {
            reference(&format!("spec.securityGroups[{index}]"), group, causes);
        }
        if spec.user_data.is_some_and(|data| data.len() > MAX_USER_DATA) {
            causes.too_long("spec.userData", &format!("may not be more than {MAX_USER_DATA} bytes"));
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        for field in ["spec.image", "spec.subnet", "spec.userData", "spec.keyPair"] {
            validate::immutable(field, object, old, causes);
        }
    }
}
