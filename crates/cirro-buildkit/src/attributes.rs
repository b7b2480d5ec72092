//! What a client asks of the Dockerfile frontend: its attributes, as a [`BuildRequest`].
//!
//! Source: BuildKit, `frontend/dockerui/config.go` and `frontend/dockerui/attr.go`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cirro_build::{BuildRequest, NamedContext, context_name};
use cirro_seams::build::StepLimits;
use cirro_seams::container::clean_cgroup_parent;

use cirro_grpc::{Code, Status};

const DOCKERFILE: &str = "Dockerfile";
const BUILD_ARG: &str = "build-arg:";
const LABEL: &str = "label:";
const CONTEXT: &str = "context:";
/// Goes with contexts that are results of other builds, which are refused by themselves.
const INPUT_METADATA: &str = "input-metadata:";
const HOST_GATEWAY: &str = "host-gateway";
/// What buildx says of the client and its directory, which nothing here depends on.
const IGNORED: &[&str] = &[
    // Cache of registries: the library's own is used.
    "cache-from",
    "cache-imports",
    "frontend.caps",
    "hostname",
    "local-sessionid:context",
    "local-sessionid:dockerfile",
    "multi-platform",
    "requestid",
    "source",
    "cmdline",
    "vcs:source",
    "vcs:revision",
    "vcs:localdir:context",
    "vcs:localdir:dockerfile",
    "image-resolve-mode",
    "filename",
    "context",
    "contextkey",
    "dockerfilekey",
    "target",
    "no-cache",
    "platform",
    "force-network-mode",
    "add-hosts",
    "shm-size",
    "ulimit",
    "cgroup-parent",
];

/// What is to be built, and where its files are.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The build, without its files.
    pub(crate) request: BuildRequest,
    /// Name of the Dockerfile in its directory.
    pub(crate) filename: String,
    /// Address of the context; it is the client's directory when absent.
    pub(crate) remote: Option<String>,
    /// Name of the client's directory that is the context.
    pub(crate) context_key: String,
    /// Name of the client's directory that has the Dockerfile, if it is named.
    pub(crate) dockerfile_key: Option<String>,
}

impl Asked {
    /// Reads attributes.
    ///
    /// # Errors
    /// If one of them asks for what is not there, or makes no sense.
    pub(crate) fn read(attributes: &BTreeMap<String, String>) -> Result<Self, Status> {
        let text = |name: &str| attributes.get(name).map(String::as_str).filter(|text| !text.is_empty());
        check_known(attributes)?;
        // Nothing for all of them.
        let no_cache_stages: Vec<String> =
            text("no-cache").iter().flat_map(|names| names.split(',')).map(str::to_owned).collect();
        let mut request = BuildRequest {
            dockerfile: text("filename").unwrap_or(DOCKERFILE).to_owned(),
            build_args: prefixed(attributes, BUILD_ARG).map(|(name, value)| (name, Some(value))).collect(),
            labels: prefixed(attributes, LABEL).collect(),
            target: text("target").map(str::to_owned),
            pull: text("image-resolve-mode") == Some("pull"),
            no_cache: attributes.contains_key("no-cache") && no_cache_stages.is_empty(),
            no_cache_stages,
            network: network(text("force-network-mode"))?,
            extra_hosts: text("add-hosts").map(hosts).transpose()?.unwrap_or_default(),
            limits: StepLimits {
                cgroup_parent: text("cgroup-parent").map(cgroup_parent).transpose()?,
                ..limits(text("shm-size"), text("ulimit"))?
            },
            contexts: contexts(attributes)?,
            ..BuildRequest::default()
        };
        request
            .build_args
            .retain(|name, _| !name.starts_with("BUILDKIT_") || name.starts_with("BUILDKIT_CONTEXT"));
        let platform = text("platform").unwrap_or_default();
        if platform.contains(',') {
            return Err(Status::unsupported("building for several platforms"));
        }
        if !cirro_build::is_host_platform(platform) {
            return Err(Status::unsupported(format!("building for the platform {platform}")));
        }
        Ok(Self {
            filename: request.dockerfile.clone(),
            request,
            remote: text("context").map(str::to_owned),
            context_key: text("contextkey").unwrap_or("context").to_owned(),
            dockerfile_key: text("dockerfilekey").map(str::to_owned),
        })
    }
}

/// Refuses what would silently be something else.
fn check_known(attributes: &BTreeMap<String, String>) -> Result<(), Status> {
    for (name, value) in attributes {
        let known = IGNORED.contains(&name.as_str())
            || [BUILD_ARG, LABEL, CONTEXT, INPUT_METADATA, "vcs:", "build-arg-", "local-sessionid:"]
                .iter()
                .any(|prefix| name.starts_with(prefix));
        let off = value.is_empty() || value == "false";
        if name == "requestid" && !off {
            return Err(Status::unsupported(format!("the frontend attribute {name}={value}")));
        }
        if let Some(kind) = name.strip_prefix("attest:").filter(|_| !is_disabled(value)) {
            return Err(Status::unsupported(format!("an attestation ({kind}) of an image in this library")));
        }
        if !known && !off && !name.starts_with("attest:") {
            return Err(Status::unsupported(format!("the frontend attribute {name}")));
        }
    }
    Ok(())
}

fn prefixed<'a>(
    attributes: &'a BTreeMap<String, String>,
    prefix: &'a str,
) -> impl Iterator<Item = (String, String)> + 'a {
    let named = attributes.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)));
    named.map(|(name, value)| (name.to_owned(), value.clone()))
}

fn network(mode: Option<&str>) -> Result<String, Status> {
    match mode {
        None | Some("default" | "sandbox") => Ok("default".into()),
        Some(mode @ ("none" | "host")) => Ok(mode.into()),
        Some(mode) => Err(invalid(format!("invalid network mode {mode}"))),
    }
}

fn invalid(message: impl Into<String>) -> Status {
    Status::new(Code::InvalidArgument, message)
}

/// Reads `name=address,name=address`; `host-gateway` stays for the builder to resolve.
fn hosts(text: &str) -> Result<Vec<String>, Status> {
    let host = |pair: &str| {
        let (name, address) = pair.split_once('=').ok_or_else(|| invalid(format!("invalid host {pair}")))?;
        let address = address.trim_start_matches('[').trim_end_matches(']');
        if address != HOST_GATEWAY && address.parse::<IpAddr>().is_err() {
            return Err(invalid(format!("failed to parse IP {address}")));
        }
        Ok(format!("{name}:{address}"))
    };
    text.split(',').map(host).collect()
}

/// Reads the named contexts; those for other platforms are left out.
fn contexts(attributes: &BTreeMap<String, String>) -> Result<BTreeMap<String, NamedContext>, Status> {
    let mut contexts = BTreeMap::new();
    for (name, text) in prefixed(attributes, CONTEXT) {
        let (name, platform) = name.split_once("::").unwrap_or((&name, ""));
        if !cirro_build::is_host_platform(platform) {
            continue;
        }
        let kept = context_name(name).map_err(invalid)?;
        contexts.insert(kept, NamedContext::parse(name, &text).map_err(invalid)?);
    }
    Ok(contexts)
}

/// Says whether an attestation is turned off.
fn is_disabled(value: &str) -> bool {
    value.split(',').any(|part| part == "disabled=true")
}

fn cgroup_parent(path: &str) -> Result<String, Status> {
    clean_cgroup_parent(path).ok_or_else(|| invalid(format!("invalid cgroup parent {path}")))
}

fn limits(shm_size: Option<&str>, ulimits: Option<&str>) -> Result<StepLimits, Status> {
    let number = |text: &str| text.parse().map_err(|_| invalid(format!("invalid number {text}")));
    let shm_size = shm_size.map(number).transpose()?;
    let ulimits = ulimits.unwrap_or_default().split(',').filter(|text| !text.is_empty());
    let ulimits = ulimits.map(|text| ulimit(text).ok_or_else(|| invalid(format!("invalid ulimit {text}"))));
    Ok(StepLimits {
        shm_size: shm_size.filter(|size| *size > 0),
        ulimits: ulimits.collect::<Result<_, _>>()?,
        ..StepLimits::default()
    })
}

/// Reads `name=soft:hard`; -1 is no limit.
fn ulimit(text: &str) -> Option<(String, u64, u64)> {
    let (name, values) = text.split_once('=')?;
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let number = |text: &str| Some(text.parse::<i64>().ok()?.cast_unsigned());
    Some((name.to_owned(), number(soft)?, number(hard)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Asked, Status> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Asked::read(&pairs.collect())
    }

    #[test]
    fn what_buildx_sends_is_understood() {
        let asked = read(&[
            ("filename", "Dockerfile.dev"),
            ("image-resolve-mode", "local"),
            ("build-arg:A", "b=c"),
            ("build-arg:BUILDKIT_INLINE_CACHE", "1"),
            ("label:tier", "front"),
            ("target", "final"),
            ("no-cache", ""),
            ("add-hosts", "a=10.0.0.1,b=::1,c=host-gateway"),
            ("context:alpine:latest", "docker-image://other"),
            ("context:src::linux/s390x", "local:src"),
            ("attest:provenance", "mode=min,disabled=true"),
            ("platform", "linux"),
            ("shm-size", "1048576"),
            ("ulimit", "nofile=64:128,core=-1"),
            ("force-network-mode", "host"),
            ("cgroup-parent", "builds"),
            ("vcs:revision", "abc"),
            ("frontend.caps", "moby.buildkit.frontend.subrequests+forward"),
            ("cache-imports", "[]"),
        ])
        .unwrap();
        let request = &asked.request;
        assert_eq!((asked.filename.as_str(), asked.context_key.as_str()), ("Dockerfile.dev", "context"));
        assert_eq!(request.build_args.len(), 1);
        assert_eq!(request.build_args["A"].as_deref(), Some("b=c"));
        assert_eq!(request.contexts, [("alpine".to_owned(), NamedContext::Image("other".into()))].into());
        assert_eq!(request.labels["tier"], "front");
        assert!(request.no_cache && !request.pull && asked.remote.is_none());
        assert_eq!(request.extra_hosts, ["a:10.0.0.1", "b:::1", "c:host-gateway"]);
        assert_eq!(request.limits.shm_size, Some(1 << 20));
        assert_eq!(request.limits.ulimits, [("nofile".into(), 64, 128), ("core".into(), u64::MAX, u64::MAX)]);
        assert_eq!(request.limits.cgroup_parent.as_deref(), Some("/builds"));
        assert_eq!(request.network, "host");
        assert_eq!(request.target.as_deref(), Some("final"));
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        for (name, value) in [
            ("platform", "linux/s390x"),
            ("platform", "linux/amd64,linux/arm64"),
            ("cgroup-parent", "/x/.."),
            ("requestid", "frontend.outline"),
            ("context:other", "oci-layout://x"),
            ("context:other", "input:target"),
            ("context:OTHER", "local:other"),
            ("add-hosts", "x=nowhere"),
            ("attest:provenance", "mode=max"),
            ("attest:sbom", "true"),
            ("unheard-of", "1"),
            ("force-network-mode", "front"),
            ("add-hosts", "x"),
            ("ulimit", "nofile"),
            ("shm-size", "many"),
        ] {
            let status = read(&[(name, value)]).unwrap_err();
            assert!(status.is(Code::Unimplemented) || status.is(Code::InvalidArgument), "{name}: {status:?}");
        }
        let stages = read(&[("no-cache", "base,final")]).unwrap().request;
        assert_eq!((stages.no_cache, stages.no_cache_stages.len()), (false, 2));
        assert!(!read(&[("platform", "")]).unwrap().request.pull);
        assert!(read(&[("image-resolve-mode", "pull")]).unwrap().request.pull);
    }
}
