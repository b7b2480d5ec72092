//! Archives: `GET /images/get` and `POST /images/load`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use cirro_image::Loaded;
use cirro_types::ImageReference;
use futures_util::StreamExt;
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
    let (progress, mut told) = mpsc::channel(64);
    let engine = face.engine.clone();
    let quiet = params.flag("quiet");
    // An archive that is refused at once gets a status; once a line has gone out, errors are lines.
    let mut loading = Box::pin(async move {
        tokio::select! {
            loaded = engine.load_images(bytes, progress) => loaded.map_err(ApiError::from),
            error = broken.wait() => Err(error),
        }
    });
    let first = tokio::select! {
        biased;
        line = told.recv() => line,
        result = &mut loading => return finished_at_once(&face, told, quiet, result).await,
    };
    let progress = futures_util::stream::iter(first).chain(line_stream::received(told)).map(progress_line);
    let progress = progress.filter(move |_| std::future::ready(!quiet));
    let result =
        futures_util::stream::once(loading).flat_map(|result| futures_util::stream::iter(outcome(result)));
    Ok(line_stream::json_lines(&face, side_by_side(progress, result)))
}

/// Answers when loading ended before it told anything.
async fn finished_at_once(
    face: &Face,
    mut told: mpsc::Receiver<String>,
    quiet: bool,
    result: Result<Vec<Loaded>, ApiError>,
) -> Result<Response, ApiError> {
    let loaded = result?;
    let mut lines = Vec::new();
    while let Ok(line) = told.try_recv() {
        if !quiet {
            lines.push(progress_line(line));
        }
    }
    lines.extend(outcome(Ok(loaded)));
    Ok(line_stream::json_lines(face, futures_util::stream::iter(lines)))
}

/// Runs two streams at the same time; lines of the first that are there go out first.
fn side_by_side(
    one: impl futures_util::Stream<Item = Bytes> + Send,
    other: impl futures_util::Stream<Item = Bytes> + Send,
) -> impl futures_util::Stream<Item = Bytes> + Send {
    futures_util::stream::select_with_strategy(one, other, |(): &mut ()| futures_util::stream::PollNext::Left)
}

fn progress_line(text: String) -> Bytes {
    line_stream::line(&json!({ "status": text }))
}

fn outcome(result: Result<Vec<Loaded>, ApiError>) -> Vec<Bytes> {
    match result {
        Ok(loaded) => loaded.iter().flat_map(loaded_lines).collect(),
        Err(error) => vec![line_stream::error_line(&error.message)],
    }
}

/// Tells what came: its names, or its id when it has none.
fn loaded_lines(loaded: &Loaded) -> Vec<Bytes> {
    let say = |text: String| line_stream::line(&json!({ "stream": text }));
    match loaded.tags.is_empty() {
        true => vec![say(format!("Loaded image ID: {}\n", loaded.id))],
        false => loaded
            .tags
            .iter()
            .map(ImageReference::familiar)
            .map(|name| say(format!("Loaded image: {name}\n")))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirro_types::Digest;

    #[test]
    fn names_are_told_and_else_the_id() {
        let id = Digest::of(b"x");
        let tags = vec!["busybox".parse().unwrap(), "me/app:v1".parse().unwrap()];
        let lines = outcome(Ok(vec![Loaded { id, tags }, Loaded { id, tags: Vec::new() }]));
        let text: String = lines.iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        let expected = format!(
            "{{\"stream\":\"Loaded image: busybox:latest\\n\"}}\r\n{{\"stream\":\"Loaded image: me/app:v1\\n\"}}\r\n\
             {{\"stream\":\"Loaded image ID: {id}\\n\"}}\r\n"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn an_error_after_the_head_is_a_line() {
        let lines = outcome(Err(ApiError::invalid("not a tar")));
        assert_eq!(
            &lines[0][..],
            b"{\"error\":\"not a tar\",\"errorDetail\":{\"message\":\"not a tar\"}}\r\n"
        );
    }
}
