//! `POST /containers/prune`.

use axum::Json;
use axum::extract::State;
use cirro_seams::container::{Container, Owner, Phase};
use serde_json::{Value, json};

use super::listed;
use crate::Face;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::query::Params;
use crate::time;

/// Removes containers that do not run; with filters only those that fit.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, &["label", "label!", "until"])?;
    if filters.is_empty() {
        let (ids, reclaimed) = face.engine.prune_containers().await?;
        face.engine.tell_all("container", "prune", &[("reclaimed", &reclaimed.to_string())]);
        return Ok(answer(&ids, reclaimed));
    }
    let until = filters.values("until").and_then(|values| values.first());
    let until = time::prune_until(until.map(String::as_str))?;
    let mut removed = Vec::new();
    for container in listed(&face.engine) {
        if is_ended(&container) && filters.labels(&container.labels) && is_older(&container, until) {
            match face.engine.remove_container(&container.id, false, false).await {
                Ok(()) => removed.push(container.id),
                Err(error) => tracing::debug!(container = %container.id, %error, "not pruned"),
            }
        }
    }
    face.engine.tell_all("container", "prune", &[("reclaimed", "0")]);
    Ok(answer(&removed, 0))
}

fn answer(ids: &[String], reclaimed: u64) -> Json<Value> {
    Json(json!({ "ContainersDeleted": ids, "SpaceReclaimed": reclaimed }))
}

fn is_ended(container: &Container) -> bool {
    container.spec.owner == Owner::Docker
        && matches!(container.phase, Phase::Created | Phase::Exited | Phase::Dead)
}

fn is_older(container: &Container, until: Option<i64>) -> bool {
    let created = time::parse_rfc3339(&container.created_at).map(jiff::Timestamp::as_nanosecond);
    until.is_none_or(|until| created.is_some_and(|created| created <= i128::from(until)))
}
