//! The scale subresource: `autoscaling/v1` Scale over `spec.replicas`.

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::Call;
use super::apply::is_apply;
use super::write::{Patch, read_body};
use crate::admission::outside::{Operation, told};
use crate::custom::{ScalePaths, follow_members};
use crate::decode;
use crate::error;
use crate::json;
use crate::managed;
use crate::registry::{Kind, Subresource};
use crate::storage::{Target, Tracking};
use crate::table;

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

impl Call {
    /// Answers with the scale.
    pub(super) async fn get_scale(&self) -> Result<Response<Body>, ApiError> {
        let object = self.server.storage.get(self.place()).await?;
        let kind = &self.served.kind;
        Ok(self.answer().foreign(StatusCode::OK, &scale_of(kind, &object)))
    }

    /// Replaces the scale.
    pub(super) async fn update_scale(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (media_type, body) = read_body(request).await?;
        let wanted = decode::decode(&media_type, &body)?.value;
        self.change_scale(|_| Ok(wanted.clone())).await
    }

    /// Patches the scale.
    pub(super) async fn patch_scale(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        if is_apply(&request) {
            return self.apply_scale(request).await;
        }
        let patch = Patch::read(request).await?;
        self.change_scale(|scale| patch.apply(SCHEMA, scale)).await
    }

    /// Applies a scale: what it says becomes the manager's in the object itself.
    async fn apply_scale(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (_, body) = read_body(request).await?;
        let wanted = decode::decode("application/yaml", &body)?.value;
        if json::text(&wanted, "apiVersion") != "autoscaling/v1" || json::text(&wanted, "kind") != "Scale" {
            let what = "apiVersion autoscaling/v1 and kind Scale must be set in an applied scale";
            return Err(error::bad_request(what));
        }
        let manager = self.applying_manager()?;
        let kind = &self.served.kind;
        let place = self.place();
        let mut config = json!({"metadata": {"name": place.name}});
        if let Some(replicas) = json::at(&wanted, "spec.replicas") {
            let replicas =
                replicas.as_i64().ok_or_else(|| error::bad_request("spec.replicas must be a number"))?;
            set_replicas(kind, &mut config, replicas);
        }
        let force = self.query.flag("force");
        let change = |old: &Value| {
            let mut new = managed::scale_applied(kind, old, &config, manager, force)?;
            let asked = json::text(&wanted, "metadata.resourceVersion");
            if !asked.is_empty() {
                new["metadata"]["resourceVersion"] = asked.into();
            }
            Ok(new)
        };
        self.write_scale(Tracking::Given, change).await
    }

    async fn change_scale(
        &self,
        change: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Response<Body>, ApiError> {
        let kind = &self.served.kind;
        let change = |old: &Value| {
            let wanted = change(&scale_of(kind, old))?;
            // Go's zero is left out of JSON and of protobuf.
            let replicas = match json::at(&wanted, "spec.replicas") {
                None => 0,
                Some(value) => {
                    value.as_i64().ok_or_else(|| error::bad_request("spec.replicas must be a number"))?
                }
            };
            let mut new = old.clone();
            set_replicas(kind, &mut new, replicas);
            new["metadata"]["resourceVersion"] = wanted["metadata"]["resourceVersion"].clone();
            Ok(new)
        };
        self.write_scale(Tracking::Difference, change).await
    }

    /// Changes an object by its scale; of that alone those are told who are to be asked.
    async fn write_scale(
        &self,
        tracking: Tracking,
        change: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
    ) -> Result<Response<Body>, ApiError> {
        let (place, kind, storage) = (self.place(), &self.served.kind, &self.server.storage);
        let mut decided = None;
        if storage.asks_outside().await? {
            let old = storage.get(place).await?;
            let (before, after) = (scale_of(kind, &old), scale_of(kind, &change(&old)?));
            let sent =
                self.admit_write(Subresource::Scale, Operation::Update, Some(&before), after.clone()).await?;
            let replicas = |scale: &Value| json::number(scale, "spec.replicas").unwrap_or(0);
            decided = Some(replicas(&sent)).filter(|decided| *decided != replicas(&after));
        }
        let change = |old: &Value| {
            let mut new = change(old)?;
            if let Some(decided) = decided {
                set_replicas(kind, &mut new, decided);
            }
            Ok(new)
        };
        let dry_run = self.query.dry_run()?;
        let updated = told(storage.modify_tracked(place, Target::Object, tracking, dry_run, change)).await?;
        Ok(self.answer().foreign(StatusCode::OK, &scale_of(kind, &updated)))
    }
}

/// Where the kind's definition says that the numbers are, if it came with one.
fn paths_of(kind: &Kind) -> Option<&ScalePaths> {
    kind.custom.as_ref()?.scale.as_ref()
}

fn set_replicas(kind: &Kind, object: &mut Value, replicas: i64) {
    let Some(paths) = paths_of(kind) else {
        object["spec"]["replicas"] = replicas.into();
        return;
    };
    let mut at = object;
    for member in &paths.spec_replicas {
        at = json::member_mut(at, member);
    }
    *at = replicas.into();
}

fn scale_of(kind: &Kind, object: &Value) -> Value {
    let (replicas, counted, selector) = match paths_of(kind) {
        None => {
            let selector = table::selector_of(object);
            let selector = if selector == "<none>" { String::new() } else { selector };
            (json::number(object, "spec.replicas"), json::number(object, "status.replicas"), selector)
        }
        Some(paths) => {
            let number = |members| follow_members(object, members).and_then(Value::as_i64);
            let selector =
                paths.selector.as_ref().and_then(|members| follow_members(object, members)?.as_str());
            (
                number(&paths.spec_replicas),
                number(&paths.status_replicas),
                selector.unwrap_or_default().to_owned(),
            )
        }
    };
    let mut metadata = json!({});
    for member in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata[member] = object["metadata"][member].clone();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": replicas.unwrap_or(0)},
        "status": {"replicas": counted.unwrap_or(0), "selector": selector}})
}
