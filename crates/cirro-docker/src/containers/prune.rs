//! `POST /containers/prune`.

use axum::Json;
use axum::extract::State;
use cirro_seams::container::Container;
use serde_json::{Value, json};

use crate::Face;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::query::Params;
use crate::time;

/// Removes containers that do not run; with filters only those that fit.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, &["label", "label!", "until"])?;
    let until = filters.values("until").and_then(|values| values.first());
    let until = time::prune_until(until.map(String::as_str))?;
    let wanted = |container: &Container| filters.labels(&container.labels) && is_older(container, until);
    let (ids, reclaimed) = face.engine.prune_containers(wanted).await?;
    face.engine.tell_all("container", "prune", &[("reclaimed", &reclaimed.to_string())]);
    Ok(Json(json!({ "ContainersDeleted": ids, "SpaceReclaimed": reclaimed })))
}

fn is_older(container: &Container, until: Option<i64>) -> bool {
    let created = time::parse_rfc3339(&container.created_at).map(jiff::Timestamp::as_nanosecond);
    until.is_none_or(|until| created.is_some_and(|created| created <= i128::from(until)))
}
