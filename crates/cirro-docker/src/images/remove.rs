//! `DELETE /images/NAME`.

use axum::Json;
use axum::extract::{Path, State};
use cirro_image::Removed;
use serde_json::{Value, json};

use crate::Face;
use crate::containers::create::check_platform;
use crate::error::ApiError;
use crate::query::Params;

/// Removes a name or an image.
pub(crate) async fn remove(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    for platform in params.all("platforms") {
        check_platform(Some(platform))?;
    }
    let removed = face.engine.remove_image(&name, params.flag("force")).await?;
    Ok(Json(rows(&removed)))
}

/// Writes what went away.
pub(crate) fn rows(removed: &[Removed]) -> Value {
    let rows = removed.iter().map(|removed| match removed {
        Removed::Untagged(name) => json!({ "Untagged": name }),
        Removed::Deleted(digest) => json!({ "Deleted": digest.to_string() }),
    });
    Value::Array(rows.collect())
}
