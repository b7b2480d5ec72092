//! Archives: `GET /images/get` and `POST /images/load`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Request;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinError;

use crate::Face;
use crate::body::{self, Upload};
use crate::containers::create::check_platform;
use crate::error::{Answer, ApiError};
use crate::line_stream;
use crate::query::Params;

const MAX_NAMES: usize = 1000;
/// Lines that wait for the client.
const PROGRESS_LINES: usize = 64;

/// Saves the images that `names` says.
pub(crate) async fn save(State(face): State<Face>, params: Params) -> Answer {
    let names: Vec<String> = params.all("names").map(str::to_owned).collect();
    if names.is_empty() || names.len() > MAX_NAMES {
        return Err(ApiError::invalid(format!("names: want 1 to {MAX_NAMES} images")));
    }
    save_names(&face, names, &params).await
}

/// Streams a tar of images; unknown names are an error before the first byte.
pub(crate) async fn save_names(face: &Face, names: Vec<String>, params: &Params) -> Answer {
    for platform in params.all("platform") {
        check_platform(Some(platform))?;
    }
    let pieces = face.engine.save_images(names).await?;
    Ok(line_stream::flowing(face, "application/x-tar", line_stream::pieces(pieces)))
}

/// Loads the images of an archive.
pub(crate) async fn load(
    State(face): State<Face>,
    params: Params,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    for platform in params.all("platform") {
        check_platform(Some(platform))?;
    }
    let Upload { bytes, broken } = body::upload(request.into_body());
    let (progress, mut told) = mpsc::channel(PROGRESS_LINES);
    let engine = face.engine.clone();
    // Loading goes on when the client has sent all and left: what is half-way in is brought in.
    let loading = face.lifetime.tasks.spawn(async move {
        tokio::select! {
            loaded = engine.load_images(bytes, progress) => loaded.map_err(ApiError::from).map(drop),
            error = broken.wait() => Err(error),
        }
    });
    // An archive that is refused at once gets a status; once a line has gone out, an error is a line.
    let Some(first) = told.recv().await else {
        ended(loading.await)?;
        return Ok(line_stream::json_lines(&face, futures_util::stream::empty()));
    };
    let lines = futures_util::stream::iter([first]).chain(line_stream::received(told));
    let end = futures_util::stream::once(loading).filter_map(async |end| failure(ended(end)));
    Ok(line_stream::json_lines(&face, lines.map(|text| told_line(&text)).chain(end)))
}

/// Turns the end of the task into its result.
fn ended(end: Result<Result<(), ApiError>, JoinError>) -> Result<(), ApiError> {
    end.unwrap_or_else(|error| Err(ApiError::failed(format!("loading ended: {error}"))))
}

/// The library tells in docker's words what came: `Loaded image: busybox:latest`.
fn told_line(text: &str) -> Bytes {
    line_stream::line(&json!({ "stream": format!("{}\n", text.trim_end_matches('\n')) }))
}

fn failure(end: Result<(), ApiError>) -> Option<Bytes> {
    end.err().map(|error| line_stream::error_line(&error.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_one_line_end_and_an_error_is_a_line_of_its_own() {
        let line = "{\"stream\":\"Loaded image: busybox:latest\\n\"}\r\n";
        assert_eq!(told_line("Loaded image: busybox:latest"), line);
        assert_eq!(told_line("Loaded image: busybox:latest\n"), line);
        let error = failure(Err(ApiError::invalid("not a tar"))).unwrap();
        assert_eq!(error, "{\"error\":\"not a tar\",\"errorDetail\":{\"message\":\"not a tar\"}}\r\n");
        assert_eq!(failure(Ok(())), None);
    }
}
