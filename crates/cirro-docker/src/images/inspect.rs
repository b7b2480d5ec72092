//! `GET /images/NAME/json`.

use axum::Json;
use axum::response::IntoResponse;
use cirro_image::Image;
use serde_json::{Value, json};

use super::{repo_digests, repo_tags};
use crate::Face;
use crate::containers::create::check_platform;
use crate::error::Answer;
use crate::info::go_architecture;
use crate::query::Params;
use crate::time;
use crate::version::ApiVersion;

/// Answers with the image's document.
pub(crate) async fn inspect(face: &Face, name: &str, version: ApiVersion, params: &Params) -> Answer {
    check_platform(params.text("platform"))?;
    let image = face.engine.image(name).await?;
    Ok(Json(document(&image, version)).into_response())
}

fn document(image: &Image, version: ApiVersion) -> Value {
    let config = &image.config;
    let layers: Vec<String> = config.rootfs.diff_ids.iter().map(ToString::to_string).collect();
    let comment = config.history.last().and_then(|entry| entry.comment.clone()).unwrap_or_default();
    let mut document = json!({
        "Id": image.id.to_string(),
        "RepoTags": repo_tags(image),
        "RepoDigests": repo_digests(image),
        "Parent": "",
        "Comment": comment,
        "Created": config.created.clone().unwrap_or_else(|| time::rfc3339_of_seconds(image.created_seconds)),
        "DockerVersion": "",
        "Author": config.author.clone().unwrap_or_default(),
        "Config": run_config(image),
        "Architecture": or(&config.architecture, go_architecture()),
        "Os": or(&config.os, "linux"),
        "Size": image.size,
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "RootFS": { "Type": "layers", "Layers": layers },
        "Metadata": { "LastTagTime": time::rfc3339_of_seconds(image.created_seconds) },
    });
    if let Some(variant) = config.extra.get("variant") {
        document["Variant"] = variant.clone();
    }
    if version.minor < 44 {
        document["VirtualSize"] = json!(image.size);
    }
    document
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// Returns the run configuration with the members that clients read even when the image has none.
fn run_config(image: &Image) -> Value {
    let config = &image.config.config;
    let mut value = serde_json::to_value(config).unwrap_or_default();
    for (name, empty) in [("Cmd", config.cmd.is_empty()), ("Entrypoint", config.entrypoint.is_empty())] {
        if empty {
            value[name] = Value::Null;
        }
    }
    for (name, default) in [
        ("Env", json!([])),
        ("User", json!("")),
        ("WorkingDir", json!("")),
        ("Volumes", Value::Null),
        ("Labels", Value::Null),
        ("OnBuild", Value::Null),
    ] {
        if value.get(name).is_none() {
            value[name] = default;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirro_types::{Digest, ImageConfig};
    use std::sync::Arc;

    #[test]
    fn the_document_has_what_clients_read() {
        let mut config =
            ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..ImageConfig::default() };
        config.config.cmd = vec!["sh".into()];
        config.rootfs.diff_ids = vec![Digest::of(b"layer")];
        let image = Image {
            id: Digest::of(b"config"),
            config: Arc::new(config),
            tags: vec!["busybox".parse().unwrap()],
            size: 5,
            created_seconds: 1_714_557_600,
        };
        let found = document(&image, ApiVersion { minor: 43 });
        assert_eq!(found["RepoTags"], json!(["busybox:latest"]));
        assert_eq!(found["Config"]["Cmd"], json!(["sh"]));
        assert_eq!(found["Config"]["Entrypoint"], Value::Null);
        assert_eq!(found["RootFS"]["Layers"][0], Digest::of(b"layer").to_string());
        assert_eq!(found["Created"], "2024-05-01T10:00:00Z");
        assert_eq!(found["VirtualSize"], 5);
        assert!(document(&image, ApiVersion::NEWEST).get("VirtualSize").is_none());
    }
}
