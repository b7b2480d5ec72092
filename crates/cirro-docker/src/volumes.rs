//! Volumes of the driver `local`.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use cirro_engine::Volume;
use cirro_seams::container::Container;
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Face;
use crate::body;
use crate::containers::fields::is_zero;
use crate::containers::{listed, mounts};
use crate::error::ApiError;
use crate::filters::{Filters, name_fits};
use crate::query::Params;

/// The label by which docker knows volumes that nobody named.
const ANONYMOUS: &str = "com.docker.volume.anonymous";
const FILTERS: &[&str] = &["dangling", "driver", "label", "label!", "name"];

/// Lists volumes.
pub(crate) async fn list(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, FILTERS)?;
    let dangling = filters.switch("dangling")?;
    let containers = listed(&face.engine);
    let volumes = face.engine.volumes();
    let rows: Vec<Value> = volumes
        .iter()
        .filter(|volume| filters.any("name", |pattern| name_fits(&volume.name, pattern)))
        .filter(|volume| filters.exact("driver", "local") && filters.labels(&volume.labels))
        .filter(|volume| dangling.is_none_or(|dangling| dangling == (users(volume, &containers) == 0)))
        .map(document)
        .collect();
    Ok(Json(json!({ "Volumes": rows, "Warnings": null })))
}

fn users(volume: &Volume, containers: &[Container]) -> usize {
    let uses = |container: &&Container| {
        container.mounts.iter().any(|mount| mount.name.as_deref() == Some(volume.name.as_str()))
    };
    containers.iter().filter(uses).count()
}

fn document(volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created_at,
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint.to_string_lossy(),
        "Name": volume.name,
        "Options": if volume.options.is_empty() { Value::Null } else { json!(volume.options) },
        "Scope": "local",
    })
}

/// Writes a volume with what `docker system df` asks for; -1 for a size that is not ours to tell.
pub(crate) async fn with_usage(
    face: &Face,
    volume: &Volume,
    containers: &[Container],
) -> Result<Value, ApiError> {
    let size = face.engine.volume_size(volume).await?;
    let size = size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX));
    let mut document = document(volume);
    document["UsageData"] = json!({ "Size": size, "RefCount": users(volume, containers) });
    Ok(document)
}

fn find(face: &Face, name: &str) -> Result<Volume, ApiError> {
    let found = face.engine.volumes().into_iter().find(|volume| volume.name == name);
    found.ok_or_else(|| ApiError::not_found(format!("get {name}: no such volume")))
}

/// Answers with one volume.
pub(crate) async fn inspect(
    State(face): State<Face>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(document(&find(&face, &name)?)))
}

/// A volume to make, in docker's words.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateRequest {
    name: String,
    driver: String,
    driver_opts: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    cluster_volume_spec: Value,
}

/// Finds or makes a volume.
pub(crate) async fn create(State(face): State<Face>, request: Request<Body>) -> Result<Response, ApiError> {
    let request: CreateRequest = body::read(request.into_body()).await?;
    check(&request)?;
    let CreateRequest { name, labels, driver_opts, .. } = request;
    let volume = face.engine.create_volume(&name, labels, driver_opts).await?;
    Ok((StatusCode::CREATED, Json(document(&volume))).into_response())
}

fn check(request: &CreateRequest) -> Result<(), ApiError> {
    mounts::check_driver(&request.driver).map_err(|error| ApiError {
        message: format!("create {}: {}", request.name, error.message),
        ..error
    })?;
    if !is_zero(&request.cluster_volume_spec) {
        return Err(ApiError::not_supported("a cluster volume"));
    }
    match request.name.as_str() {
        "" => Ok(()),
        name => mounts::volume_name(name).map(drop),
    }
}

/// Removes a volume.
pub(crate) async fn remove(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    face.engine.remove_volume(&name, params.flag("force")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the anonymous volumes that no container uses; with `all` the named ones too.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, &["all", "label", "label!"])?;
    let all = filters.switch("all")?.unwrap_or(false);
    let containers = listed(&face.engine);
    let (mut removed, mut reclaimed) = (Vec::new(), 0);
    for volume in face.engine.volumes() {
        let wanted = all || volume.labels.contains_key(ANONYMOUS);
        if !wanted || users(&volume, &containers) > 0 || !filters.labels(&volume.labels) {
            continue;
        }
        let size = face.engine.volume_size(&volume).await?.unwrap_or_default();
        match face.engine.remove_volume(&volume.name, false).await {
            Ok(()) => {
                reclaimed += size;
                removed.push(volume.name);
            }
            Err(error) => tracing::debug!(volume = %volume.name, %error, "not pruned"),
        }
    }
    face.engine.tell_all("volume", "prune", &[("reclaimed", &reclaimed.to_string())]);
    Ok(Json(json!({ "VolumesDeleted": removed, "SpaceReclaimed": reclaimed })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::inspect::tests::sample;

    #[test]
    fn a_volume_tells_how_many_containers_use_it() {
        let volume = Volume {
            name: "cache".into(),
            mountpoint: "/v/cache".into(),
            created_at: "2024-05-01T10:00:00Z".into(),
            labels: BTreeMap::new(),
            options: BTreeMap::from([("o".into(), "bind".into())]),
        };
        assert_eq!(users(&volume, &[sample()]), 1);
        assert_eq!(document(&volume)["Options"], json!({"o": "bind"}));
        let other = Volume { name: "other".into(), options: BTreeMap::new(), ..volume };
        assert_eq!((users(&other, &[sample()]), document(&other)["Options"].is_null()), (0, true));
    }

    #[test]
    fn drivers_and_names_are_checked() {
        for (request, status) in
            [(json!({"Name": "x1", "Driver": "nfs"}), 404), (json!({"Name": "../x"}), 400)]
        {
            assert_eq!(check(&body::decode(request).unwrap()).unwrap_err().status, status);
        }
        check(&body::decode(json!({"Name": "", "Driver": "local"})).unwrap()).unwrap();
    }
}
