//! `POST /containers/{name}/update`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use http::Request;
use serde_json::{Value, json};

use super::{fields, request, resources};
use crate::Face;
use crate::body;
use crate::error::ApiError;

/// Changes limits and the restart policy.
pub(crate) async fn update(
    State(face): State<Face>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Result<Json<Value>, ApiError> {
    let document = body::read_json(request.into_body()).await?;
    fields::check(fields::HOST_CONFIG, "", &document)?;
    let policy = match document.get("RestartPolicy") {
        Some(policy) => body::decode(policy.clone())?,
        None => request::RestartPolicy::default(),
    };
    // An empty name leaves the policy as it is.
    let policy = match policy.name.is_empty() {
        true => None,
        false => Some(resources::parse_restart(&policy)?),
    };
    let limits = resources::parse(&body::decode(document)?)?;
    let warnings = face.engine.update_container(&name, limits, policy).await?;
    Ok(Json(json!({ "Warnings": warnings })))
}
