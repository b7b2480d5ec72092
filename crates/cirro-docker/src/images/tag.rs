//! `POST /images/NAME/tag`.

use axum::response::IntoResponse;
use http::StatusCode;

use super::reference;
use crate::Face;
use crate::error::{Answer, ApiError};
use crate::query::Params;

/// Gives an image a name.
pub(crate) async fn tag(face: &Face, name: &str, params: &Params) -> Answer {
    let repository =
        params.text("repo").ok_or_else(|| ApiError::invalid("repository name must not be empty"))?;
    let target = reference(repository, params.get("tag").unwrap_or_default())?;
    if target.digest.is_some() {
        return Err(ApiError::invalid("refusing to create a tag with a digest reference"));
    }
    face.engine.tag_image(name, &target).await?;
    Ok(StatusCode::CREATED.into_response())
}
