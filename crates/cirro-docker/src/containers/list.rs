//! `GET /containers/json`.

use axum::Json;
use axum::extract::State;
use cirro_engine::Engine;
use cirro_image::Image;
use cirro_seams::container::{Container, Phase};
use cirro_types::ImageReference;
use serde_json::{Value, json};

use super::changes::add_size;
use super::{inspect, listed, network, places, ports, status};
use crate::Face;
use crate::error::ApiError;
use crate::filters::{Filters, name_fits};
use crate::query::Params;
use crate::time;

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

/// Lists containers: the running ones, or all.
pub(crate) async fn list(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let limit: Option<i64> = params.number("limit")?;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let images = face.engine.images().await?;
    let filter = Filter::new(&face.engine, &params, &images).await?;
    let all = params.flag("all") || limit.is_some() || filter.asks_for_ended();
    let chosen = listed(&face.engine)
        .into_iter()
        .filter(|container| all || is_up(container))
        .filter(|container| filter.fits(container))
        .take(limit.unwrap_or(usize::MAX));
    let mut rows = Vec::new();
    for container in chosen {
        let mut row = summary(&container, &images);
        if params.flag("size") {
            add_size(&face, &container.id, &mut row).await?;
        }
        rows.push(row);
    }
    Ok(Json(Value::Array(rows)))
}

fn is_up(container: &Container) -> bool {
    matches!(container.phase, Phase::Running | Phase::Paused | Phase::Restarting)
}

/// Writes a row of the list.
pub(crate) fn summary(container: &Container, images: &[Image]) -> Value {
    json!({
        "Id": container.id,
        "Names": [format!("/{}", container.name)],
        "Image": image_name(container, images),
        "ImageID": container.image_id,
        "Command": command(container),
        "Created": time::unix_seconds(&container.created_at),
        "Ports": ports::summary(container),
        "Labels": container.labels,
        "State": status::state(container.phase),
        "Status": status::sentence(container),
        "HostConfig": { "NetworkMode": network::mode_text(&container.spec.network) },
        "NetworkSettings": { "Networks": places::networks(container) },
        "Mounts": inspect::mounts(container),
    })
}

/// Returns the image as it was written, or its id once that name means another image.
fn image_name(container: &Container, images: &[Image]) -> String {
    let written = &container.spec.image;
    let Ok(reference) = written.parse::<ImageReference>() else { return written.clone() };
    let mut named = images.iter().filter(|image| image.tags.contains(&reference));
    let is_id = container.image_id.trim_start_matches("sha256:").starts_with(written.as_str());
    match named.next() {
        Some(image) if image.id.to_string() == container.image_id => written.clone(),
        None if is_id => written.clone(),
        _ => container.image_id.clone(),
    }
}

/// Returns the command line, words with spaces quoted.
fn command(container: &Container) -> String {
    let quoted =
        container.args.iter().enumerate().map(|(index, word)| match index > 0 && word.contains(' ') {
            true => format!("'{word}'"),
            false => word.clone(),
        });
    quoted.collect::<Vec<_>>().join(" ")
}

/// The filters with the names in them resolved.
struct Filter {
    filters: Filters,
    /// Ids of the images under `ancestor`.
    ancestors: Vec<String>,
    /// Times of creation of the containers under `before` and `since`.
    before: Option<String>,
    since: Option<String>,
}

impl Filter {
    async fn new(engine: &Engine, params: &Params, images: &[Image]) -> Result<Self, ApiError> {
        let filters = Filters::from_params(params, FILTERS)?;
        for text in filters.values("status").into_iter().flatten() {
            if status::parse(text).is_none() {
                return Err(ApiError::invalid(format!("invalid filter 'status={text}'")));
            }
        }
        for text in filters.values("health").into_iter().flatten() {
            if !matches!(text.as_str(), "none" | "starting" | "healthy" | "unhealthy") {
                return Err(ApiError::invalid(format!("invalid filter 'health={text}'")));
            }
        }
        filters.switch("is-task")?;
        for text in filters.values("exited").into_iter().flatten() {
            if text.parse::<i32>().is_err() {
                return Err(ApiError::invalid(format!("invalid filter 'exited={text}'")));
            }
        }
        let mut ancestors = Vec::new();
        for name in filters.values("ancestor").into_iter().flatten() {
            // An image that does not exist has no containers; that is no error.
            if let Ok(image) = engine.image(name).await {
                ancestors.push(image.id.to_string());
            }
            let named_without_tag = images.iter().filter(|image| {
                image.tags.iter().any(|tag| tag.familiar_name() == *name && !name.contains(':'))
            });
            ancestors.extend(named_without_tag.map(|image| image.id.to_string()));
        }
        let created = |name: &str| -> Result<Option<String>, ApiError> {
            match filters.values(name).and_then(|values| values.first()) {
                None => Ok(None),
                Some(container) => Ok(Some(engine.container(container)?.created_at)),
            }
        };
        let (before, since) = (created("before")?, created("since")?);
        Ok(Self { filters, ancestors, before, since })
    }

    /// Returns whether a filter can only be satisfied by containers that do not run.
    fn asks_for_ended(&self) -> bool {
        self.filters.values("status").is_some()
    }

    fn fits(&self, container: &Container) -> bool {
        let filters = &self.filters;
        filters.any("name", |pattern| name_fits(&container.name, pattern))
            && filters.any("id", |id| container.id.starts_with(id) || name_fits(&container.id, id))
            && filters.labels(&container.labels)
            && filters.exact("status", status::state(container.phase))
            && filters.any("exited", |code| exited_with(container, code))
            && (filters.values("ancestor").is_none() || self.ancestors.contains(&container.image_id))
            && filters.any("network", |network| on_network(container, network))
            && filters.any("volume", |volume| has_volume(container, volume))
            && filters.any("publish", |port| publishes(container, port))
            && filters.any("expose", |port| exposes(container, port))
            && filters.exact("health", health(container))
            && filters.any("is-task", |text| matches!(text, "false" | "0"))
            && filters.exact("isolation", "default")
            && self.before.as_ref().is_none_or(|before| older(&container.created_at, before))
            && self.since.as_ref().is_none_or(|since| older(since, &container.created_at))
    }
}

/// Docker's word for a container's health, `none` without a check.
fn health(container: &Container) -> &'static str {
    container.health.as_ref().map_or("none", |health| health.status.as_str())
}

fn older(one: &str, other: &str) -> bool {
    match (time::parse_rfc3339(one), time::parse_rfc3339(other)) {
        (Some(one), Some(other)) => one < other,
        _ => one < other,
    }
}

fn exited_with(container: &Container, code: &str) -> bool {
    container.phase == Phase::Exited && code.parse().is_ok_and(|code: i32| container.exit_code == Some(code))
}

fn on_network(container: &Container, network: &str) -> bool {
    network::mode_text(&container.spec.network) == network
        || container
            .endpoints
            .iter()
            .any(|endpoint| endpoint.network == network || endpoint.network_id.starts_with(network))
        || container.spec.attachments().iter().any(|attachment| attachment.network == network)
}

fn has_volume(container: &Container, volume: &str) -> bool {
    container.mounts.iter().any(|mount| mount.name.as_deref() == Some(volume) || mount.target == volume)
}

/// Returns whether a port (`80`, `80/tcp`, `80-90/udp`) has this number; the protocol is tcp when not written.
fn covers(text: &str, number: u16, protocol: &str) -> bool {
    let (range, wanted) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => wanted == protocol && (first..=last).contains(&number),
        _ => false,
    }
}

fn publishes(container: &Container, text: &str) -> bool {
    let protocol = |port: &cirro_seams::network::PortPublish| port.protocol.as_str();
    container
        .ports
        .iter()
        .any(|port| port.host_port.is_some_and(|number| covers(text, number, protocol(port))))
}

fn exposes(container: &Container, text: &str) -> bool {
    container.exposed_ports.iter().any(|(number, protocol)| covers(text, *number, protocol.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::inspect::tests::sample;

    fn fits(text: &str) -> bool {
        let params = Params(vec![("filters".into(), text.into())]);
        let filters = Filters::from_params(&params, FILTERS).unwrap();
        Filter { filters, ancestors: Vec::new(), before: None, since: None }.fits(&sample())
    }

    #[test]
    fn filters_pick_containers() {
        for (text, expected) in [
            (r#"{"name":["we"]}"#, true),
            (r#"{"name":["^web$"]}"#, true),
            (r#"{"name":["db"]}"#, false),
            (r#"{"id":["4f5e"]}"#, true),
            (r#"{"status":["running"]}"#, true),
            (r#"{"status":["exited"]}"#, false),
            (r#"{"exited":["0"]}"#, false),
            (r#"{"label":["tier=front"]}"#, true),
            (r#"{"network":["front"]}"#, true),
            (r#"{"network":["bridge"]}"#, false),
            (r#"{"volume":["cache"]}"#, true),
            (r#"{"volume":["/data"]}"#, true),
            (r#"{"publish":["8080"]}"#, true),
            (r#"{"publish":["80"]}"#, false),
            (r#"{"expose":["80-90/tcp"]}"#, true),
            (r#"{"expose":["80/udp"]}"#, false),
            (r#"{"health":["healthy"]}"#, false),
            (r#"{"ancestor":["busybox"]}"#, false),
        ] {
            assert_eq!(fits(text), expected, "{text}");
        }
    }

    #[test]
    fn before_and_since_are_strict() {
        let bounded = |before: Option<&str>, since: Option<&str>| {
            let (before, since) = (before.map(str::to_owned), since.map(str::to_owned));
            Filter { filters: Filters::default(), ancestors: Vec::new(), before, since }.fits(&sample())
        };
        assert!(bounded(Some("2024-05-01T10:00:01Z"), Some("2024-05-01T09:59:59Z")));
        assert!(!bounded(Some("2024-05-01T10:00:00Z"), None));
        assert!(!bounded(None, Some("2024-05-01T10:00:00Z")));
    }

    #[test]
    fn a_row_has_what_docker_ps_shows() {
        let row = summary(&sample(), &[]);
        assert_eq!(row["Names"], json!(["/web"]));
        assert_eq!(row["Command"], "sh -c 'sleep 60'");
        assert_eq!(
            row["Ports"][0],
            json!({"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"})
        );
        assert_eq!(row["Created"], 1_714_557_600);
        // No image has the name any more, so the id stands for it.
        assert_eq!(row["Image"], sample().image_id);
    }
}
