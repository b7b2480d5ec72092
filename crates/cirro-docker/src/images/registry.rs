//! Registries: pull, push, `POST /auth`, `GET /distribution/NAME/json`, `GET /images/search`.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use cirro_image::{
    Credentials, PROGRESS_LINES, Platform, Progress, ProgressSink, PullRequest, RegistryError,
};
use cirro_types::ImageReference;
use futures_util::StreamExt;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::reference;
use crate::Face;
use crate::body;
use crate::error::{Answer, ApiError};
use crate::filters::Filters;
use crate::line_stream;
use crate::query::Params;

const AUTH: &str = "X-Registry-Auth";
/// Both forms of padding are sent by clients.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
const MAX_AUTH: usize = 64 << 10;
const SEARCH_LIMITS: std::ops::RangeInclusive<u32> = 1..=100;
const SEARCH_DEFAULT: u32 = 25;

/// Reads who asks. A header that cannot be read is taken as nobody, as in dockerd.
pub(crate) fn credentials(headers: &HeaderMap) -> Credentials {
    let read = || {
        let text = headers.get(AUTH)?.to_str().ok().filter(|text| text.len() <= MAX_AUTH)?;
        serde_json::from_slice(&BASE64.decode(text.replace('+', "-").replace('/', "_")).ok()?).ok()
    };
    read().unwrap_or_default()
}

/// Pulls an image, or with neither tag nor digest all of a repository.
pub(super) async fn pull(
    face: &Face,
    name: &str,
    params: &Params,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let name = name.trim_end_matches(':');
    let tag = params.get("tag").unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or(name);
    let all_tags = tag.is_empty() && !last.contains([':', '@']);
    let platform = params.text("platform").map(platform).transpose()?;
    let reference = reference(name, tag)?;
    let request = PullRequest { reference, all_tags, platform, credentials: credentials(headers) };
    let (sender, lines) = mpsc::channel(PROGRESS_LINES);
    let engine = face.engine.clone();
    let work = async move {
        let progress = ProgressSink::new(sender);
        engine.pull_image(request, &progress).await.map(drop)
    };
    flow(face, work, lines).await
}

/// Pushes a tag, or without one all of a repository.
pub(super) async fn push(face: &Face, name: &str, params: &Params, headers: &HeaderMap) -> Answer {
    if params.text("platform").is_some() {
        crate::containers::create::check_platform(params.text("platform"))?;
    }
    let tag = params.get("tag").unwrap_or_default();
    let last = name.rsplit('/').next().unwrap_or(name);
    let all_tags = tag.is_empty() && !last.contains([':', '@']);
    let reference = reference(name, tag)?;
    if reference.digest.is_some() {
        return Err(ApiError::invalid("cannot push a digest reference"));
    }
    let credentials = credentials(headers);
    let (sender, lines) = mpsc::channel(PROGRESS_LINES);
    let engine = face.engine.clone();
    let work = async move {
        let progress = ProgressSink::new(sender);
        engine.push_image(&reference, all_tags, &credentials, &progress).await
    };
    flow(face, work, lines).await
}

/// Answers with lines as they come. A failure before the first line has a status; later it is a line. When the
/// client leaves, the work ends.
async fn flow(
    face: &Face,
    work: impl Future<Output = Result<(), RegistryError>> + Send + 'static,
    mut lines: mpsc::Receiver<Progress>,
) -> Result<Response, ApiError> {
    let mut work = Box::pin(work);
    let first = tokio::select! {
        biased;
        line = lines.recv() => line,
        done = &mut work => {
            done.map_err(|error| refused(&error))?;
            None
        }
    };
    let first = futures_util::stream::iter(first.into_iter().map(|line| line_of(&line)));
    // The stream owns the work: it goes on only while someone reads, and ends with the connection.
    let rest = futures_util::stream::unfold((Some(work), lines), |(mut work, mut lines)| async move {
        let Some(running) = &mut work else {
            return lines.recv().await.map(|line| (line_of(&line), (work, lines)));
        };
        tokio::select! {
            biased;
            Some(line) = lines.recv() => Some((line_of(&line), (work, lines))),
            done = running => {
                let line = match done {
                    Ok(()) => Bytes::new(),
                    Err(error) => line_stream::error_line(&error.to_string()),
                };
                Some((line, (None, lines)))
            }
        }
    });
    let rest = rest.filter(|line| std::future::ready(!line.is_empty()));
    Ok(line_stream::json_lines(face, first.chain(rest)))
}

fn line_of(line: &Progress) -> Bytes {
    line_stream::line(&match line {
        Progress::Status { id: None, status } => json!({ "status": status }),
        Progress::Status { id: Some(id), status } => json!({ "status": status, "id": id }),
        Progress::Layer { id, status, bytes: None } => {
            json!({ "status": status, "progressDetail": {}, "id": id })
        }
        Progress::Layer { id, status, bytes: Some((current, total)) } => json!({
            "status": status,
            "progressDetail": { "current": current, "total": total },
            "progress": bar(*current, *total),
            "id": id,
        }),
        Progress::Pushed { tag, digest, size } => json!({
            "progressDetail": {},
            "aux": { "Tag": tag, "Digest": digest.to_string(), "Size": size },
        }),
    })
}

/// Draws what old clients show: `[=====>     ]  1.2MB/5MB`.
fn bar(current: u64, total: u64) -> String {
    let done = (current.min(total) * 50).checked_div(total).unwrap_or(50) as usize;
    let (full, empty) =
        if done >= 50 { ("=".repeat(50), String::new()) } else { ("=".repeat(done), " ".repeat(49 - done)) };
    format!("[{full}>{empty}]  {}/{}", units(current), units(total))
}

/// Writes a size with three digits, in powers of a thousand, as docker does.
fn units(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    let text = if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    };
    let text = if unit == "B" {
        format!("{value:.0}")
    } else if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    };
    format!("{text}{unit}")
}

/// Turns a registry's refusal into dockerd's status for it.
fn refused(error: &RegistryError) -> ApiError {
    let status = match error {
        RegistryError::NotFound(_) => StatusCode::NOT_FOUND,
        RegistryError::Refused { status: 401, .. } => StatusCode::UNAUTHORIZED,
        RegistryError::Image(cirro_image::ImageError::Invalid(_)) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    ApiError { status, message: chain(error) }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Reads a platform: `linux/amd64`, or a document as newer clients write it.
fn platform(text: &str) -> Result<Platform, ApiError> {
    if text.starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(format!("invalid platform: {error}")));
    }
    Platform::parse(text).map_err(|error| ApiError::invalid(error.to_string()))
}

/// `POST /auth`: says whether a registry takes a name and password.
pub(crate) async fn login(State(face): State<Face>, body: Body) -> Answer {
    let credentials: Credentials = body::read(body).await?;
    match face.engine.login_registry(&credentials).await {
        Ok(identity) => {
            let identity = identity.unwrap_or_default();
            Ok(Json(json!({ "Status": "Login Succeeded", "IdentityToken": identity })).into_response())
        }
        Err(error) => {
            let address = match credentials.serveraddress.as_str() {
                "" => "https://index.docker.io/v1/",
                address => address,
            };
            Err(match error {
                RegistryError::Refused { status: 401 | 403, .. } => ApiError {
                    status: StatusCode::UNAUTHORIZED,
                    message: format!("login attempt to {address} failed: {}", chain(&error)),
                },
                error => refused(&error),
            })
        }
    }
}

/// `GET /distribution/NAME/json`.
pub(crate) async fn distribution(
    State(face): State<Face>,
    Path(rest): Path<String>,
    headers: HeaderMap,
) -> Answer {
    let Some(name) = rest.strip_suffix("/json") else { return Err(ApiError::not_found("page not found")) };
    let Ok(reference) = name.parse::<ImageReference>() else {
        return Err(ApiError::invalid(format!("invalid reference format: {name}")));
    };
    let found = face.engine.distribution(&reference, &credentials(&headers)).await;
    let found = found.map_err(|error| match error {
        RegistryError::Refused { code, .. } if code == "manifest unknown" || code == "name unknown" => {
            ApiError::not_found(format!("no such manifest: {}", reference.familiar()))
        }
        RegistryError::Refused { code, .. } if code == "denied" => ApiError {
            status: StatusCode::FORBIDDEN,
            message: "errors:\ndenied: requested access to the resource is denied\n".into(),
        },
        error => refused(&error),
    })?;
    let document = json!({
        "Descriptor": {
            "mediaType": found.media_type, "digest": found.digest.to_string(), "size": found.size,
        },
        "Platforms": found.platforms,
    });
    Ok(Json(document).into_response())
}

/// `GET /images/search`: asks the hub.
pub(crate) async fn search(State(face): State<Face>, params: Params) -> Answer {
    let Some(term) = params.text("term") else { return Err(ApiError::invalid("term is required")) };
    let limit = params.number::<u32>("limit")?.filter(|limit| *limit != 0).unwrap_or(SEARCH_DEFAULT);
    if !SEARCH_LIMITS.contains(&limit) {
        return Err(ApiError::invalid(format!("limit {limit} is outside the range of [1, 100]")));
    }
    let filters = Filters::from_params(&params, &["is-automated", "is-official", "stars"])?;
    let (official, automated) = (filters.switch("is-official")?, filters.switch("is-automated")?);
    let mut stars = 0;
    for value in filters.values("stars").into_iter().flatten() {
        let least: i64 =
            value.parse().map_err(|_| ApiError::invalid(format!("invalid filter 'stars={value}'")))?;
        stars = stars.max(least);
    }
    let rows = face.engine.search_registry(term, limit).await.map_err(|error| refused(&error))?;
    let fits = |row: &&Value| {
        let is = |name: &str| row[name].as_bool().unwrap_or(false);
        official.is_none_or(|wanted| is("is_official") == wanted)
            && automated.is_none_or(|wanted| is("is_automated") == wanted)
            && row["star_count"].as_i64().unwrap_or(0) >= stars
    };
    Ok(Json(rows.iter().filter(fits).collect::<Vec<_>>()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_written_as_docker_writes_it() {
        let line = Progress::Layer {
            id: "abc".into(),
            status: "Downloading".into(),
            bytes: Some((1_500_000, 3_000_000)),
        };
        let value: Value = serde_json::from_slice(&line_of(&line)).unwrap();
        assert_eq!(value["progressDetail"], json!({"current": 1_500_000, "total": 3_000_000}));
        let bar = format!("[{}>{}]  1.5MB/3MB", "=".repeat(25), " ".repeat(24));
        assert_eq!(value["progress"], bar);
        assert_eq!(units(999), "999B");
        assert_eq!(units(123_456), "123kB");
        assert_eq!(units(0), "0B");
    }

    #[test]
    fn credentials_come_with_and_without_padding() {
        let mut headers = HeaderMap::new();
        for text in ["eyJ1c2VybmFtZSI6Im1lIn0=", "eyJ1c2VybmFtZSI6Im1lIn0"] {
            headers.insert(AUTH, text.parse().unwrap());
            assert_eq!(credentials(&headers).username, "me");
        }
        for text in ["", "%%%", "bm8="] {
            headers.insert(AUTH, text.parse().unwrap());
            assert_eq!(credentials(&headers), Credentials::default());
        }
    }

    #[test]
    fn platforms_come_as_words_and_documents() {
        assert_eq!(platform("linux/arm64").unwrap().architecture, "arm64");
        assert_eq!(platform(r#"{"os":"linux","architecture":"amd64"}"#).unwrap().architecture, "amd64");
        assert_eq!(platform("a b").unwrap_err().status, 400);
    }
}
