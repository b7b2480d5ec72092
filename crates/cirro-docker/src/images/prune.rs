//! `POST /images/prune`.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::remove::rows;
use crate::Face;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::query::Params;

/// Removes images without a name; with `dangling=false` also those without a user.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, &["dangling", "label", "label!", "until"])?;
    for name in ["label", "label!", "until"] {
        if filters.values(name).is_some() {
            return Err(ApiError::not_supported(format!("the filter {name} of an image prune")));
        }
    }
    let all = !filters.switch("dangling")?.unwrap_or(true);
    let (removed, reclaimed) = face.engine.prune_images(all).await?;
    Ok(Json(json!({ "ImagesDeleted": rows(&removed), "SpaceReclaimed": reclaimed })))
}
