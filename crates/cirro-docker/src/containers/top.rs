//! `GET /containers/{name}/top`.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use crate::Face;
use crate::error::ApiError;
use crate::query::Params;

/// Lists a container's processes.
pub(crate) async fn top(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    let ps_args = params.text("ps_args").unwrap_or("-ef");
    let (titles, processes) = face.engine.container_top(&name, ps_args).await?;
    Ok(Json(json!({ "Titles": titles, "Processes": processes })))
}
