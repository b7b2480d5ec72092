//! Docker's archives: `manifest.json` names configurations, layers and names.
//!
//! Source: moby, `image/tarexport/load.go`. Since version 25 such an archive is an OCI layout too; docker reads
//! `manifest.json` when both are there, and so is it done here.

use std::sync::Arc;

use cirro_types::{Digest, ImageReference};
use serde::Deserialize;

use super::spool::Spool;
use super::{Planned, PlannedLayer, check_config};
use crate::error::{ImageError, invalid};
use crate::images::NewImage;
use crate::limits::Limits;

pub(super) const MANIFEST: &[u8] = b"manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// Reads every document of the archive.
pub(super) fn plan(spool: &Spool, limits: &Limits) -> Result<Vec<Planned>, ImageError> {
    let items: Vec<Item> = serde_json::from_slice(&spool.document(MANIFEST)?)
        .map_err(|error| ImageError::Invalid(format!("manifest.json: {error}")))?;
    if items.len() > limits.images {
        return invalid(format!("manifest.json: more than {} images", limits.images));
    }
    items.into_iter().map(|item| plan_item(spool, item, limits)).collect()
}

fn plan_item(spool: &Spool, item: Item, limits: &Limits) -> Result<Planned, ImageError> {
    let layers = item.layers.unwrap_or_default();
    if layers.len() > limits.layers {
        return invalid(format!("max depth exceeded: {} layers, at most {}", layers.len(), limits.layers));
    }
    let bytes = spool.document(item.config.as_bytes())?;
    let config = check_config(&bytes, layers.len())?;
    let id = Digest::of(&bytes);
    if let Some(named) = blob_digest(&item.config)
        && named != id
    {
        return invalid(format!("blob {named} has the digest {id}"));
    }
    let layers: Vec<_> = layers
        .into_iter()
        .map(|member| PlannedLayer { blob: blob_digest(&member), member: member.into_bytes() })
        .collect();
    for layer in &layers {
        spool.size(&layer.member)?;
    }
    let mut tags = Vec::new();
    for tag in item.repo_tags.unwrap_or_default() {
        let tag: ImageReference = tag.parse().map_err(|_| {
            ImageError::Invalid(format!("invalid tag {:?}", tag.chars().take(300).collect::<String>()))
        })?;
        // A pinned name says what the image was pulled as; docker does not take it up either.
        if tag.digest.is_none() && !tags.contains(&tag) {
            tags.push(tag);
        }
    }
    Ok(Planned { image: NewImage { id, bytes, config: Arc::new(config), tags, manifest: None }, layers })
}

/// Returns the digest in the name of a blob of an OCI layout.
fn blob_digest(member: &str) -> Option<Digest> {
    format!("sha256:{}", member.strip_prefix("blobs/sha256/")?).parse().ok()
}
