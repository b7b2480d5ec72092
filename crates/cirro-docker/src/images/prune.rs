//! `POST /images/prune`.

use axum::Json;
use axum::extract::State;
use cirro_image::Image;
use serde_json::{Value, json};

use super::list::created_seconds;
use super::remove::rows;
use crate::Face;
use crate::error::ApiError;
use crate::filters::Filters;
use crate::query::Params;
use crate::time;

/// Removes images without a tag; with `dangling=false` also those without a user.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, &["dangling", "label", "label!", "until"])?;
    let all = !filters.switch("dangling")?.unwrap_or(true);
    let until = filters.values("until").and_then(|values| values.first());
    let until = time::prune_until(until.map(String::as_str))?.map(|until| until.div_euclid(1_000_000_000));
    let wanted = move |image: &Image| {
        filters.labels(&image.config.config.labels)
            && until.is_none_or(|until| created_seconds(image) <= until)
    };
    let (removed, reclaimed) = face.engine.prune_images(all, wanted).await?;
    face.engine.tell_all("image", "prune", &[("reclaimed", &reclaimed.to_string())]);
    Ok(Json(json!({ "ImagesDeleted": rows(&removed), "SpaceReclaimed": reclaimed })))
}
