//! The classic list of a group version's resources, its members in upstream's order: scripts look for pieces of the text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::served;
use crate::registry::{Registry, Served, Subresource, join_version};
use cirro_seams::api::ApiError;

/// `APIResourceList`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResourceList<'a> {
    kind: &'static str,
    api_version: &'static str,
    group_version: String,
    resources: Vec<Entry<'a>>,
}

/// `APIResource`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    name: String,
    singular_name: &'a str,
    namespaced: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    version: &'a str,
    kind: &'a str,
    verbs: &'static [&'static str],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    short_names: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    categories: &'a [String],
    #[serde(skip_serializing_if = "String::is_empty")]
    storage_version_hash: String,
}

/// Lists what a group serves in a version.
pub(super) fn list<'a>(
    registry: &'a Registry,
    group: &str,
    version: &str,
) -> Result<ResourceList<'a>, ApiError> {
    let mut resources = Vec::new();
    for served in served(registry, group, version)? {
        resources.push(whole(served));
        resources.extend(served.kind.subresources.iter().map(|part| subresource(served, *part)));
    }
    let group_version = join_version(group, version);
    Ok(ResourceList { kind: "APIResourceList", api_version: "v1", group_version, resources })
}

fn whole(served: &Served) -> Entry<'_> {
    let kind = &served.kind;
    let (short_names, categories) = super::names(served);
    Entry {
        name: kind.plural.clone(),
        singular_name: &kind.singular,
        namespaced: kind.namespaced,
        group: "",
        version: "",
        kind: &kind.kind,
        verbs: kind.verbs(),
        short_names,
        categories,
        storage_version_hash: if kind.stored {
            storage_hash(&kind.group, &kind.version, &kind.kind)
        } else {
            String::new()
        },
    }
}

fn subresource(served: &Served, part: Subresource) -> Entry<'_> {
    let kind = &served.kind;
    let (group, version, spoken) = part.speaks().unwrap_or(("", "", &kind.kind));
    Entry {
        name: format!("{}/{}", kind.plural, part.name()),
        singular_name: "",
        namespaced: kind.namespaced,
        group,
        version,
        kind: spoken,
        verbs: part.verbs(),
        short_names: &[],
        categories: &[],
        storage_version_hash: String::new(),
    }
}

/// Says, without naming it, in which version a kind is stored.
fn storage_hash(group: &str, version: &str, kind: &str) -> String {
    let hash = Sha256::digest(format!("{group}/{version}/{kind}"));
    STANDARD.encode(&hash[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_come_in_upstreams_order_with_upstreams_hash() {
        let registry = crate::kinds::registry();
        let text = serde_json::to_string(&list(&registry, "", "v1").unwrap()).unwrap();
        let pods = r#"{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["create","delete","deletecollection","get","list","patch","update","watch"],"shortNames":["po"],"categories":["all"],"storageVersionHash":"xPOwRZ+Yhw8="}"#;
        assert!(text.contains(pods), "{text}");
        let scale = r#""group":"autoscaling","version":"v1","kind":"Scale""#;
        assert!(text.contains(scale), "{text}");
    }
}
