//! `POST /build/prune`: the build cache is layers of the library and the directories of cache mounts.

use std::time::SystemTime;

use axum::Json;
use axum::extract::State;
use cirro_image::CachedLayer;
use serde_json::{Value, json};

use crate::Face;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::query::Params;
use crate::time;

const FILTERS: &[&str] = &["id", "inuse", "private", "shared", "type", "unused-for", "until"];
/// Limits of what is kept, which a cache without times of use cannot keep to.
const KEPT: &[&str] = &["keep-storage", "reserved-space", "max-used-space", "min-free-space"];
/// BuildKit's word for what a step left.
const REGULAR: &str = "regular";
/// BuildKit's word for the directory of a cache mount.
const CACHE_MOUNT: &str = "exec.cachemount";

/// Removes layers that only the build cache has, and the directories of cache mounts; with `all` the cache forgets those of
/// images too. No image is touched.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    for name in KEPT {
        if params.number::<i64>(name)?.unwrap_or(0) != 0 {
            return Err(ApiError::not_supported(format!("{name} of a build cache prune")));
        }
    }
    let wish = Wish::read(&params)?;
    let spaces = wish.clone();
    let pruned = face
        .engine
        .prune_build_cache(move |changed| spaces.wants_space(changed), move |layer| wish.wants_layer(layer));
    let (layers, reclaimed) = pruned.await?;
    face.buildkit.forget_contexts();
    face.engine.tell_all("builder", "prune", &[("reclaimed", &reclaimed.to_string())]);
    let ids: Vec<String> = layers.iter().map(cirro_types::Digest::hex).collect();
    Ok(Json(json!({ "CachesDeleted": ids, "SpaceReclaimed": reclaimed })))
}

/// What a prune is to take.
#[derive(Debug, Clone)]
struct Wish {
    all: bool,
    filters: Filters,
    shared: Option<bool>,
    in_use: Option<bool>,
    until: Option<SystemTime>,
}

impl Wish {
    fn read(params: &Params) -> Result<Self, ApiError> {
        let filters = Filters::from_params(params, FILTERS)?;
        let until = filters.values("until").or_else(|| filters.values("unused-for"));
        let until = time::prune_until(until.and_then(|values| values.first()).map(String::as_str))?;
        let private = filters.switch("private")?;
        let shared = filters.switch("shared")?.or(private.map(|private| !private));
        Ok(Self {
            all: params.flag("all") || shared == Some(true),
            in_use: filters.switch("inuse")?,
            shared,
            until: until.map(time::system_time),
            filters,
        })
    }

    fn wants_layer(&self, layer: &CachedLayer) -> bool {
        let old = self.until.is_none_or(|until| layer.made.is_some_and(|made| made <= until));
        let id = layer.diff_id.hex();
        old && (self.all || !layer.shared)
            && self.in_use != Some(true)
            && self.shared.is_none_or(|shared| shared == layer.shared)
            && self.filters.exact("type", REGULAR)
            && self.filters.any("id", |wanted| id.starts_with(wanted.trim_start_matches("sha256:")))
    }

    fn wants_space(&self, changed: SystemTime) -> bool {
        self.until.is_none_or(|until| changed <= until)
            && self.in_use != Some(true)
            && self.shared != Some(true)
            && self.filters.exact("type", CACHE_MOUNT)
            && self.filters.values("id").is_none()
    }
}

/// Writes a row of `GET /system/df`.
pub(crate) fn cache_row(layer: &CachedLayer) -> Value {
    let made = layer.made.and_then(|made| jiff::Timestamp::try_from(made).ok());
    let made = made.map_or_else(|| time::ZERO_TIME.to_owned(), |made| made.to_string());
    json!({
        "ID": layer.diff_id.hex(),
        "Type": REGULAR,
        "Description": "layer of a build",
        "InUse": false,
        "Shared": layer.shared,
        "Size": layer.size,
        "CreatedAt": made,
        "LastUsedAt": null,
        "UsageCount": 0,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cirro_types::Digest;

    use super::*;

    fn wish(query: &[(&str, &str)]) -> Wish {
        let params =
            Params(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect());
        Wish::read(&params).unwrap()
    }

    fn layer(shared: bool, age: u64) -> CachedLayer {
        let made = SystemTime::now().checked_sub(Duration::from_secs(age));
        CachedLayer { diff_id: Digest::of(b"x"), size: 1, shared, made }
    }

    #[test]
    fn what_images_have_goes_with_all_only() {
        assert!(wish(&[]).wants_layer(&layer(false, 5)));
        assert!(!wish(&[]).wants_layer(&layer(true, 5)));
        assert!(wish(&[("all", "1")]).wants_layer(&layer(true, 5)));
        assert!(wish(&[]).wants_space(SystemTime::now()));
    }

    #[test]
    fn filters_pick() {
        let with = |filters: &str| wish(&[("filters", filters)]);
        assert!(!with(r#"{"until":{"1h":true}}"#).wants_layer(&layer(false, 60)));
        assert!(with(r#"{"until":{"1h":true}}"#).wants_layer(&layer(false, 7200)));
        assert!(!with(r#"{"type":["exec.cachemount"]}"#).wants_layer(&layer(false, 60)));
        assert!(with(r#"{"type":["exec.cachemount"]}"#).wants_space(SystemTime::UNIX_EPOCH));
        assert!(with(r#"{"shared":["true"]}"#).wants_layer(&layer(true, 60)));
        assert!(!with(r#"{"id":["00"]}"#).wants_layer(&layer(false, 60)));
        assert!(Wish::read(&Params(vec![("filters".into(), r#"{"label":["x"]}"#.into())])).is_err());
    }
}
