//! A definition as kinds of the registry: one per served version, all over the same objects.

use std::cmp::Reverse;
use std::sync::Arc;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Conversion, CustomVersion, ScalePaths, publish, rules, types};
use crate::json;
use crate::jsonpath::JsonPath;
use crate::registry::{Kind, Rules, Selectable, Served, Subresource, View, join_version};
use crate::table::{Cell, Column};

/// What a definition becomes.
pub(super) struct Built {
    /// The kind in its storage version, served or not.
    pub(super) storage: Arc<Kind>,
    /// What is served, the newest version first.
    pub(super) served: Vec<Served>,
}

/// Builds the kinds of a definition whose names were accepted; `None` when it has no storage version.
///
/// `replaced` is cancelled when it is built anew from something else.
pub(super) fn build(
    definition: &Value,
    names: &Value,
    tag: &str,
    replaced: &CancellationToken,
) -> Option<Built> {
    let versions = json::array(definition, "spec.versions");
    let storage = versions.iter().find(|version| version["storage"] == true)?;
    let kind = |version: &Value| {
        Arc::new(kind(definition, names, version, json::text(storage, "name"), tag, replaced))
    };
    let mut served: Vec<_> = versions.iter().filter(|version| version["served"] == true).collect();
    served.sort_by(|one, other| by_priority(json::text(one, "name"), json::text(other, "name")));
    let served = served.into_iter().map(|version| {
        let kind = kind(version);
        if kind.views.is_empty() { Served::storage(kind) } else { Served::in_view(kind, 0) }
    });
    Some(Built { storage: kind(storage), served: served.collect() })
}

fn kind(
    definition: &Value,
    names: &Value,
    version: &Value,
    storage: &str,
    tag: &str,
    replaced: &CancellationToken,
) -> Kind {
    let group = json::text(definition, "spec.group");
    let (name, word) = (json::text(version, "name"), json::text(names, "kind"));
    let schema = version["schema"]["openAPIV3Schema"].clone();
    let texts =
        |member| json::array(names, member).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let deprecation =
        (version["deprecated"] == true).then(|| match json::text(version, "deprecationWarning") {
            "" => format!("{} {word} is deprecated", join_version(group, name)),
            warning => warning.to_owned(),
        });
    let custom = CustomVersion {
        scale: ScalePaths::read(&version["subresources"]["scale"]),
        schema,
        deprecation: deprecation.clone(),
        ends: json::at(definition, "metadata.deletionTimestamp").is_some(),
        conversion: Conversion::read(definition, storage),
        replaced: replaced.clone(),
        tag: tag.to_owned(),
    };
    // Where a webhook converts, each version works in its own form; else all have that of the storage.
    let works_in = if custom.conversion.is_some() { name } else { storage };
    let definition_name = publish::name_of(group, name, word);
    let view = |schema: &str| View {
        group: group.into(),
        version: name.into(),
        schema: schema.into(),
        import: |_| {},
        export: |_| {},
        deprecation: deprecation.clone(),
    };
    Kind {
        singular: json::text(names, "singular").into(),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        namespaced: json::text(definition, "spec.scope") == "Namespaced",
        own_type: Some(types::of(&custom.schema, word)),
        subresources: subresources(version),
        selectable: selectable(version),
        columns: columns(version),
        strategy: Rules::Custom(Box::new(rules::CustomRules::new(&custom.schema))),
        views: if name == works_in { Vec::new() } else { vec![view(&definition_name)] },
        schema: definition_name,
        custom: Some(Arc::new(custom)),
        ..Kind::namespaced(group, works_in, word, json::text(names, "plural"))
    }
}

fn subresources(version: &Value) -> Vec<Subresource> {
    let has =
        |name| json::at(version, "subresources").and_then(|all| all.get(name)).is_some_and(Value::is_object);
    let all = [("status", Subresource::Status), ("scale", Subresource::Scale)];
    all.into_iter().filter(|(name, _)| has(*name)).map(|(_, one)| one).collect()
}

fn selectable(version: &Value) -> Vec<Selectable> {
    let paths = json::array(version, "selectableFields").iter().map(|field| json::text(field, "jsonPath"));
    let field = |path: &str| {
        let path = path.trim_start_matches('.').to_owned();
        Selectable { label: path.clone(), path }
    };
    paths.map(field).collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let mut columns = vec![Column::name()];
    columns.extend(json::array(version, "additionalPrinterColumns").iter().filter_map(column));
    if columns.len() == 1 {
        columns.push(Column::age());
    }
    columns
}

fn column(column: &Value) -> Option<Column> {
    let path = JsonPath::parse(json::text(column, "jsonPath")).ok()?;
    let word = |words: &[&'static str], member| {
        words.iter().find(|word| **word == json::text(column, member)).copied().unwrap_or_default()
    };
    Some(Column {
        name: json::text(column, "name").into(),
        kind: word(&crate::kinds::COLUMN_TYPES, "type"),
        format: word(&crate::kinds::COLUMN_FORMATS, "format"),
        description: json::text(column, "description").into(),
        priority: u8::try_from(json::number(column, "priority").unwrap_or(0)).unwrap_or(u8::MAX),
        cell: Cell::Found(path),
    })
}

/// Orders versions the way discovery does: `v2`, `v1`, `v1beta2`, `v1alpha1`, then others by name.
pub(crate) fn by_priority(one: &str, other: &str) -> std::cmp::Ordering {
    match (rank(one), rank(other)) {
        (Some(one), Some(other)) => Reverse(one).cmp(&Reverse(other)),
        (Some(_), None) => std::cmp::Ordering::Less,
        (None, Some(_)) => std::cmp::Ordering::Greater,
        (None, None) => one.cmp(other),
    }
}

/// Returns stability, major and minor of `v1beta2`.
fn rank(version: &str) -> Option<(u8, u64, u64)> {
    let rest = version.strip_prefix('v')?;
    for (word, stability) in [("alpha", 0), ("beta", 1)] {
        if let Some((major, minor)) = rest.split_once(word) {
            return Some((stability, major.parse().ok()?, minor.parse().ok()?));
        }
    }
    Some((2, rest.parse().ok()?, 0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn versions_come_in_the_order_of_their_stability() {
        let mut versions =
            ["foo10", "v1alpha1", "v1beta1", "v10", "v1", "v2", "foo1", "v11beta2", "v12alpha1"];
        versions.sort_by(|one, other| by_priority(one, other));
        assert_eq!(
            versions,
            ["v10", "v2", "v1", "v11beta2", "v1beta1", "v12alpha1", "v1alpha1", "foo1", "foo10"]
        );
    }

    #[test]
    fn each_served_version_is_a_kind_over_the_same_objects() {
        let definition = json!({"spec": {"group": "x.io", "scope": "Namespaced", "versions": [
            {"name": "v1beta1", "served": true, "storage": false, "deprecated": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
            {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}}},
            {"name": "v1alpha1", "served": false, "storage": false}]}});
        let names = json!({"plural": "tabs", "singular": "tab", "kind": "Tab", "shortNames": ["t"]});
        let built = build(&definition, &names, "1", &CancellationToken::new()).unwrap();
        let versions: Vec<_> = built.served.iter().map(Served::version).collect();
        assert_eq!(versions, ["v1", "v1beta1"]);
        assert_eq!(built.served[1].kind.version, "v1");
        assert_eq!(built.served[1].kind.prefix(), built.storage.prefix());
        assert!(
            built.served[0].kind.has(Subresource::Status) && !built.served[1].kind.has(Subresource::Status)
        );
        let warning = built.served[1].view().unwrap().deprecation.as_deref();
        assert_eq!(warning, Some("x.io/v1beta1 Tab is deprecated"));
    }
}
