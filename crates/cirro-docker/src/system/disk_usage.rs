//! `/system/df`: what takes room.

use axum::Json;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::containers::changes::add_size;
use crate::containers::{list, listed};
use crate::error::ApiError;
use crate::query::Params;
use crate::version::ApiVersion;
use crate::{Face, build, images, volumes};

const KINDS: &[&str] = &["container", "image", "volume", "build-cache"];

/// Answers with images, containers and volumes; `type` chooses among them.
pub(crate) async fn get(
    State(face): State<Face>,
    version: ApiVersion,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let wanted: Vec<&str> = params.all("type").collect();
    if let Some(kind) = wanted.iter().find(|kind| !KINDS.contains(kind)) {
        return Err(ApiError::invalid(format!("unknown object type: {kind}")));
    }
    let wants = |kind: &str| wanted.is_empty() || wanted.contains(&kind);
    let containers = listed(&face.engine);
    let mut usage = Map::new();
    if wants("image") {
        let images = face.engine.images().await?;
        usage.insert("LayersSize".into(), json!(images::layers_size(&face.engine, &images).await?));
        let shared = images::list::shared_sizes(&face.engine, &images).await?;
        let rows = images.iter().map(|image| {
            let mut row = images::list::summary(image, version, &containers);
            row["SharedSize"] = json!(shared.get(&image.id).copied().unwrap_or_default());
            row
        });
        let rows = rows.collect();
        usage.insert("Images".into(), Value::Array(rows));
    }
    if wants("container") {
        let images = face.engine.images().await?;
        let mut rows = Vec::new();
        for container in &containers {
            let mut row = list::summary(container, &images);
            add_size(&face, &container.id, &mut row).await?;
            rows.push(row);
        }
        usage.insert("Containers".into(), Value::Array(rows));
    }
    if wants("volume") {
        let mut rows = Vec::new();
        for volume in face.engine.volumes() {
            rows.push(volumes::with_usage(&face, &volume, &containers).await?);
        }
        usage.insert("Volumes".into(), Value::Array(rows));
    }
    if wants("build-cache") {
        let cached = face.engine.build_cache().await?;
        let total: u64 = cached.iter().filter(|layer| !layer.shared).map(|layer| layer.size).sum();
        usage.insert("BuildCache".into(), cached.iter().map(build::prune::cache_row).collect());
        usage.insert("BuilderSize".into(), json!(total));
    }
    Ok(Json(Value::Object(usage)))
}
