//! Networks: docker's bridges, and the two without a bridge that every docker host has.

pub(crate) mod attach;
pub(crate) mod create;

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::{Path, State};
use cirro_engine::EngineError;
use cirro_net::DockerNetwork;
use cirro_seams::container::{Container, Endpoint, NetworkMode, Phase};
use cirro_types::Digest;
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::Face;
use crate::containers::listed;
use crate::error::ApiError;
use crate::filters::{Filters, name_fits};
use crate::query::Params;
use crate::time::{self, ZERO_TIME};

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
/// Networks without a bridge, with the driver's name.
const BUILT_IN: [(&str, &str); 2] = [("host", "host"), ("none", "null")];

/// A network as the API shows it.
struct Network {
    id: String,
    name: String,
    driver: &'static str,
    bridge: Option<DockerNetwork>,
}

impl Network {
    fn bridge(network: DockerNetwork) -> Self {
        Self { id: network.id.clone(), name: network.name.clone(), driver: "bridge", bridge: Some(network) }
    }

    /// The id is made from the name: it must be the same after every start.
    fn built_in((name, driver): (&str, &'static str)) -> Self {
        Self {
            id: Digest::of(format!("network {name}").as_bytes()).hex(),
            name: name.to_owned(),
            driver,
            bridge: None,
        }
    }

    fn is_predefined(&self) -> bool {
        self.bridge.is_none() || self.name == "bridge"
    }

    fn labels(&self) -> BTreeMap<String, String> {
        self.bridge.as_ref().map(|bridge| bridge.labels.clone()).unwrap_or_default()
    }

    /// Returns a container's place here.
    fn endpoint<'a>(&self, container: &'a Container) -> Option<&'a Endpoint> {
        container.endpoints.iter().find(|endpoint| endpoint.network_id == self.id)
    }

    /// Returns whether a container has its place here. The built-in ones hold containers without an endpoint.
    fn holds(&self, container: &Container) -> bool {
        let mode = match container.spec.network {
            NetworkMode::Host => "host",
            NetworkMode::None => "none",
            _ => return self.endpoint(container).is_some(),
        };
        self.bridge.is_none() && self.name == mode && container.phase == Phase::Running
    }

    fn document(&self) -> Value {
        let bridge = self.bridge.as_ref();
        json!({
            "Name": self.name,
            "Id": self.id,
            "Created": bridge.map_or(ZERO_TIME, |bridge| bridge.created_at.as_str()),
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": true,
            "EnableIPv6": bridge.is_some_and(|bridge| bridge.subnet6.is_some()),
            "IPAM": {
                "Driver": "default",
                "Options": bridge.filter(|bridge| bridge.name != "bridge").map(|_| json!({})),
                "Config": bridge.map_or_else(Vec::new, pools),
            },
            "Internal": bridge.is_some_and(|bridge| bridge.internal),
            "Attachable": bridge.is_some_and(|bridge| bridge.attachable),
            "Ingress": false,
            "ConfigFrom": { "Network": "" },
            "ConfigOnly": false,
            "Containers": {},
            "Options": bridge.map(|bridge| bridge.options.clone()).unwrap_or_default(),
            "Labels": self.labels(),
        })
    }

    fn with_containers(&self, containers: &[Container]) -> Value {
        let held = containers.iter().filter(|container| self.holds(container));
        let rows: Map<String, Value> = held
            .map(|container| (container.id.clone(), place(container, self.endpoint(container))))
            .collect();
        let mut document = self.document();
        document["Containers"] = Value::Object(rows);
        document
    }
}

/// Lists a network's ranges, as `IPAM.Config` has them.
fn pools(network: &DockerNetwork) -> Vec<Value> {
    let mut four = json!({ "Subnet": network.subnet, "Gateway": network.gateway });
    let mut six = network.subnet6.map(|subnet| json!({ "Subnet": subnet, "Gateway": network.gateway6 }));
    if let Some(range) = network.ip_range {
        four["IPRange"] = json!(range);
    }
    if let (Some(six), Some(range)) = (&mut six, network.ip_range6) {
        six["IPRange"] = json!(range);
    }
    let reserved = |is_four: bool| -> Map<String, Value> {
        let of = network.auxiliary.iter().filter(|(_, address)| address.is_ipv4() == is_four);
        of.map(|(name, address)| (name.clone(), json!(address))).collect()
    };
    for (pool, is_four) in std::iter::once((&mut four, true)).chain(six.as_mut().map(|six| (six, false))) {
        let reserved = reserved(is_four);
        if !reserved.is_empty() {
            pool["AuxiliaryAddresses"] = Value::Object(reserved);
        }
    }
    std::iter::once(four).chain(six).collect()
}

/// Writes a container's place on a network.
fn place(container: &Container, endpoint: Option<&Endpoint>) -> Value {
    let with_prefix = |address: IpAddr, prefix: u8| format!("{address}/{prefix}");
    let four = endpoint.map(|endpoint| with_prefix(endpoint.address.into(), endpoint.prefix));
    let six = endpoint.and_then(|endpoint| endpoint.address6);
    let six = six.map(|(address, prefix)| with_prefix(address.into(), prefix));
    json!({
        "Name": container.name,
        "EndpointID": endpoint.map_or("", |endpoint| endpoint.id.as_str()),
        "MacAddress": endpoint.map_or_else(String::new, |endpoint| endpoint.mac.to_string()),
        "IPv4Address": four.unwrap_or_default(),
        "IPv6Address": six.unwrap_or_default(),
    })
}

fn all(face: &Face) -> Vec<Network> {
    face.engine.networks().into_iter().map(Network::bridge).chain(BUILT_IN.map(Network::built_in)).collect()
}

fn find(face: &Face, name: &str) -> Result<Network, ApiError> {
    match face.engine.network(name) {
        Ok(network) => Ok(Network::bridge(network)),
        Err(error @ EngineError::NotFound(_)) => {
            let mut built_in = BUILT_IN.into_iter().map(Network::built_in);
            let fits =
                |network: &Network| network.name == name || (name.len() > 3 && network.id.starts_with(name));
            built_in.find(fits).ok_or_else(|| error.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Lists networks.
pub(crate) async fn list(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, FILTERS)?;
    let dangling = filters.switch("dangling")?;
    let containers = listed(&face.engine);
    let rows = all(&face)
        .into_iter()
        .filter(|network| fits(network, &filters))
        .filter(|network| dangling.is_none_or(|dangling| dangling == is_unused(network, &containers)))
        .map(|network| network.document());
    Ok(Json(Value::Array(rows.collect())))
}

fn is_unused(network: &Network, containers: &[Container]) -> bool {
    !network.is_predefined() && !containers.iter().any(|container| network.holds(container))
}

fn fits(network: &Network, filters: &Filters) -> bool {
    let kind = if network.is_predefined() { "builtin" } else { "custom" };
    filters.any("name", |pattern| name_fits(&network.name, pattern))
        && filters.any("id", |id| network.id.starts_with(id))
        && filters.exact("driver", network.driver)
        && filters.exact("scope", "local")
        && filters.exact("type", kind)
        && filters.labels(&network.labels())
}

/// Answers with one network and the containers on it.
pub(crate) async fn inspect(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    if params.text("scope").is_some_and(|scope| scope != "local") {
        return Err(ApiError::not_found(format!("network {name} not found")));
    }
    Ok(Json(find(&face, &name)?.with_containers(&listed(&face.engine))))
}

/// Removes a network.
pub(crate) async fn remove(
    State(face): State<Face>,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    let network = find(&face, &name)?;
    if network.is_predefined() {
        let message = format!("{} is a pre-defined network and cannot be removed", network.name);
        return Err(ApiError { status: StatusCode::FORBIDDEN, message });
    }
    face.engine.remove_network(&network.id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes the networks that no container uses.
pub(crate) async fn prune(State(face): State<Face>, params: Params) -> Result<Json<Value>, ApiError> {
    let filters = Filters::from_params(&params, &["label", "label!", "until"])?;
    let until = filters.values("until").and_then(|values| values.first());
    let until = time::prune_until(until.map(String::as_str))?;
    // A container that does not run has no endpoint, but wants its network at its next start.
    let containers = listed(&face.engine);
    let mut removed = Vec::new();
    for network in all(&face) {
        let Some(bridge) = &network.bridge else { continue };
        let created = time::parse_rfc3339(&bridge.created_at).map(jiff::Timestamp::as_nanosecond);
        let old = until.is_none_or(|until| created.is_some_and(|created| created <= i128::from(until)));
        let wanted = containers.iter().any(|container| wants(container, bridge));
        if !old || wanted || !is_unused(&network, &containers) || !filters.labels(&bridge.labels) {
            continue;
        }
        match face.engine.remove_network(&network.id).await {
            Ok(()) => removed.push(network.name),
            Err(error) => tracing::debug!(network = %network.name, %error, "not pruned"),
        }
    }
    face.engine.tell_all("network", "prune", &[("reclaimed", "0")]);
    Ok(Json(json!({ "NetworksDeleted": removed })))
}

fn wants(container: &Container, network: &DockerNetwork) -> bool {
    container.spec.attachments().iter().any(|attachment| {
        attachment.network == network.name || attachment.network_id.as_ref() == Some(&network.id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::inspect::tests::sample;

    fn front() -> Network {
        Network::bridge(DockerNetwork {
            id: "aa".repeat(32),
            name: "front".into(),
            bridge: "br-front".into(),
            subnet: "172.20.0.0/16".parse().unwrap(),
            gateway: "172.20.0.1".parse().unwrap(),
            ip_range: None,
            subnet6: Some("fd00:20::/64".parse().unwrap()),
            gateway6: Some("fd00:20::1".parse().unwrap()),
            ip_range6: None,
            auxiliary: BTreeMap::from([("router".to_owned(), "172.20.0.9".parse().unwrap())]),
            has_own_range: true,
            internal: false,
            attachable: false,
            created_at: "2024-05-01T10:00:00Z".into(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        })
    }

    #[test]
    fn a_network_shows_its_containers() {
        let document = front().with_containers(&[sample()]);
        let place = &document["Containers"][sample().id];
        assert_eq!(place["IPv4Address"], "172.20.0.2/16");
        assert_eq!(place["Name"], "web");
        assert_eq!(
            document["IPAM"]["Config"][0],
            json!({"Subnet": "172.20.0.0/16", "Gateway": "172.20.0.1", "AuxiliaryAddresses": {"router": "172.20.0.9"}})
        );
        assert_eq!(document["IPAM"]["Config"][1]["Gateway"], "fd00:20::1");
        assert_eq!(document["EnableIPv6"], true);
        let host = Network::built_in(BUILT_IN[0]);
        assert_eq!(host.with_containers(&[sample()])["Containers"], json!({}));
        assert_eq!(host.id.len(), 64);
    }
}
