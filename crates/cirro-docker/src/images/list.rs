//! `GET /images/json`.

use std::collections::{BTreeMap, HashMap};

use axum::Json;
use axum::extract::State;
use cirro_engine::Engine;
use cirro_image::Image;
use cirro_seams::container::Container;
use cirro_types::{Digest, ImageReference};
use serde_json::{Value, json};

use super::{repo_digests, repo_tags};
use crate::Face;
use crate::containers::listed;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::query::Params;
use crate::time;
use crate::version::ApiVersion;

const FILTERS: &[&str] = &["before", "dangling", "label", "label!", "reference", "since", "until"];

/// Lists images, the newest first.
pub(crate) async fn list(
    State(face): State<Face>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, FILTERS)?;
    let bounds = Bounds::new(&face.engine, &filters).await?;
    let dangling = filters.switch("dangling")?;
    let mut images = face.engine.images().await?;
    images.sort_by_key(|image| std::cmp::Reverse(created_seconds(image)));
    let containers = listed(&face.engine);
    let shared =
        if params.flag("shared-size") { Some(shared_sizes(&face.engine, &images).await?) } else { None };
    let manifests = params.flag("manifests") && version.minor >= 47;
    let rows = images
        .iter()
        .filter(|image| dangling.is_none_or(|dangling| dangling == repo_tags(image).is_empty()))
        .filter(|image| filters.labels(&image.config.config.labels))
        .filter(|image| filters.any("reference", |pattern| refers(image, pattern)))
        .filter(|image| bounds.fits(image))
        .map(|image| {
            let mut row = summary(image, version, &containers);
            if let Some(shared) = &shared {
                row["SharedSize"] = json!(shared.get(&image.id).copied().unwrap_or_default());
            }
            if manifests {
                row["Manifests"] = json!([manifest(image, &containers)]);
            }
            row
        });
    Ok(Json(Value::Array(rows.collect())))
}

/// Returns when an image was made, or else when it came here.
pub(crate) fn created_seconds(image: &Image) -> i64 {
    let made = image.config.created.as_deref().and_then(time::parse_rfc3339);
    made.map_or(image.created_seconds, jiff::Timestamp::as_second)
}

/// Tells for each image how many bytes of its layers other images have too.
pub(crate) async fn shared_sizes(
    engine: &Engine,
    images: &[Image],
) -> Result<HashMap<Digest, u64>, ApiError> {
    let mut users: HashMap<Digest, usize> = HashMap::new();
    let mut layers = Vec::new();
    for image in images {
        let sizes = engine.layer_sizes(image).await?;
        // A layer that an image has twice is not shared by that.
        let own: BTreeMap<Digest, u64> = image.config.rootfs.diff_ids.iter().copied().zip(sizes).collect();
        own.keys().for_each(|diff_id| *users.entry(*diff_id).or_default() += 1);
        layers.push((image.id, own));
    }
    let shared =
        |own: &BTreeMap<Digest, u64>| own.iter().filter(|(id, _)| users[*id] > 1).map(|(_, size)| size).sum();
    Ok(layers.iter().map(|(id, own)| (*id, shared(own))).collect())
}

/// Describes the one manifest that an image has here.
fn manifest(image: &Image, containers: &[Container]) -> Value {
    let id = image.id.to_string();
    let users: Vec<_> =
        containers.iter().filter(|container| container.image_id == id).map(|user| &user.id).collect();
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    json!({
        "ID": id,
        "Descriptor": { "mediaType": cirro_image::media::DOCKER_CONFIG, "digest": id, "size": image.size },
        "Available": true,
        "Size": { "Content": 0, "Total": image.size },
        "Kind": "image",
        "ImageData": {
            "Platform": {
                "architecture": or(&image.config.architecture, cirro_image::ARCHITECTURE),
                "os": or(&image.config.os, "linux"),
            },
            "Containers": users,
            "Size": { "Unpacked": image.size },
        },
    })
}

/// Writes a row of the list.
pub(crate) fn summary(image: &Image, version: ApiVersion, containers: &[Container]) -> Value {
    let id = image.id.to_string();
    let users = containers.iter().filter(|container| container.image_id == id).count();
    let mut row = json!({
        "Id": id,
        "ParentId": "",
        "RepoTags": repo_tags(image),
        "RepoDigests": repo_digests(image),
        "Created": created_seconds(image),
        "Size": image.size,
        "SharedSize": -1,
        "Labels": image.config.config.labels,
        "Containers": users,
    });
    // Taken away in API 1.44.
    if version.minor < 44 {
        row["VirtualSize"] = json!(image.size);
    }
    // Older clients know images without a name by this one.
    if version.minor < 43 {
        if repo_tags(image).is_empty() {
            row["RepoTags"] = json!(["<none>:<none>"]);
        }
        if image.tags.is_empty() {
            row["RepoDigests"] = json!(["<none>@<none>"]);
        }
    }
    row
}

/// Times of creation that the filters `before`, `since` and `until` give.
struct Bounds {
    before: Option<i64>,
    since: Option<i64>,
}

impl Bounds {
    async fn new(engine: &Engine, filters: &Filters) -> Result<Self, ApiError> {
        let mut bounds = [None, None];
        for (name, bound) in ["before", "since"].into_iter().zip(&mut bounds) {
            if let Some(image) = filters.values(name).and_then(|values| values.first()) {
                *bound = Some(created_seconds(&engine.image(image).await?));
            }
        }
        let until = filters.values("until").and_then(|values| values.first());
        let until =
            time::prune_until(until.map(String::as_str))?.map(|until| until.div_euclid(1_000_000_000));
        let [before, since] = bounds;
        let before = [before, until].into_iter().flatten().min();
        Ok(Self { before, since })
    }

    fn fits(&self, image: &Image) -> bool {
        let created = created_seconds(image);
        self.before.is_none_or(|before| created < before) && self.since.is_none_or(|since| created > since)
    }
}

/// Returns whether a name of the image fits a pattern: `busybox`, `busybox:1*`, `*/app`.
fn refers(image: &Image, pattern: &str) -> bool {
    image.tags.iter().any(|tag| reference_fits(tag, pattern))
}

fn reference_fits(tag: &ImageReference, pattern: &str) -> bool {
    let full = tag.to_string();
    let full_name = full.rsplit_once([':', '@']).map_or(full.as_str(), |(name, _)| name);
    [tag.familiar(), tag.familiar_name(), full.clone(), full_name.to_owned()]
        .iter()
        .any(|name| glob_fits(name.as_bytes(), pattern.as_bytes()))
}

/// Matches `*` (no slash) and `?`, in time proportional to the product of both lengths.
fn glob_fits(name: &[u8], pattern: &[u8]) -> bool {
    // `reached[i]`: the pattern so far fits the first i bytes.
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    for symbol in pattern {
        let mut next = vec![false; name.len() + 1];
        for (index, here) in reached.iter().enumerate() {
            match symbol {
                b'*' if *here || (index > 0 && next[index - 1] && name[index - 1] != b'/') => {
                    next[index] = true
                }
                b'?' if *here && name.get(index).is_some_and(|byte| *byte != b'/') => next[index + 1] = true,
                other if *here && name.get(index) == Some(other) => next[index + 1] = true,
                _ => (),
            }
        }
        reached = next;
    }
    reached[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_short_and_full_names() {
        for (name, pattern, expected) in [
            ("busybox", "busybox", true),
            ("busybox", "busy*", true),
            ("busybox:1.36", "busybox:1*", true),
            ("busybox:1.36", "busybox:2*", false),
            ("quay.io/a/app", "quay.io/*/app", true),
            ("quay.io/a/app", "quay.io/*", false),
            ("busybox", "docker.io/library/busybox", true),
            ("busybox", "b?sybox:latest", true),
            ("busybox", "box", false),
        ] {
            assert_eq!(reference_fits(&name.parse().unwrap(), pattern), expected, "{name} {pattern}");
        }
    }
}
