//! `/containers/{name}/archive` (`docker cp`) and `/containers/{name}/export`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use cirro_engine::PutArchive;
use cirro_image::files::Found;
use http::{HeaderValue, Request, StatusCode};
use serde_json::{Value, json};

use crate::Face;
use crate::body::{self, Upload};
use crate::error::ApiError;
use crate::line_stream;
use crate::query::Params;

const TAR: &str = "application/x-tar";
const STAT: &str = "X-Docker-Container-Path-Stat";

/// Tells what a path is.
pub(crate) async fn head(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let found = face.engine.look_at_path(&name, path(&params)?).await?;
    Ok(with_stat(StatusCode::OK.into_response(), &found))
}

/// Sends what a path stands for as a tar.
pub(crate) async fn get(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let (found, pieces) = face.engine.get_archive(&name, path(&params)?).await?;
    Ok(with_stat(line_stream::flowing(&face, TAR, line_stream::pieces(pieces)), &found))
}

/// Unpacks a tar in a directory.
pub(crate) async fn put(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
    request: Request<Body>,
) -> Result<StatusCode, ApiError> {
    // Taken first, so that a refusal still reads what the client sends.
    let Upload { bytes, broken } = body::upload(request.into_body());
    let options =
        PutArchive { keep_kinds: params.flag("noOverwriteDirNonDir"), own: params.flag("copyUIDGID") };
    tokio::select! {
        done = face.engine.put_archive(&name, path(&params)?, bytes, options) => done?,
        error = broken.wait() => return Err(error),
    }
    Ok(StatusCode::OK)
}

/// Sends a container's root as a tar.
pub(crate) async fn export(State(face): State<Face>, Path(name): Path<String>) -> Result<Response, ApiError> {
    let pieces = face.engine.export_container(&name).await?;
    Ok(line_stream::flowing(&face, "application/octet-stream", line_stream::pieces(pieces)))
}

fn path(params: &Params) -> Result<&str, ApiError> {
    params.text("path").ok_or_else(|| ApiError::invalid("bad parameter: missing parameter: path"))
}

fn with_stat(mut response: Response, found: &Found) -> Response {
    let text = base64::engine::general_purpose::STANDARD.encode(stat(found).to_string());
    let value = HeaderValue::try_from(text).expect("base64 is a header's value");
    response.headers_mut().insert(STAT, value);
    response
}

fn stat(found: &Found) -> Value {
    let nanoseconds = i32::try_from(found.stat.st_mtime_nsec).unwrap_or(0);
    let modified = jiff::Timestamp::new(found.stat.st_mtime, nanoseconds).unwrap_or_default();
    json!({
        "name": found.name,
        "size": found.stat.st_size,
        "mode": go_mode(found.stat.st_mode),
        "mtime": modified.to_string(),
        "linkTarget": found.link_target.as_deref().unwrap_or_default(),
    })
}

/// Returns a file's mode as Go writes it, which is docker's way.
///
/// Source: Go `io/fs`, `FileMode`.
fn go_mode(mode: u32) -> u32 {
    const BITS: [(u32, u32); 3] = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let kind = match mode & 0o170_000 {
        0o040_000 => 1 << 31,
        0o120_000 => 1 << 27,
        0o060_000 => 1 << 26,
        0o020_000 => 1 << 26 | 1 << 21,
        0o010_000 => 1 << 25,
        0o140_000 => 1 << 24,
        _ => 0,
    };
    let special: u32 = BITS.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go).sum();
    kind | special | mode & 0o777
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_go_does() {
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o040_755), 1 << 31 | 0o755);
        assert_eq!(go_mode(0o104_755), 1 << 23 | 0o755);
        assert_eq!(go_mode(0o041_777), 1 << 31 | 1 << 20 | 0o777);
        assert_eq!(go_mode(0o020_666), 1 << 26 | 1 << 21 | 0o666);
    }
}
