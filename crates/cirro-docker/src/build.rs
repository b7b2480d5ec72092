//! `POST /build`: the classic builder's endpoint. A tar of the context goes in, JSON lines come out.

pub(crate) mod limits;
pub(crate) mod prune;

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest};
use cirro_engine::BuildContext;
use cirro_types::ImageReference;
use futures_util::{Stream, StreamExt};
use http::Request;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::Face;
use crate::body::{self, Upload};
use crate::containers::create::check_platform;
use crate::containers::fields::is_zero;
use crate::error::ApiError;
use crate::line_stream;
use crate::query::Params;

/// A context that the client would send over its session.
const CLIENT_SESSION: &str = "client-session";
const DOCKERFILE: &str = "Dockerfile";
/// The version of the builder that is BuildKit.
const BUILDKIT: &str = "2";
/// What a quiet build keeps of its output for the case that it fails.
const QUIET_BYTES: usize = 64 << 10;

/// Parameters of dockerd's that are refused when they are set to anything but nothing.
const REFUSED: &[&str] = &["outputs", "session"];

/// Builds an image. When the client leaves, the build stops.
pub(crate) async fn build(
    State(face): State<Face>,
    params: Params,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    if params.text("version") == Some(BUILDKIT) {
        return crate::buildkit::build(face, params, request).await;
    }
    // Taken first, so that a refusal still reads what the client sends.
    let Upload { bytes, broken } = body::upload(request.into_body());
    let request = build_request(&params)?;
    let context = match params.text("remote").filter(|remote| !remote.is_empty()) {
        // The CLI reads the addresses of tars and Dockerfiles itself; what it leaves to the daemon is git's.
        Some(remote) if remote != CLIENT_SESSION => BuildContext::Remote(remote.to_owned()),
        Some(_) => return Err(ApiError::not_supported("a context that is the client's session")),
        None => BuildContext::Upload(bytes),
    };
    let events = tokio::select! {
        events = face.engine.build_image(context, request) => events?,
        error = broken.wait() => return Err(error),
    };
    let mut report = Report::new(params.flag("q"));
    let lines = line_stream::received(events).flat_map(move |event| told(report.tell(event)));
    Ok(line_stream::json_lines(&face, lines))
}

fn told(lines: Vec<Bytes>) -> impl Stream<Item = Bytes> {
    futures_util::stream::iter(lines)
}

/// Reads the query.
fn build_request(params: &Params) -> Result<BuildRequest, ApiError> {
    if params.text("version").is_some_and(|version| version != "1") {
        return Err(ApiError::invalid("invalid version of the builder"));
    }
    check_platform(params.text("platform"))?;
    if params.flag("squash") {
        return Err(ApiError::invalid("squash is only supported with experimental mode"));
    }
    if params.text("securityopt").is_some_and(|options| options != "null") {
        return Err(ApiError::invalid(
            "The daemon on this platform does not support setting security options on build",
        ));
    }
    for name in REFUSED {
        if params.all(name).any(is_set) {
            return Err(ApiError::not_supported(format!("the build option {name}")));
        }
    }
    let tags = params.all("t").filter(|tag| !tag.is_empty()).map(parse_tag).collect::<Result<_, _>>()?;
    Ok(BuildRequest {
        dockerfile: params.text("dockerfile").unwrap_or(DOCKERFILE).to_owned(),
        tags,
        build_args: json_param::<BTreeMap<String, Option<String>>>(params, "buildargs")?,
        labels: json_param(params, "labels")?,
        target: params.text("target").map(str::to_owned),
        pull: params.flag("pull"),
        no_cache: params.flag("nocache"),
        network: network(params.text("networkmode"))?,
        extra_hosts: params.text("extrahosts").map(extra_hosts).unwrap_or_default(),
        limits: limits::parse(params)?,
        ..BuildRequest::default()
    })
}

/// Returns whether a parameter says more than nothing.
fn is_set(value: &str) -> bool {
    match value {
        "" | "0" | "false" => false,
        value => serde_json::from_str::<Value>(value).map_or(true, |value| !is_zero(&value)),
    }
}

pub(crate) fn parse_tag(tag: &str) -> Result<ImageReference, ApiError> {
    let invalid = || {
        ApiError::invalid(format!(
            "invalid argument \"{tag}\" for \"-t, --tag\" flag: invalid reference format"
        ))
    };
    tag.parse().ok().filter(|tag: &ImageReference| tag.digest.is_none()).ok_or_else(invalid)
}

pub(crate) fn json_param<T: DeserializeOwned + Default>(params: &Params, name: &str) -> Result<T, ApiError> {
    match params.text(name).filter(|text| *text != "null") {
        None => Ok(T::default()),
        Some(text) => serde_json::from_str(text)
            .map_err(|error| ApiError::invalid(format!("invalid value for {name}: {error}"))),
    }
}

fn network(mode: Option<&str>) -> Result<String, ApiError> {
    match mode {
        None | Some("default" | "bridge") => Ok("default".to_owned()),
        Some(mode @ ("none" | "host")) => Ok(mode.to_owned()),
        Some(mode) => Err(ApiError::not_supported(format!("building on the network {mode}"))),
    }
}

/// The CLI joins them with commas; a list in JSON is understood too.
pub(crate) fn extra_hosts(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|_| text.split(',').map(str::to_owned).collect())
}

/// Turns the builder's events into the lines that a client gets.
struct Report {
    quiet: bool,
    /// Output of a quiet build, told when it fails.
    held: Vec<u8>,
    /// The first bytes of a character whose rest is still to come.
    torn: Vec<u8>,
}

impl Report {
    fn new(quiet: bool) -> Self {
        Self { quiet, held: Vec::new(), torn: Vec::new() }
    }

    fn tell(&mut self, event: Result<BuildEvent, String>) -> Vec<Bytes> {
        match event {
            Ok(BuildEvent::Line(text)) => {
                self.output(format!("{}\n", text.trim_end_matches('\n')).as_bytes())
            }
            Ok(BuildEvent::Output(bytes)) => self.output(&bytes),
            // The lines say the same.
            Ok(
                BuildEvent::Step(_) | BuildEvent::Outline(_) | BuildEvent::Looking(_) | BuildEvent::Found(_),
            ) => Vec::new(),
            Ok(BuildEvent::Image(id)) if self.quiet => vec![stream(&format!("{id}\n"))],
            Ok(BuildEvent::Image(id)) => vec![line_stream::line(&json!({ "aux": { "ID": id.to_string() } }))],
            Err(message) => {
                let held = std::mem::take(&mut self.held);
                let mut lines = Vec::new();
                if !held.is_empty() {
                    lines.push(stream(&String::from_utf8_lossy(&held)));
                }
                lines.push(line_stream::error_line(&message));
                lines
            }
        }
    }

    fn output(&mut self, bytes: &[u8]) -> Vec<Bytes> {
        if !self.quiet {
            let mut bytes = [&std::mem::take(&mut self.torn), bytes].concat();
            self.torn = bytes.split_off(whole_characters(&bytes));
            return if bytes.is_empty() {
                Vec::new()
            } else {
                vec![stream(&String::from_utf8_lossy(&bytes))]
            };
        }
        self.held.extend_from_slice(bytes);
        let surplus = self.held.len().saturating_sub(QUIET_BYTES);
        self.held.drain(..surplus);
        Vec::new()
    }
}

/// Returns the length without a character that is cut off at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    let tail = bytes.iter().rev().take(4).position(|byte| byte & 0xc0 != 0x80);
    let Some(behind) = tail else { return bytes.len() };
    let start = bytes.len() - 1 - behind;
    let length = match bytes[start] {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
        _ => 1,
    };
    if behind + 1 < length { start } else { bytes.len() }
}

fn stream(text: &str) -> Bytes {
    line_stream::line(&json!({ "stream": text }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirro_types::Digest;

    fn params(query: &[(&str, &str)]) -> Params {
        Params(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn the_clis_query_is_understood() {
        let request = build_request(&params(&[
            ("buildargs", r#"{"A":"b","HTTP_PROXY":null}"#),
            ("cachefrom", "[]"),
            ("cgroupparent", ""),
            ("cpuperiod", "0"),
            ("cpuquota", "0"),
            ("cpusetcpus", ""),
            ("cpusetmems", ""),
            ("cpushares", "0"),
            ("dockerfile", "Dockerfile"),
            ("labels", r#"{"tier":"front"}"#),
            ("memory", "0"),
            ("memswap", "0"),
            ("networkmode", "default"),
            ("rm", "1"),
            ("shmsize", "0"),
            ("t", "my-express-app"),
            ("t", "me/app:v2"),
            ("target", ""),
            ("ulimits", "null"),
            ("version", "1"),
        ]))
        .unwrap();
        assert_eq!(request.tags.len(), 2);
        assert_eq!(request.build_args["A"].as_deref(), Some("b"));
        assert_eq!(request.build_args["HTTP_PROXY"], None);
        assert_eq!(request.labels["tier"], "front");
        assert_eq!((request.target, request.network.as_str()), (None, "default"));
        assert_eq!(request.limits, Default::default());
    }

    #[test]
    fn what_the_builder_cannot_do_is_refused() {
        for (name, value, status) in [
            ("version", "3", 400),
            ("cgroupparent", "..", 400),
            ("squash", "1", 400),
            ("securityopt", r#"["seccomp=unconfined"]"#, 400),
            ("cpushares", "-5", 400),
            ("ulimits", r#"[{"Name":"nofile","Soft":9,"Hard":5}]"#, 400),
            ("shmsize", "-1", 400),
            ("networkmode", "front", 501),
            ("platform", "linux/s390x", 501),
            ("t", "UPPER", 400),
            ("buildargs", "x", 400),
        ] {
            assert_eq!(
                build_request(&params(&[(name, value)])).unwrap_err().status,
                status,
                "{name}={value}"
            );
        }
    }

    fn text(lines: Vec<Bytes>) -> String {
        lines.iter().map(|line| String::from_utf8(line.to_vec()).unwrap()).collect()
    }

    #[test]
    fn events_become_the_classic_builders_lines() {
        let mut report = Report::new(false);
        assert_eq!(
            text(report.tell(Ok(BuildEvent::Line("Step 1/1 : FROM x".into())))),
            "{\"stream\":\"Step 1/1 : FROM x\\n\"}\r\n"
        );
        let id = Digest::of(b"x");
        let image = text(report.tell(Ok(BuildEvent::Image(id))));
        assert_eq!(image, format!("{{\"aux\":{{\"ID\":\"{id}\"}}}}\r\n"));
        assert!(text(report.tell(Err("no".into()))).contains("\"errorDetail\":{\"message\":\"no\"}"));
    }

    #[test]
    fn a_character_that_is_torn_apart_is_put_together_again() {
        let mut report = Report::new(false);
        let told: Vec<Bytes> = [
            "grün €\n".as_bytes()[..3].to_vec(),
            "grün €\n".as_bytes()[3..8].to_vec(),
            "grün €\n".as_bytes()[8..].to_vec(),
        ]
        .into_iter()
        .flat_map(|piece| report.tell(Ok(BuildEvent::Output(piece.into()))))
        .collect();
        assert_eq!(text(told), "{\"stream\":\"gr\"}\r\n{\"stream\":\"ün \"}\r\n{\"stream\":\"€\\n\"}\r\n");
        assert_eq!(whole_characters(b"\x80\x80\x80\x80\x80"), 5);
    }

    #[test]
    fn a_quiet_build_tells_its_id_alone_and_its_output_when_it_fails() {
        let mut report = Report::new(true);
        assert!(report.tell(Ok(BuildEvent::Output(Bytes::from_static(b"making\n")))).is_empty());
        let id = Digest::of(b"x");
        assert_eq!(text(report.tell(Ok(BuildEvent::Image(id)))), format!("{{\"stream\":\"{id}\\n\"}}\r\n"));
        let failure = text(report.tell(Err("no".into())));
        assert!(failure.contains("making") && failure.contains("\"error\":\"no\""), "{failure}");
    }
}
