//! `POST /build?version=2`: a build by BuildKit's rules, asked for in the classic way.
//!
//! The answer is JSON lines: parts of the build's record (`moby.buildkit.trace`, the protocol's bytes in base64), then
//! the image (`moby.image.id`) or the error.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cirro_buildkit::{Order, Told};
use futures_util::StreamExt;
use http::Request;
use serde::Deserialize;
use serde_json::json;

use super::jobs::Job;
use crate::Face;
use crate::body::{self, Upload};
use crate::build::limits;
use crate::build::{json_param, parse_tag};
use crate::error::ApiError;
use crate::line_stream;
use crate::query::Params;

/// The context is the client's, over its session.
const CLIENT_SESSION: &str = "client-session";
/// The context comes in another request, whose id has this before the build's.
const UPLOAD_REQUEST: &str = "upload-request";
/// Parameters of the classic builder's that BuildKit does not have, as dockerd: they are passed over.
const DOCKERFILE: &str = "Dockerfile";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    #[serde(rename = "Type")]
    kind: String,
    #[serde(default)]
    attrs: Option<BTreeMap<String, String>>,
}

/// Builds an image, or takes the context of a build that asks for it elsewhere.
pub(crate) async fn build(face: Face, params: Params, request: Request<Body>) -> Result<Response, ApiError> {
    let Upload { bytes, broken } = body::upload(request.into_body());
    let id = params.text("buildid").unwrap_or_default();
    if let Some(id) = id.strip_prefix(UPLOAD_REQUEST).and_then(|rest| rest.strip_prefix(':')) {
        let job = face.jobs.join(id)?;
        tokio::select! {
            given = job.give(bytes) => given?,
            error = broken.wait() => return Err(error),
        }
        return Ok(Response::new(Body::empty()));
    }
    let order = order(&params)?;
    let job = match id {
        "" => None,
        id => Some(face.jobs.join(id)?),
    };
    let remote = params.text("remote").unwrap_or_default();
    let upload = match (remote, &job) {
        (UPLOAD_REQUEST, Some(job)) => Some(job.take().await?),
        (UPLOAD_REQUEST, None) => return Err(ApiError::invalid("a build without an id has no upload")),
        ("", _) => Some(bytes),
        _ => None,
    };
    let reference = reference()?;
    let told = face.buildkit.start(reference, order, upload);
    let lines = line_stream::received(told).map(|told| line(&told));
    Ok(line_stream::json_lines(&face, until_cancelled(lines, job)))
}

/// Ends the lines, and so the build, when the client cancels it; says that the build is over when they end.
fn until_cancelled(
    lines: impl futures_util::Stream<Item = Bytes> + Send + 'static,
    job: Option<Job>,
) -> impl futures_util::Stream<Item = Bytes> + Send + 'static {
    let cancel = job.as_ref().map(|job| job.cancel.clone()).unwrap_or_default();
    let over = Over(job);
    let cancelled =
        futures_util::stream::once(std::future::ready(line(&Told::Failed("context canceled".into()))));
    let ended = cancel.clone();
    let lines = lines.take_until(cancel.cancelled_owned());
    let last = cancelled.filter(move |_| std::future::ready(ended.is_cancelled()));
    lines.chain(last).map(move |line| {
        let _ = &over;
        line
    })
}

/// Tells a context's request that its build is over.
struct Over(Option<Job>);

impl Drop for Over {
    fn drop(&mut self) {
        if let Some(job) = &self.0 {
            job.over();
        }
    }
}

fn reference() -> Result<String, ApiError> {
    use std::io::Read;
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| ApiError::failed(format!("read /dev/urandom: {error}")))?;
    Ok(hex::encode(bytes))
}

fn line(told: &Told) -> Bytes {
    match told {
        Told::Status(bytes) => {
            line_stream::line(&json!({ "id": "moby.buildkit.trace", "aux": BASE64_STANDARD.encode(bytes) }))
        }
        Told::Image(image) => {
            line_stream::line(&json!({ "id": "moby.image.id", "aux": { "ID": image.to_string() } }))
        }
        Told::Failed(message) => line_stream::error_line(message),
    }
}

/// Reads the query; the frontend's attributes are what dockerd makes of it.
fn order(params: &Params) -> Result<Order, ApiError> {
    let mut attributes = BTreeMap::new();
    let mut set = |name: &str, value: &str| drop(attributes.insert(name.to_owned(), value.to_owned()));
    for (parameter, name) in
        [("target", "target"), ("platform", "platform"), ("cgroupparent", "cgroup-parent")]
    {
        if let Some(value) = params.text(parameter).filter(|value| !value.is_empty()) {
            set(name, value);
        }
    }
    set("filename", params.text("dockerfile").filter(|name| !name.is_empty()).unwrap_or(DOCKERFILE));
    match params.text("remote").unwrap_or_default() {
        "" | CLIENT_SESSION | UPLOAD_REQUEST => {}
        address => set("context", address),
    }
    if params.flag("nocache") {
        set("no-cache", "");
    }
    if params.flag("pull") {
        set("image-resolve-mode", "pull");
    }
    match params.text("networkmode").unwrap_or_default() {
        mode @ ("host" | "none") => set("force-network-mode", mode),
        "" | "default" => {}
        mode => {
            return Err(ApiError::failed(format!("network mode {mode:?} not supported by buildkit")));
        }
    }
    let build_args = json_param::<BTreeMap<String, Option<String>>>(params, "buildargs")?;
    for (name, value) in build_args.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        set(&format!("build-arg:{name}"), value);
    }
    for (name, value) in json_param::<BTreeMap<String, String>>(params, "labels")? {
        set(&format!("label:{name}"), &value);
    }
    let limits = limits::parse(params)?;
    if let Some(size) = limits.shm_size {
        set("shm-size", &size.to_string());
    }
    let ulimits = limits.ulimits.iter();
    let ulimits =
        ulimits.map(|(name, soft, hard)| format!("{name}={}:{}", soft.cast_signed(), hard.cast_signed()));
    set("ulimit", &ulimits.collect::<Vec<_>>().join(","));
    set("add-hosts", &hosts(params)?);
    Ok(Order {
        attributes,
        outputs: outputs(params)?,
        session: params.text("session").unwrap_or_default().to_owned(),
    })
}

/// Returns `name=address` for each host; `host-gateway` stays for the builder to resolve.
fn hosts(params: &Params) -> Result<String, ApiError> {
    let hosts = params.text("extrahosts").map(crate::build::extra_hosts).unwrap_or_default();
    let host = |text: &String| {
        let (name, address) =
            text.split_once(':').ok_or_else(|| ApiError::invalid(format!("invalid host {text}")))?;
        Ok(format!("{name}={address}"))
    };
    let hosts: Vec<String> =
        hosts.iter().filter(|host| !host.is_empty()).map(host).collect::<Result<_, ApiError>>()?;
    Ok(hosts.join(","))
}

/// An exporter and its attributes.
type Export = (String, BTreeMap<String, String>);

fn outputs(params: &Params) -> Result<Vec<Export>, ApiError> {
    let mut outputs = json_param::<Vec<Output>>(params, "outputs")?;
    if outputs.len() > 1 {
        return Err(ApiError::failed("multiple outputs not supported"));
    }
    if outputs.is_empty() {
        outputs.push(Output { kind: "moby".into(), attrs: None });
    }
    let tags = params.all("t").filter(|tag| !tag.is_empty()).map(parse_tag);
    let tags: Vec<String> = tags.map(|tag| tag.map(|tag| tag.to_string())).collect::<Result<_, _>>()?;
    Ok(outputs
        .into_iter()
        .map(|output| {
            let mut attributes = output.attrs.unwrap_or_default();
            if matches!(output.kind.as_str(), "moby" | "image" | "docker" | "oci") && !tags.is_empty() {
                attributes.insert("name".into(), tags.join(","));
            }
            (output.kind, attributes)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(query: &[(&str, &str)]) -> Params {
        Params(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn the_clis_query_becomes_attributes() {
        let order = order(&params(&[
            ("buildargs", r#"{"A":"b","NONE":null}"#),
            ("labels", r#"{"x":"y"}"#),
            ("t", "a"),
            ("t", "b:1"),
            ("session", "s"),
            ("remote", "client-session"),
            ("networkmode", "default"),
            ("extrahosts", "a:10.0.0.1"),
            ("ulimits", r#"[{"Name":"nofile","Soft":64,"Hard":128}]"#),
            ("nocache", "1"),
        ]))
        .unwrap();
        let get = |name: &str| order.attributes.get(name).map(String::as_str);
        assert_eq!(get("build-arg:A"), Some("b"));
        assert_eq!(get("build-arg:NONE"), None);
        assert_eq!(
            (get("label:x"), get("no-cache"), get("filename")),
            (Some("y"), Some(""), Some("Dockerfile"))
        );
        assert_eq!((get("add-hosts"), get("ulimit")), (Some("a=10.0.0.1"), Some("nofile=64:128")));
        assert_eq!((get("context"), order.session.as_str()), (None, "s"));
        let (kind, attributes) = &order.outputs[0];
        assert_eq!(kind, "moby");
        assert_eq!(attributes["name"], "docker.io/library/a:latest,docker.io/library/b:1");
    }

    #[test]
    fn outputs_are_read() {
        let local = order(&params(&[("outputs", r#"[{"Type":"local","Attrs":{}}]"#), ("t", "a")])).unwrap();
        assert_eq!(local.outputs, [("local".to_owned(), BTreeMap::new())]);
        let two = params(&[("outputs", r#"[{"Type":"local"},{"Type":"tar"}]"#)]);
        assert_eq!(order(&two).unwrap_err().message, "multiple outputs not supported");
    }
}
