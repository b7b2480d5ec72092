//! Networks: docker's bridges, and the two without a bridge that every docker host has.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use cirro_engine::EngineError;
use cirro_net::{CreateDockerNetwork, DockerNetwork};
use cirro_seams::container::{Container, NetworkMode, Phase};
use cirro_types::Digest;
use http::{Request, StatusCode};
use ipnet::Ipv4Net;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Face;
use crate::body;
use crate::containers::fields::is_zero;
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

    /// Returns whether a container has its place here. The built-in ones hold containers without an endpoint.
    fn holds(&self, container: &Container) -> bool {
        match &container.endpoint {
            Some(endpoint) => endpoint.network_id == self.id,
            None => {
                let mode = match container.spec.network {
                    NetworkMode::Host => "host",
                    NetworkMode::None => "none",
                    _ => return false,
                };
                self.bridge.is_none() && self.name == mode && container.phase == Phase::Running
            }
        }
    }

    fn document(&self) -> Value {
        let bridge = self.bridge.as_ref();
        let ipam = bridge.map(|bridge| json!([{ "Subnet": bridge.subnet, "Gateway": bridge.gateway }]));
        json!({
            "Name": self.name,
            "Id": self.id,
            "Created": bridge.map_or(ZERO_TIME, |bridge| bridge.created_at.as_str()),
            "Scope": "local",
            "Driver": self.driver,
            "EnableIPv4": true,
            "EnableIPv6": false,
            "IPAM": { "Driver": "default", "Options": null, "Config": ipam.unwrap_or_else(|| json!([])) },
            "Internal": bridge.is_some_and(|bridge| bridge.internal),
            "Attachable": false,
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
        let rows: Map<String, Value> =
            held.map(|container| (container.id.clone(), place(container))).collect();
        let mut document = self.document();
        document["Containers"] = Value::Object(rows);
        document
    }
}

/// Writes a container's place on a network.
fn place(container: &Container) -> Value {
    let endpoint = container.endpoint.as_ref();
    let address = endpoint.map(|endpoint| format!("{}/{}", endpoint.address, endpoint.prefix));
    json!({
        "Name": container.name,
        "EndpointID": endpoint.map_or("", |endpoint| endpoint.id.as_str()),
        "MacAddress": endpoint.map_or_else(String::new, |endpoint| endpoint.mac.to_string()),
        "IPv4Address": address.unwrap_or_default(),
        "IPv6Address": "",
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

/// A network to make, in docker's words.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateRequest {
    name: String,
    driver: String,
    scope: String,
    internal: bool,
    attachable: Value,
    ingress: bool,
    config_only: bool,
    config_from: Value,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: bool,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    config: Vec<IpamConfig>,
    options: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct IpamConfig {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    #[serde(rename = "AuxiliaryAddresses")]
    auxiliary_addresses: BTreeMap<String, String>,
}

/// Makes a network.
pub(crate) async fn create(State(face): State<Face>, request: Request<Body>) -> Result<Response, ApiError> {
    let request = translate(body::read(request.into_body()).await?)?;
    if BUILT_IN.iter().any(|(name, _)| *name == request.name) {
        let text = format!("operation is not permitted on predefined {} network", request.name);
        return Err(ApiError { status: StatusCode::FORBIDDEN, message: text });
    }
    let network = face.engine.create_network(request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "Id": network.id, "Warning": "" }))).into_response())
}

fn translate(request: CreateRequest) -> Result<CreateDockerNetwork, ApiError> {
    if request.name.is_empty() || request.name.contains('/') {
        return Err(ApiError::invalid(format!("invalid network name: \"{}\"", request.name)));
    }
    // `Attachable` concerns swarm services alone.
    let _ = request.attachable;
    let unsupported = [
        (!matches!(request.driver.as_str(), "" | "bridge"), format!("the network driver {}", request.driver)),
        (!matches!(request.scope.as_str(), "" | "local"), format!("the network scope {}", request.scope)),
        (request.ingress, "an ingress network".to_owned()),
        (
            request.config_only || !no_config_from(&request.config_from),
            "a configuration-only network".to_owned(),
        ),
        (request.enable_ipv6, "IPv6 on docker networks".to_owned()),
        (request.enable_ipv4 == Some(false), "a network without IPv4".to_owned()),
        (
            !matches!(request.ipam.driver.as_str(), "" | "default"),
            format!("the IPAM driver {}", request.ipam.driver),
        ),
        (!request.ipam.options.is_empty(), "IPAM options".to_owned()),
        (request.ipam.config.len() > 1, "more than one subnet in a docker network".to_owned()),
        (!request.options.is_empty(), format!("network options ({})", option_names(&request.options))),
    ];
    if let Some((_, what)) = unsupported.into_iter().find(|(refused, _)| *refused) {
        return Err(ApiError::not_supported(what));
    }
    let (subnet, gateway) = match request.ipam.config.first() {
        Some(config) => range(config)?,
        None => (None, None),
    };
    Ok(CreateDockerNetwork {
        name: request.name,
        subnet,
        gateway,
        internal: request.internal,
        labels: request.labels,
        options: request.options,
    })
}

fn no_config_from(value: &Value) -> bool {
    is_zero(value) || value.get("Network").is_none_or(is_zero)
}

fn option_names(options: &BTreeMap<String, String>) -> String {
    options.keys().cloned().collect::<Vec<_>>().join(", ")
}

fn range(config: &IpamConfig) -> Result<(Option<Ipv4Net>, Option<Ipv4Addr>), ApiError> {
    if !config.ip_range.is_empty() || !config.auxiliary_addresses.is_empty() {
        return Err(ApiError::not_supported("IPRange and AuxiliaryAddresses of a docker network"));
    }
    let invalid = |text: &str| {
        ApiError::invalid(format!("invalid network config: invalid IPv4 address or range {text}"))
    };
    let subnet: Option<Ipv4Net> = match config.subnet.as_str() {
        "" => None,
        text => Some(text.parse::<Ipv4Net>().map_err(|_| invalid(text))?.trunc()),
    };
    let gateway: Option<Ipv4Addr> = match config.gateway.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid(text))?),
    };
    match (subnet, gateway) {
        (None, Some(gateway)) => Err(ApiError::invalid(format!("gateway {gateway} needs a subnet"))),
        (Some(subnet), Some(gateway)) if !subnet.contains(&gateway) => Err(ApiError::invalid(format!(
            "invalid network config: gateway {gateway} is not in the subnet {subnet}"
        ))),
        both => Ok(both),
    }
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
    Ok(Json(json!({ "NetworksDeleted": removed })))
}

fn wants(container: &Container, network: &DockerNetwork) -> bool {
    match &container.spec.network {
        NetworkMode::Network(name) => *name == network.name || network.id.starts_with(name.as_str()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::containers::inspect::tests::sample;

    fn translated(request: Value) -> Result<CreateDockerNetwork, ApiError> {
        translate(body::decode(request).unwrap())
    }

    fn front() -> Network {
        Network::bridge(DockerNetwork {
            id: "aa".repeat(32),
            name: "front".into(),
            bridge: "br-front".into(),
            subnet: "172.20.0.0/16".parse().unwrap(),
            gateway: "172.20.0.1".parse().unwrap(),
            internal: false,
            created_at: "2024-05-01T10:00:00Z".into(),
            labels: BTreeMap::new(),
            options: BTreeMap::new(),
        })
    }

    #[test]
    fn the_clis_request_is_understood() {
        let request = translated(json!({
            "Name": "front", "Driver": "bridge", "Scope": "", "Internal": false, "Attachable": false, "Ingress": false,
            "ConfigOnly": false, "IPAM": {"Driver": "default", "Options": {}, "Config": [
                {"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1"}]}, "Options": {}, "Labels": {"a": "b"},
        }))
        .unwrap();
        assert_eq!(request.subnet, Some("10.5.0.0/24".parse().unwrap()));
        assert_eq!(request.gateway, Some("10.5.0.1".parse().unwrap()));
        assert_eq!(request.labels["a"], "b");
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let ipam = |config: Value| json!({"Name": "x", "IPAM": {"Config": config}});
        for (request, status) in [
            (json!({"Name": ""}), 400),
            (json!({"Name": "a/b"}), 400),
            (json!({"Name": "x", "Driver": "overlay"}), 501),
            (json!({"Name": "x", "EnableIPv6": true}), 501),
            (json!({"Name": "x", "Options": {"com.docker.network.bridge.name": "y"}}), 501),
            (ipam(json!([{"Subnet": "10.5.0.0/24", "IPRange": "10.5.0.0/25"}])), 501),
            (ipam(json!([{"Subnet": "nonsense"}])), 400),
            (ipam(json!([{"Subnet": "10.5.0.0/24", "Gateway": "10.6.0.1"}])), 400),
            (ipam(json!([{"Gateway": "10.6.0.1"}])), 400),
        ] {
            assert_eq!(translated(request.clone()).unwrap_err().status, status, "{request}");
        }
    }

    #[test]
    fn a_network_shows_its_containers() {
        let document = front().with_containers(&[sample()]);
        let place = &document["Containers"][sample().id];
        assert_eq!(place["IPv4Address"], "172.20.0.2/16");
        assert_eq!(place["Name"], "web");
        assert_eq!(
            document["IPAM"]["Config"][0],
            json!({"Subnet": "172.20.0.0/16", "Gateway": "172.20.0.1"})
        );
        let host = Network::built_in(BUILT_IN[0]);
        assert_eq!(host.with_containers(&[sample()])["Containers"], json!({}));
        assert_eq!(host.id.len(), 64);
    }
}
