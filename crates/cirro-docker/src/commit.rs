//! `POST /commit`: a container becomes an image.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cirro_engine::Commit;
use cirro_types::ContainerConfig;
use http::{Request, StatusCode};
use serde_json::json;

use crate::Face;
use crate::body;
use crate::error::ApiError;
use crate::images::{self, reference};
use crate::query::Params;

/// Makes an image of a container.
pub(crate) async fn commit(
    State(face): State<Face>,
    params: Params,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let mut config: ContainerConfig = body::read(request.into_body()).await?;
    images::apply_changes(params.all("changes"), &mut config)?;
    let tag = match params.text("repo") {
        Some(repository) => Some(reference(repository, params.get("tag").unwrap_or_default())?),
        None => None,
    };
    let commit = Commit {
        tag,
        config,
        author: params.get("author").unwrap_or_default().to_owned(),
        comment: params.get("comment").unwrap_or_default().to_owned(),
        pause: params.flag_or("pause", true),
    };
    let container = params.get("container").unwrap_or_default();
    let id = face.engine.commit_container(container, commit).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": id.to_string() }))).into_response())
}
