//! apiextensions.k8s.io/v1 CustomResourceDefinition. What a definition becomes is `crate::custom`.
//!
//! Source: apiextensions-apiserver `pkg/apis/apiextensions/{v1/defaults.go,validation}`,
//! `pkg/registry/customresourcedefinition/strategy.go`.

use serde_json::{Value, json};

use crate::custom::{self, begin_end};
use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::Column;

mod check;
mod version;

pub(crate) use version::{COLUMN_FORMATS, COLUMN_TYPES};

/// Returns the kind.
pub(super) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster(custom::GROUP, "v1", "CustomResourceDefinition", custom::PLURAL)
            .short(&["crd", "crds"])
            .category("api-extensions")
            .schema("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition")
            .subresources(&[Subresource::Status])
            .columns(vec![
                Column::name(),
                Column::text("Created At", |object| object["metadata"]["creationTimestamp"].clone()),
            ])
            .strategy(&Definition),
    ]
}

struct Definition;

impl Strategy for Definition {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) {
            let kind = json::text(names, "kind").to_owned();
            if !kind.is_empty() {
                set_default(names, "singular", kind.to_lowercase());
                set_default(names, "listKind", format!("{kind}List"));
            }
        }
        set_default(spec, "conversion", json!({"strategy": "None"}));
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            set_default(service, "port", 443);
        }
        if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
            json::remove(spec, "preserveUnknownFields");
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": [storage_version(object)]});
        json::remove(&mut object["status"], "conditions");
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        object["status"] = old["status"].clone();
        let storage = storage_version(object).to_owned();
        let status = json::object_mut(object, "status");
        let stored = status.entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(stored) = stored.as_array_mut()
            && !stored.iter().any(|one| *one == storage)
        {
            stored.push(storage.into());
        }
    }

    fn begin_deletion(&self, object: &mut Value) {
        begin_end(object);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        check::check(object, causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let conditions = json::array(old, "status.conditions");
        let established =
            conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True");
        let fixed: &[&str] = match established {
            true => &["spec.scope", "spec.names.kind", "spec.group", "spec.names.plural"],
            false => &["spec.group", "spec.names.plural"],
        };
        fixed.iter().for_each(|field| crate::validate::immutable(field, object, old, causes));
        let versions = json::array(object, "spec.versions");
        for (index, stored) in json::array(object, "status.storedVersions").iter().enumerate() {
            if !versions.iter().any(|version| version["name"] == *stored) {
                let field = format!("status.storedVersions[{index}]");
                causes.invalid(&field, stored, "must appear in spec.versions");
            }
        }
    }
}

fn storage_version(object: &Value) -> &str {
    let versions = json::array(object, "spec.versions");
    versions
        .iter()
        .find(|version| version["storage"] == true)
        .map_or("", |version| json::text(version, "name"))
}
