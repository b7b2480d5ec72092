//! What one version of a definition must look like.

use std::collections::HashSet;

use serde_json::Value;

use crate::custom::members;
use crate::error::Causes;
use crate::json;
use crate::jsonpath::JsonPath;
use crate::structural;

/// Types of printed columns.
pub(crate) const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
/// Formats of printed columns.
pub(crate) const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
/// Most fields that selectors may name.
const MAX_SELECTABLE: usize = 8;

/// Finds the faults of the version that stands at `field`.
pub(super) fn check(field: &str, version: &Value, causes: &mut Causes) {
    match version["schema"].get("openAPIV3Schema").filter(|schema| schema.is_object()) {
        Some(schema) => structural::check(&format!("{field}.schema.openAPIV3Schema"), schema, causes),
        None => causes.required(&format!("{field}.schema.openAPIV3Schema"), "schemas are required"),
    }
    if version.get("deprecationWarning").is_some() && version["deprecated"] != true {
        let (field, value) = (format!("{field}.deprecationWarning"), &version["deprecationWarning"]);
        causes.invalid(&field, value, "can only be set for deprecated versions");
    }
    scale(&format!("{field}.subresources.scale"), version, causes);
    for (index, column) in json::array(version, "additionalPrinterColumns").iter().enumerate() {
        check_column(&format!("{field}.additionalPrinterColumns[{index}]"), column, causes);
    }
    selectable(&format!("{field}.selectableFields"), version, causes);
}

fn scale(field: &str, version: &Value, causes: &mut Causes) {
    let Some(scale) = json::at(version, "subresources.scale") else { return };
    for (member, roots) in [
        ("specReplicasPath", &["spec"] as &[&str]),
        ("statusReplicasPath", &["status"]),
        ("labelSelectorPath", &["spec", "status"]),
    ] {
        let (field, path) = (format!("{field}.{member}"), json::text(scale, member));
        if path.is_empty() {
            if member != "labelSelectorPath" {
                causes.required(&field, "");
            }
            continue;
        }
        let below =
            members(path).is_some_and(|members| members.len() > 1 && roots.contains(&members[0].as_str()));
        if !below || !path.starts_with('.') {
            let roots: Vec<_> = roots.iter().map(|root| format!(".{root}")).collect();
            let detail = format!("should be a json path under {}", roots.join(" or "));
            causes.invalid(&field, &path.into(), &detail);
        }
    }
}

fn check_column(field: &str, column: &Value, causes: &mut Causes) {
    for member in ["name", "type", "jsonPath"] {
        if json::text(column, member).is_empty() {
            causes.required(&format!("{field}.{member}"), "");
        }
    }
    for (member, words) in [("type", &COLUMN_TYPES as &[&str]), ("format", &COLUMN_FORMATS)] {
        let word = json::text(column, member);
        if !word.is_empty() && !words.contains(&word) {
            let detail = format!("must be one of {}", words.join(","));
            causes.invalid(&format!("{field}.{member}"), &word.into(), &detail);
        }
    }
    let path = json::text(column, "jsonPath");
    if let Err(why) = JsonPath::parse(path) {
        causes.invalid(&format!("{field}.jsonPath"), &path.into(), &why);
    }
}

fn selectable(field: &str, version: &Value, causes: &mut Causes) {
    let fields = json::array(version, "selectableFields");
    if fields.len() > MAX_SELECTABLE {
        causes.too_many(field, fields.len() as u64, MAX_SELECTABLE as u64);
    }
    let mut seen = HashSet::new();
    for (index, one) in fields.iter().enumerate() {
        let (field, path) = (format!("{field}[{index}].jsonPath"), json::text(one, "jsonPath"));
        let Some(members) = members(path).filter(|_| path.starts_with('.')) else {
            causes.invalid(&field, &path.into(), "is an invalid path: must be a simple path of fields");
            continue;
        };
        if members[0] == "metadata" {
            causes.invalid(&field, &path.into(), "must not point to fields in metadata");
        } else if !seen.insert(path) {
            causes.duplicate(&field, &path.into());
        } else {
            let schema = &version["schema"]["openAPIV3Schema"];
            let found =
                members.iter().try_fold(schema, |schema, member| schema.get("properties")?.get(member));
            let kind = found.map(|schema| json::text(schema, "type"));
            if !kind.is_some_and(|kind| matches!(kind, "string" | "boolean" | "integer")) {
                let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
                causes.invalid(&field, &path.into(), detail);
            }
        }
    }
}
