//! Field numbers and markers out of k8s-pb's sources.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};

/// Every message by the name of its definition in lower case: prost writes `HttpGetAction`.
pub struct Messages(BTreeMap<String, Vec<Field>>);

/// A field of a message.
pub struct Field {
    /// Rust's name of it.
    pub name: String,
    /// Its number.
    pub tag: u32,
    /// Name of its message, when it has one.
    pub message: Option<String>,
    markers: Vec<(String, String)>,
}

/// Names are the same in JSON and in Rust but for case and underscores.
pub fn folded(name: &str) -> String {
    name.trim_start_matches("r#").replace('_', "").to_lowercase()
}

/// Reads every message below a directory.
pub fn read(directory: &Path) -> Result<Messages, Box<dyn Error>> {
    let mut messages = BTreeMap::new();
    for file in crate::rust_files(directory)? {
        let module = file.parent().and_then(|parent| parent.strip_prefix(directory).ok());
        let module: Vec<_> = module.ok_or("file outside the directory")?.iter().collect();
        let module: Vec<_> = module.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        read_file(&std::fs::read_to_string(&file)?, &module, &mut messages);
    }
    Ok(Messages(messages))
}

fn definition(module: &[String], name: &str) -> String {
    format!("io.k8s.{}.{name}", module.join(".").replace('_', "-")).to_lowercase()
}

fn read_file(text: &str, module: &[String], messages: &mut BTreeMap<String, Vec<Field>>) {
    let mut message: Option<(String, Vec<Field>)> = None;
    let (mut markers, mut tag, mut declaration) = (Vec::new(), None, String::new());
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {")) {
            message = Some((definition(module, name), Vec::new()));
            markers.clear();
        } else if let Some(name) = line.strip_prefix("pub struct ").and_then(|rest| rest.strip_suffix(" {}"))
        {
            messages.insert(definition(module, name), Vec::new());
        } else if line == "}" {
            messages.extend(message.take());
        } else if let Some(marker) = line.strip_prefix("/// +") {
            let (key, value) = marker.split_once('=').unwrap_or((marker, ""));
            markers.push((key.to_owned(), value.to_owned()));
        } else if line.starts_with("#[prost(") {
            tag =
                line.split_once("tag = \"").and_then(|(_, rest)| rest.split_once('"')?.0.parse::<u32>().ok());
        } else if let Some(number) = tag.filter(|_| !line.starts_with("//")) {
            declaration.push_str(line);
            if line.ends_with(',') {
                if let Some((_, fields)) = &mut message {
                    fields.push(field(&declaration, number, std::mem::take(&mut markers), module));
                }
                (tag, declaration) = (None, String::new());
            }
        }
    }
}

fn field(declaration: &str, tag: u32, markers: Vec<(String, String)>, module: &[String]) -> Field {
    let (name, kind) = declaration.trim_start_matches("pub ").split_once(':').unwrap_or((declaration, ""));
    // The innermost generic argument; of a map, its value.
    let inner = kind.trim().trim_end_matches([',', '>']).rsplit(['<', ',']).next().unwrap_or_default().trim();
    let path: Vec<_> = inner.split("::").filter(|part| !part.is_empty()).collect();
    let up = path.iter().filter(|part| **part == "super").count();
    let last = path.last().copied().unwrap_or_default();
    let foreign = matches!(path.first(), Some(&("prost" | "core" | "std")));
    let scalar = foreign || last.is_empty() || last.chars().next().is_some_and(char::is_lowercase);
    let message = (!scalar && up <= module.len()).then(|| {
        let mut target = module[..module.len() - up].to_vec();
        target.extend(path[up..path.len() - 1].iter().map(|part| (*part).to_owned()));
        definition(&target, last)
    });
    Field { name: name.to_owned(), tag, message, markers }
}

impl Messages {
    /// Returns the fields of a message.
    pub fn fields(&self, name: &str) -> Option<&[Field]> {
        self.0.get(&name.to_lowercase()).map(Vec::as_slice)
    }

    /// Returns what the comments say of a member, as OpenAPI extensions.
    pub fn markers(&self, name: &str, member: &str) -> Vec<(String, Value)> {
        let Some(fields) = self.fields(name) else { return Vec::new() };
        let wanted = folded(member);
        let own = fields.iter().find(|field| folded(&field.name) == wanted);
        // A member may belong to a message that is inlined in JSON.
        let inlined = || {
            let inner = fields.iter().filter_map(|field| self.fields(field.message.as_deref()?));
            inner.flatten().find(|field| folded(&field.name) == wanted)
        };
        let Some(field) = own.or_else(inlined) else { return Vec::new() };
        let mut extensions = Vec::new();
        let mut keys = Vec::new();
        for (marker, value) in &field.markers {
            let value = value.trim();
            match marker.as_str() {
                "patchStrategy" => extensions.push(("x-kubernetes-patch-strategy".to_owned(), json!(value))),
                "patchMergeKey" => extensions.push(("x-kubernetes-patch-merge-key".to_owned(), json!(value))),
                "listType" => extensions.push(("x-kubernetes-list-type".to_owned(), json!(value))),
                "mapType" | "structType" => {
                    extensions.push(("x-kubernetes-map-type".to_owned(), json!(value)));
                }
                "listMapKey" => keys.push(json!(value)),
                _ => {}
            }
        }
        if !keys.is_empty() {
            extensions.push(("x-kubernetes-list-map-keys".to_owned(), Value::Array(keys)));
        }
        extensions
    }
}
