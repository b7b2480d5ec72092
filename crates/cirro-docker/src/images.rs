//! Images: one file per verb. Their names have slashes, so verbs are split off the path here.

use axum::body::Body;
use axum::extract::{Path, State};
use cirro_engine::Engine;
use cirro_image::Image;
use cirro_types::{ContainerConfig, ImageReference};
use http::Request;

use crate::Face;
use crate::error::{Answer, ApiError};
use crate::query::Params;
use crate::version::ApiVersion;

pub(crate) mod archive;
pub(crate) mod create;
pub(crate) mod history;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod prune;
pub(crate) mod registry;
pub(crate) mod remove;
pub(crate) mod tag;

/// `GET /images/NAME/VERB`.
pub(crate) async fn get_verb(
    State(face): State<Face>,
    Path(rest): Path<String>,
    version: ApiVersion,
    params: Params,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "json")) => inspect::inspect(&face, name, version, &params).await,
        Some((name, "history")) => history::history(&face, name, &params).await,
        Some((name, "get")) => archive::save_names(&face, vec![name.to_owned()], &params).await,
        _ => Err(ApiError::not_found("page not found")),
    }
}

/// `POST /images/NAME/VERB`.
pub(crate) async fn post_verb(
    State(face): State<Face>,
    Path(rest): Path<String>,
    params: Params,
    request: Request<Body>,
) -> Answer {
    match rest.rsplit_once('/') {
        Some((name, "tag")) => tag::tag(&face, name, &params).await,
        Some((name, "push")) => registry::push(&face, name, &params, request.headers()).await,
        _ => Err(ApiError::not_found("page not found")),
    }
}

/// Sums up the layers of images, each layer once.
pub(crate) async fn layers_size(engine: &Engine, images: &[Image]) -> Result<u64, ApiError> {
    let mut sizes = std::collections::BTreeMap::new();
    for image in images {
        let layers = &image.config.rootfs.diff_ids;
        sizes.extend(layers.iter().copied().zip(engine.layer_sizes(image).await?));
    }
    Ok(sizes.values().sum())
}

/// Applies the instructions of a commit or an import to a configuration.
pub(crate) fn apply_changes<'a>(
    changes: impl Iterator<Item = &'a str>,
    config: &mut ContainerConfig,
) -> Result<(), ApiError> {
    cirro_build::apply_changes(changes, config).map_err(|error| ApiError::invalid(error.to_string()))
}

/// Makes a reference from docker's two parameters: a name and a tag (or digest).
pub(crate) fn reference(name: &str, tag: &str) -> Result<ImageReference, ApiError> {
    let text = match tag {
        "" => name.to_owned(),
        digest if digest.starts_with("sha256:") => format!("{name}@{digest}"),
        tag => format!("{name}:{tag}"),
    };
    text.parse().map_err(|_| ApiError::invalid(format!("invalid reference format: {text}")))
}

/// Returns the names that docker calls tags.
pub(crate) fn repo_tags(image: &Image) -> Vec<String> {
    image.tags.iter().filter(|tag| tag.digest.is_none()).map(ImageReference::familiar).collect()
}

/// Returns the names that docker calls digests.
pub(crate) fn repo_digests(image: &Image) -> Vec<String> {
    image.tags.iter().filter(|tag| tag.digest.is_some()).map(ImageReference::familiar).collect()
}
