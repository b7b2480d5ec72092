//! Archives: `GET /images/get` and `POST /images/load`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::PollNext;
use futures_util::{Stream, StreamExt};
use http::Request;
use serde_json::json;
use tokio::sync::mpsc;

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
    let pieces = line_stream::received(pieces).map(|piece| piece.map_err(std::io::Error::other));
    Ok(line_stream::flowing(face, "application/x-tar", pieces))
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
    let mut loading = Box::pin(async move {
        tokio::select! {
            loaded = engine.load_images(bytes, progress) => loaded.map_err(ApiError::from).map(drop),
            error = broken.wait() => Err(error),
        }
    });
    // An archive that is refused at once gets a status; once a line has gone out, an error is a line.
    let (first, running) = tokio::select! {
        biased;
        first = told.recv() => (first, Some(loading)),
        result = &mut loading => {
            result?;
            (None, None)
        }
    };
    let lines = futures_util::stream::iter(first).chain(line_stream::received(told));
    let end =
        futures_util::stream::iter(running).then(|running| running).filter_map(async |end| failure(end));
    Ok(line_stream::json_lines(&face, side_by_side(lines.map(|text| told_line(&text)), end)))
}

/// Runs two streams at the same time; lines of the first that are there go out first.
fn side_by_side(
    one: impl Stream<Item = Bytes> + Send,
    other: impl Stream<Item = Bytes> + Send,
) -> impl Stream<Item = Bytes> + Send {
    futures_util::stream::select_with_strategy(one, other, |(): &mut ()| PollNext::Left)
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

    #[tokio::test]
    async fn what_was_told_comes_before_the_error_that_ended_it() {
        let (sender, told) = mpsc::channel(4);
        sender.try_send(told_line("Loaded image: busybox:latest")).unwrap();
        drop(sender);
        let end = futures_util::stream::iter(failure(Err(ApiError::invalid("not a tar"))));
        let lines: Vec<Bytes> = side_by_side(line_stream::received(told), end).collect().await;
        assert_eq!(lines[0], "{\"stream\":\"Loaded image: busybox:latest\\n\"}\r\n");
        assert_eq!(lines[1], "{\"error\":\"not a tar\",\"errorDetail\":{\"message\":\"not a tar\"}}\r\n");
        assert_eq!(lines.len(), 2);
    }
}
