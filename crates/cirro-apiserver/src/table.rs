//! Tables: objects as rows for people.
//!
//! The columns are upstream's (`pkg/printers/internalversion/printers.go`), one file per group.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::json;
use crate::jsonpath::JsonPath;
use crate::registry::Served;

pub(crate) mod apps;
pub(crate) mod batch;
pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod core;
pub(crate) mod discovery;
pub(crate) mod limits;
pub(crate) mod networking;
pub(crate) mod own;
pub(crate) mod pod;
pub(crate) mod rbac;
pub(crate) mod storage;

/// A column of a kind's Tables.
pub(crate) struct Column {
    pub(crate) name: String,
    /// OpenAPI type of its cells.
    pub(crate) kind: &'static str,
    /// OpenAPI format of its cells.
    pub(crate) format: &'static str,
    /// For whoever reads the Table's head.
    pub(crate) description: String,
    /// 0 is always shown, more only in wide output.
    pub(crate) priority: u8,
    pub(crate) cell: Cell,
}

/// Where a cell's value comes from.
pub(crate) enum Cell {
    /// A dotted path; absent values are `<none>`.
    Path(String),
    /// A function of the object.
    Code(fn(&Value) -> Value),
    /// The first value that a path finds, in the form of the column's type; absent values are null.
    Found(JsonPath),
}

impl Column {
    /// Makes a column of strings from a function.
    pub(crate) fn text(name: &str, cell: fn(&Value) -> Value) -> Self {
        Self {
            name: name.into(),
            kind: "string",
            format: "",
            description: String::new(),
            priority: 0,
            cell: Cell::Code(cell),
        }
    }

    /// Makes a column of whole numbers from a function.
    pub(crate) fn integer(name: &str, cell: fn(&Value) -> Value) -> Self {
        Self { kind: "integer", ..Self::text(name, cell) }
    }

    /// Makes a column of what is at a path.
    pub(crate) fn path(name: &str, path: &str) -> Self {
        Self { cell: Cell::Path(path.into()), ..Self::text(name, none) }
    }

    /// Shows it only in wide output.
    pub(crate) fn wide(self) -> Self {
        Self { priority: 1, ..self }
    }

    /// Makes the column of names.
    pub(crate) fn name() -> Self {
        Self { format: "name", ..Self::text("Name", |object| json::name(object).into()) }
    }

    /// Makes the column of ages.
    pub(crate) fn age() -> Self {
        Self::text("Age", |object| age(json::text(object, "metadata.creationTimestamp")).into())
    }

    fn value(&self, object: &Value) -> Value {
        match &self.cell {
            Cell::Path(path) => json::at(object, path).cloned().unwrap_or_else(|| "<none>".into()),
            Cell::Code(cell) => cell(object),
            Cell::Found(path) => path.first(object).map_or(Value::Null, |value| typed(self.kind, value)),
        }
    }
}

/// Returns a value as a cell of a type.
///
/// Source: apiextensions-apiserver `pkg/registry/customresource/tableconvertor`.
fn typed(kind: &str, value: &Value) -> Value {
    match (kind, value) {
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().map_or(Value::Null, |number| (number as i64).into()),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(time)) => match time.parse::<Timestamp>() {
            Ok(_) => age(time).into(),
            Err(_) => Value::Null,
        },
        ("string", Value::String(text)) => text.clone().into(),
        ("string", Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}

fn none(_: &Value) -> Value {
    "<none>".into()
}

/// Returns the columns of a kind that has no others.
pub(crate) fn name_and_age() -> Vec<Column> {
    vec![Column::name(), Column::age()]
}

/// What a row carries of its object: the query parameter `includeObject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    Nothing,
}

impl Include {
    /// Reads the query parameter.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "Object" => Self::Object,
            "None" => Self::Nothing,
            _ => Self::Metadata,
        }
    }
}

/// Returns the head of a Table without rows.
pub(crate) fn head(api_version: &str, columns: &[Column], metadata: Value) -> Value {
    let definitions: Vec<_> = columns.iter().map(definition).collect();
    json!({"kind": "Table", "apiVersion": api_version, "metadata": metadata,
        "columnDefinitions": definitions, "rows": []})
}

fn definition(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format,
        "description": column.description, "priority": column.priority})
}

/// Returns the row of an object.
pub(crate) fn row(columns: &[Column], object: &Value, served: &Served, include: Include) -> Value {
    let cells: Vec<_> = columns.iter().map(|column| column.value(object)).collect();
    match include {
        Include::Nothing => json!({"cells": cells}),
        Include::Object => json!({"cells": cells, "object": served.export(object)}),
        Include::Metadata => json!({"cells": cells, "object": partial_metadata(object)}),
    }
}

/// Returns an object's metadata as an object of its own.
pub(crate) fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// Writes how long ago a time was; `<unknown>` for what is no time.
pub(crate) fn age(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human_duration(Timestamp::now().as_second() - time.as_second()),
        Err(_) => "<unknown>".into(),
    }
}

/// Writes a duration in seconds the way kubectl does: `5s`, `2m30s`, `3h`, `2d4h`, `1y30d`.
///
/// Source: apimachinery `util/duration/duration.go`, `HumanDuration`.
pub(crate) fn human_duration(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let pair = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if years < 8 => pair(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// Joins what people read in one cell; `<none>` for nothing.
pub(crate) fn or_none(text: String) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Writes a label selector as `a=b,c in (d)`.
pub(crate) fn selector_text(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".into() };
    let mut terms: Vec<String> = map_terms(json::object(selector, "matchLabels"));
    for term in json::array(selector, "matchExpressions") {
        let key = json::text(term, "key");
        let values: Vec<_> = json::array(term, "values").iter().filter_map(Value::as_str).collect();
        terms.push(match json::text(term, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if terms.is_empty() { "<none>".into() } else { terms.join(",") }
}

/// Writes the selector of a workload; that of a ReplicationController is a plain map.
pub(crate) fn selector_of(object: &Value) -> String {
    let selector = json::at(object, "spec.selector");
    let plain = selector.and_then(Value::as_object).filter(|map| map.values().all(Value::is_string));
    match plain {
        Some(map) if !map.is_empty() => map_terms(Some(map)).join(","),
        _ => selector_text(selector),
    }
}

/// Writes a map of labels as `a=b,c=d`.
pub(crate) fn map_terms(map: Option<&serde_json::Map<String, Value>>) -> Vec<String> {
    let term = |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    map.into_iter().flatten().map(term).collect()
}

/// Returns names and images of the containers of a pod template, as two lists.
pub(crate) fn containers(template_spec: Option<&Value>) -> (String, String) {
    let containers = template_spec.map(|spec| json::array(spec, "containers")).unwrap_or_default();
    let gather = |member| containers.iter().map(|one| json::text(one, member)).collect::<Vec<_>>().join(",");
    (gather("name"), gather("image"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubectl_writes_them() {
        for (seconds, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 300, "3h5m"),
            (9 * 3600, "9h"),
            (49 * 3600, "2d1h"),
            (20 * 86400, "20d"),
            (3 * 365 * 86400 + 86400, "3y1d"),
            (-5, "<invalid>"),
        ] {
            assert_eq!(human_duration(seconds), text);
        }
    }

    #[test]
    fn selectors_read_as_kubectl_writes_them() {
        let selector = json!({"matchLabels": {"a": "b"},
            "matchExpressions": [{"key": "c", "operator": "NotIn", "values": ["d", "e"]}]});
        assert_eq!(selector_text(Some(&selector)), "a=b,c notin (d,e)");
        assert_eq!(selector_text(None), "<none>");
    }

    #[test]
    fn a_row_has_a_cell_per_column() {
        let columns = vec![Column::name(), Column::path("Image", "spec.image").wide(), Column::age()];
        let object = json!({"metadata": {"name": "x", "creationTimestamp": "2001-01-01T00:00:00Z"}});
        let kind = crate::registry::Kind::namespaced("", "v1", "ConfigMap", "configmaps");
        let row = row(&columns, &object, &Served::storage(kind.into()), Include::Metadata);
        assert_eq!(row["cells"][0], "x");
        assert_eq!(row["cells"][1], "<none>");
        assert!(row["cells"][2].as_str().unwrap().ends_with('y'));
        assert_eq!(row["object"]["metadata"]["name"], "x");
    }
}
