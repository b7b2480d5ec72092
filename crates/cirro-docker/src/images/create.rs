//! `POST /images/create`: an import (`fromSrc`) or a pull (`fromImage`).

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use cirro_types::{HistoryEntry, ImageConfig};
use http::Request;
use serde_json::{Value, json};

use super::{reference, registry};
use crate::Face;
use crate::body::{self, Upload};
use crate::containers::create::check_platform;
use crate::error::ApiError;
use crate::info::go_architecture;
use crate::line_stream;
use crate::query::Params;

/// Imports a root filesystem, or answers for a pull.
pub(crate) async fn create(
    State(face): State<Face>,
    params: Params,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    match (params.text("fromImage"), params.text("fromSrc")) {
        (Some(image), _) => registry::pull(&face, image, &params, request.headers()).await,
        (None, Some("-")) => import(&face, &params, request.into_body()).await,
        (None, Some(_)) => Err(ApiError::not_supported("importing from a URL")),
        (None, None) => Err(ApiError::invalid("want fromImage or fromSrc")),
    }
}

fn told(face: &Face, lines: &[Value]) -> Response {
    let lines: Vec<Bytes> = lines.iter().map(line_stream::line).collect();
    line_stream::json_lines(face, futures_util::stream::iter(lines))
}

async fn import(face: &Face, params: &Params, body: Body) -> Result<Response, ApiError> {
    check_platform(params.text("platform"))?;
    // Taken first, so that a refusal still reads what the client sends.
    let Upload { bytes, broken } = body::upload(body);
    let tag = match params.text("repo") {
        Some(repository) => Some(reference(repository, params.get("tag").unwrap_or_default())?),
        None => None,
    };
    let config = imported_config(params)?;
    let id = tokio::select! {
        id = face.engine.import_image(bytes, config, tag) => id?,
        error = broken.wait() => return Err(error),
    };
    Ok(told(face, &[json!({ "status": id.to_string() })]))
}

fn imported_config(params: &Params) -> Result<ImageConfig, ApiError> {
    let created = jiff::Timestamp::now().to_string();
    let comment = params.text("message").unwrap_or("Imported from -");
    let mut config = ImageConfig {
        architecture: go_architecture().into(),
        os: "linux".into(),
        created: Some(created.clone()),
        history: vec![HistoryEntry {
            created: Some(created),
            comment: Some(comment.to_owned()),
            ..HistoryEntry::default()
        }],
        ..ImageConfig::default()
    };
    super::apply_changes(params.all("changes"), &mut config.config)?;
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_imported_image_says_where_it_came_from() {
        let params = Params(vec![
            ("changes".into(), "CMD [\"sh\"]".into()),
            ("changes".into(), "ENV A=b".into()),
            ("message".into(), "first".into()),
        ]);
        let config = imported_config(&params).unwrap();
        assert_eq!(config.history[0].comment.as_deref(), Some("first"));
        assert_eq!(config.config.cmd, ["sh"]);
        assert_eq!(config.config.env, ["A=b"]);
        assert_eq!(config.os, "linux");
    }
}
