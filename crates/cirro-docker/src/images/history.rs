//! `GET /images/NAME/history`.

use axum::Json;
use axum::response::IntoResponse;
use cirro_image::Image;
use serde_json::{Value, json};

use super::repo_tags;
use crate::Face;
use crate::containers::create::check_platform;
use crate::error::Answer;
use crate::query::Params;
use crate::time;

/// Answers with an image's steps, the last one first.
pub(crate) async fn history(face: &Face, name: &str, params: &Params) -> Answer {
    check_platform(params.text("platform"))?;
    let image = face.engine.image(name).await?;
    let sizes = face.engine.layer_sizes(&image).await?;
    Ok(Json(rows(&image, &sizes)).into_response())
}

fn rows(image: &Image, sizes: &[u64]) -> Vec<Value> {
    let mut sizes = sizes.iter();
    let mut rows: Vec<Value> = Vec::new();
    for entry in &image.config.history {
        let size = if entry.empty_layer { 0 } else { sizes.next().copied().unwrap_or_default() };
        rows.push(row(
            entry.created.as_deref().map_or(0, time::unix_seconds),
            entry.created_by.as_deref().unwrap_or_default(),
            entry.comment.as_deref().unwrap_or_default(),
            size,
        ));
    }
    // Layers that the history does not speak of.
    rows.extend(sizes.map(|size| row(image.created_seconds, "", "", *size)));
    rows.reverse();
    if let Some(top) = rows.first_mut() {
        top["Id"] = json!(image.id.to_string());
        top["Tags"] = json!(repo_tags(image));
    }
    rows
}

fn row(created: i64, created_by: &str, comment: &str, size: u64) -> Value {
    json!({
        "Id": "<missing>", "Created": created, "CreatedBy": created_by, "Tags": null, "Size": size,
        "Comment": comment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirro_types::{Digest, HistoryEntry, ImageConfig};
    use std::sync::Arc;

    #[test]
    fn sizes_go_to_the_steps_that_made_layers() {
        let step = |created_by: &str, empty_layer| HistoryEntry {
            created_by: Some(created_by.into()),
            empty_layer,
            ..HistoryEntry::default()
        };
        let history = vec![step("ADD rootfs", false), step("ENV A=b", true), step("RUN make", false)];
        let image = Image {
            id: Digest::of(b"x"),
            config: Arc::new(ImageConfig { history, ..ImageConfig::default() }),
            tags: vec!["app".parse().unwrap()],
            size: 30,
            created_seconds: 1,
        };
        let rows = rows(&image, &[10, 20]);
        let shown: Vec<_> =
            rows.iter().map(|row| (row["CreatedBy"].as_str().unwrap(), row["Size"].as_u64())).collect();
        assert_eq!(shown, [("RUN make", Some(20)), ("ENV A=b", Some(0)), ("ADD rootfs", Some(10))]);
        assert_eq!(rows[0]["Tags"], json!(["app:latest"]));
        assert_eq!(rows[1]["Id"], "<missing>");
    }
}
