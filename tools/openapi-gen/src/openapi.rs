//! Schemas out of k8s-openapi's sources.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::literal::Literal;
use crate::protobuf::Messages;

/// Reads every definition below a version's directory.
pub fn read(directory: &Path) -> Result<Map<String, Value>, Box<dyn Error>> {
    let mut sources = Vec::new();
    let mut names = BTreeMap::new();
    for file in crate::rust_files(directory)? {
        let text = std::fs::read_to_string(&file)?;
        let module = file.parent().and_then(|parent| parent.strip_prefix(directory).ok());
        let module = module.ok_or("file outside the directory")?.to_string_lossy().replace('/', "::");
        for (index, _) in text.match_indices("impl crate::schemars::JsonSchema for ") {
            let part = text[index..].to_owned();
            let rust = between(&part, "JsonSchema for ", " {").ok_or("no type name")?;
            let name = part.split_once("fn schema_name").and_then(|(_, rest)| between(rest, "\"", "\""));
            names.insert(format!("crate::{module}::{rust}"), name.ok_or("no schema name")?.to_owned());
            sources.push((name.unwrap_or_default().to_owned(), part, text.clone()));
        }
    }
    let resolve = |path: &str| names.get(path).cloned().unwrap_or_else(|| panic!("unknown type {path}"));
    let mut definitions = Map::new();
    for (name, part, file) in sources {
        let Some((_, literal)) = part.split_once("json_schema!(") else { continue };
        let parsed = Literal::new(literal, &resolve).value();
        let mut schema = parsed.map_err(|why| format!("{name}: {why}"))?;
        if let Some(identity) = identity(&file) {
            schema["x-kubernetes-group-version-kind"] = json!([identity]);
        }
        definitions.insert(name, schema);
    }
    Ok(definitions)
}

/// Returns group, version and kind when the file defines a resource.
fn identity(file: &str) -> Option<Value> {
    let constant = |name| between(file, &format!("const {name}: &'static str = \""), "\"");
    Some(json!({"group": constant("GROUP")?, "version": constant("VERSION")?, "kind": constant("KIND")?}))
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    text.split_once(before)?.1.split_once(after).map(|(found, _)| found)
}

/// Puts patch keys and list types, which the comments of the protobuf sources carry, on the members.
pub fn mark(definitions: &mut Map<String, Value>, messages: &Messages) {
    for (name, schema) in definitions {
        let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { continue };
        for (member, property) in properties {
            for (key, value) in messages.markers(name, member) {
                property[key] = value;
            }
        }
    }
}
