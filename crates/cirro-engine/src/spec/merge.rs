//! What a container runs: the request over the image's configuration.
//!
//! Source: moby `daemon/commit.go` `merge` and `daemon/create.go`.

use std::collections::BTreeMap;

use cirro_seams::container::{ContainerSpec, HealthCheck};
use cirro_seams::network::Protocol;
use cirro_types::ContainerConfig;

use crate::error::EngineError;

/// A request and an image's configuration as one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Merged {
    pub args: Vec<String>,
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
    pub labels: BTreeMap<String, String>,
    pub exposed_ports: Vec<(u16, Protocol)>,
    pub stop_signal: Option<String>,
    pub health_check: Option<HealthCheck>,
    /// Directories of the image that want a volume of their own.
    pub volumes: Vec<String>,
}

/// Merges a request with its image's configuration.
pub(crate) fn merge(spec: &ContainerSpec, image: &ContainerConfig) -> Result<Merged, EngineError> {
    let args = args(spec, image);
    if args.is_empty() || args[0].is_empty() {
        return Err(EngineError::Invalid("no command specified".into()));
    }
    let mut labels = image.labels.clone();
    labels.extend(spec.labels.clone());
    Ok(Merged {
        args,
        env: merge_env(&spec.env, &image.env),
        working_dir: working_dir(spec, image)?,
        user: spec.user.clone().filter(|user| !user.is_empty()).unwrap_or_else(|| image.user.clone()),
        labels,
        exposed_ports: exposed_ports(spec, image),
        stop_signal: spec.stop_signal.clone().or_else(|| image.stop_signal.clone()),
        health_check: super::health::merge(spec.health.as_ref(), image.healthcheck.as_ref()),
        volumes: volumes(spec, image),
    })
}

/// An entrypoint of the request's puts the image's command aside; a cleared one does not.
fn args(spec: &ContainerSpec, image: &ContainerConfig) -> Vec<String> {
    let own_entrypoint = spec.entrypoint.clone().unwrap_or_default();
    let own_command = spec.command.clone().unwrap_or_default();
    let command = match (own_entrypoint.is_empty(), own_command.is_empty()) {
        (true, true) => image.cmd.clone(),
        _ => own_command,
    };
    let entrypoint = if spec.entrypoint.is_some() { own_entrypoint } else { image.entrypoint.clone() };
    // `--entrypoint ""` reaches an engine as one empty word.
    let entrypoint = if entrypoint == [""] { Vec::new() } else { entrypoint };
    entrypoint.into_iter().chain(command).collect()
}

fn env_name(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(name, _)| name)
}

/// The request's variables, then the image's that it does not name.
fn merge_env(own: &[String], image: &[String]) -> Vec<String> {
    let inherited = image.iter().filter(|entry| !own.iter().any(|mine| env_name(mine) == env_name(entry)));
    own.iter().chain(inherited).cloned().collect()
}

/// Puts `own` over `defaults`, in their place; a name without `=` takes its default away.
pub(crate) fn override_env(defaults: Vec<String>, own: &[String]) -> Vec<String> {
    let mut env = defaults;
    for entry in own {
        let place = env.iter().position(|present| env_name(present) == env_name(entry));
        match (place, entry.contains('=')) {
            (Some(place), true) => env[place].clone_from(entry),
            (Some(place), false) => drop(env.remove(place)),
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
    env
}

fn working_dir(spec: &ContainerSpec, image: &ContainerConfig) -> Result<String, EngineError> {
    let given = spec.working_dir.clone().filter(|dir| !dir.is_empty());
    let dir = given.unwrap_or_else(|| image.working_dir.clone());
    if dir.is_empty() {
        return Ok("/".into());
    }
    if !dir.starts_with('/') {
        let text = format!("the working directory '{dir}' is invalid, it needs to be an absolute path");
        return Err(EngineError::Invalid(text));
    }
    Ok(clean(&dir))
}

/// Writes an absolute path without `.`, `..` and doubled slashes.
pub(crate) fn clean(path: &str) -> String {
    let mut names = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// Parses `80`, `80/tcp` or `53/udp`.
pub(crate) fn parse_port(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    Some((port.parse().ok()?, protocol))
}

fn exposed_ports(spec: &ContainerSpec, image: &ContainerConfig) -> Vec<(u16, Protocol)> {
    let image = image.exposed_ports.keys().filter_map(|text| parse_port(text));
    let published = spec.publish.iter().map(|publish| (publish.port, publish.protocol));
    let mut ports: Vec<_> = image.chain(spec.exposed_ports.iter().copied()).chain(published).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn volumes(spec: &ContainerSpec, image: &ContainerConfig) -> Vec<String> {
    let targets = image.volumes.keys().map(|target| clean(target));
    targets.filter(|target| !spec.mounts.iter().any(|mount| clean(&mount.target) == *target)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn image() -> ContainerConfig {
        ContainerConfig {
            entrypoint: strings(&["/entry"]),
            cmd: strings(&["serve"]),
            env: strings(&["PATH=/bin", "A=1"]),
            working_dir: "/app".into(),
            user: "web".into(),
            ..ContainerConfig::default()
        }
    }

    fn args_of(entrypoint: Option<&[&str]>, command: Option<&[&str]>) -> Vec<String> {
        let spec = ContainerSpec {
            entrypoint: entrypoint.map(strings),
            command: command.map(strings),
            ..ContainerSpec::default()
        };
        merge(&spec, &image()).map(|merged| merged.args).unwrap_or_default()
    }

    #[test]
    fn entrypoint_and_command_follow_docker() {
        assert_eq!(args_of(None, None), ["/entry", "serve"]);
        assert_eq!(args_of(None, Some(&["x"])), ["/entry", "x"]);
        assert_eq!(args_of(Some(&["/own"]), None), ["/own"], "the image's command is not for it");
        assert_eq!(args_of(Some(&["/own"]), Some(&["x"])), ["/own", "x"]);
        assert_eq!(args_of(Some(&[]), None), ["serve"]);
        assert_eq!(args_of(Some(&[""]), Some(&["x"])), ["x"]);
        assert!(args_of(Some(&[""]), None).is_empty(), "nothing left to run is an error");
    }

    #[test]
    fn the_request_goes_over_the_image() {
        let mut image = image();
        image.labels = BTreeMap::from([("a".into(), "image".into()), ("b".into(), "image".into())]);
        image.exposed_ports = BTreeMap::from([("80/tcp".into(), serde_json::json!({}))]);
        image.volumes = BTreeMap::from([("/data/".into(), serde_json::json!({}))]);
        let spec = ContainerSpec {
            env: strings(&["A=2", "B=3"]),
            labels: BTreeMap::from([("a".into(), "own".into())]),
            exposed_ports: vec![(53, Protocol::Udp)],
            ..ContainerSpec::default()
        };
        let merged = merge(&spec, &image).unwrap();
        assert_eq!(merged.env, ["A=2", "B=3", "PATH=/bin"]);
        assert_eq!(merged.labels["a"], "own");
        assert_eq!(merged.labels["b"], "image");
        assert_eq!(merged.exposed_ports, [(53, Protocol::Udp), (80, Protocol::Tcp)]);
        assert_eq!((merged.working_dir.as_str(), merged.user.as_str()), ("/app", "web"));
        assert_eq!(merged.volumes, ["/data"]);
    }

    #[test]
    fn a_relative_working_directory_is_refused() {
        let spec = ContainerSpec { working_dir: Some("app".into()), ..ContainerSpec::default() };
        assert!(matches!(merge(&spec, &image()), Err(EngineError::Invalid(_))));
        assert_eq!(clean("/a//b/../../../c/."), "/c");
    }

    #[test]
    fn a_variable_without_a_value_takes_the_default_away() {
        let env =
            override_env(strings(&["PATH=/bin", "TERM=xterm"]), &strings(&["TERM", "PATH=/x", "A=1", "B"]));
        assert_eq!(env, ["PATH=/x", "A=1"]);
    }
}
