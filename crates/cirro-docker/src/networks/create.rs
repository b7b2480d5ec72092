//! `POST /networks/create`: docker's document becomes a network of ours.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cirro_net::CreateDockerNetwork;
use http::{Request, StatusCode};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::BUILT_IN;
use crate::Face;
use crate::body;
use crate::containers::fields::is_zero;
use crate::error::ApiError;

const IPV4_OPTION: &str = "com.docker.network.enable_ipv4";
const IPV6_OPTION: &str = "com.docker.network.enable_ipv6";

/// A network to make, in docker's words.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateRequest {
    name: String,
    driver: String,
    scope: String,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: Value,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
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

fn translate(mut request: CreateRequest) -> Result<CreateDockerNetwork, ApiError> {
    if request.name.trim().is_empty() || request.name.contains('/') {
        return Err(ApiError::invalid(format!("invalid network name: \"{}\"", request.name)));
    }
    check_driver(&request.driver)?;
    // The CLI's older way of saying it; they do not reach the driver.
    let ipv4 = request.options.remove(IPV4_OPTION).map(|value| value == "true");
    let ipv6 = request.options.remove(IPV6_OPTION).map(|value| value == "true");
    let unsupported = [
        (!matches!(request.scope.as_str(), "" | "local"), format!("the network scope {}", request.scope)),
        (request.ingress, "an ingress network".to_owned()),
        (
            request.config_only || !no_config_from(&request.config_from),
            "a configuration-only network".to_owned(),
        ),
        (request.enable_ipv4.or(ipv4) == Some(false), "a network without IPv4".to_owned()),
        (
            !matches!(request.ipam.driver.as_str(), "" | "default"),
            format!("the IPAM driver {}", request.ipam.driver),
        ),
        (!request.ipam.options.is_empty(), "IPAM options".to_owned()),
    ];
    if let Some((_, what)) = unsupported.into_iter().find(|(refused, _)| *refused) {
        return Err(ApiError::not_supported(what));
    }
    let mut network = CreateDockerNetwork {
        name: request.name,
        ipv6: request.enable_ipv6.or(ipv6).unwrap_or(false),
        internal: request.internal,
        attachable: request.attachable,
        labels: request.labels,
        options: request.options,
        ..CreateDockerNetwork::default()
    };
    for config in &request.ipam.config {
        add_pool(config, &mut network)?;
    }
    if network.subnet6.is_some() && !network.ipv6 {
        // dockerd takes the range and leaves IPv6 off.
        (network.subnet6, network.gateway6, network.ip_range6) = (None, None, None);
        network.auxiliary.retain(|_, address| address.is_ipv4());
    }
    Ok(network)
}

/// Refuses drivers that are not here: those of dockerd as not supported, others as not found.
fn check_driver(driver: &str) -> Result<(), ApiError> {
    match driver {
        "" | "bridge" => Ok(()),
        "host" | "null" => Err(ApiError {
            status: StatusCode::FORBIDDEN,
            message: format!("only one instance of \"{driver}\" network is allowed"),
        }),
        "overlay" => Err(ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            message: crate::unsupported::NO_SWARM.to_owned(),
        }),
        "macvlan" | "ipvlan" => Err(ApiError::not_supported(format!("the network driver {driver}"))),
        other => Err(ApiError::not_found(format!(
            "could not find plugin {other} in v1 plugin registry: plugin not found"
        ))),
    }
}

fn no_config_from(value: &Value) -> bool {
    is_zero(value) || value.get("Network").is_none_or(is_zero)
}

fn parsed<T: std::str::FromStr>(what: &str, text: &str) -> Result<Option<T>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = || ApiError::invalid(format!("invalid network config:\ninvalid {what} {text}"));
    text.parse().map(Some).map_err(|_| invalid())
}

/// Reads one entry of `IPAM.Config`; the gateway and the rest are of its subnet's family.
fn add_pool(config: &IpamConfig, network: &mut CreateDockerNetwork) -> Result<(), ApiError> {
    let subnet: Option<IpNet> = parsed("subnet", &config.subnet)?;
    let Some(subnet) = subnet else {
        return match [&config.gateway, &config.ip_range].iter().any(|text| !text.is_empty()) {
            true => {
                Err(ApiError::invalid("invalid network config:\ninvalid subnet : no subnet for the gateway"))
            }
            false => Ok(()),
        };
    };
    let twice = || ApiError {
        status: StatusCode::FORBIDDEN,
        message: "bridge driver doesn't support multiple subnets".to_owned(),
    };
    let mismatch = || ApiError::invalid(format!("invalid network config:\nno matching subnet for {subnet}"));
    let range: Option<IpNet> = parsed("ip-range", &config.ip_range)?;
    match subnet {
        IpNet::V4(_) if network.subnet.is_some() => return Err(twice()),
        IpNet::V6(_) if network.subnet6.is_some() => return Err(twice()),
        IpNet::V4(subnet) => {
            network.subnet = Some(subnet.trunc());
            network.gateway = parsed::<Ipv4Addr>("gateway", &config.gateway)?;
            network.ip_range = match range {
                Some(IpNet::V4(range)) => Some(range),
                Some(IpNet::V6(_)) => return Err(mismatch()),
                None => None,
            };
        }
        IpNet::V6(subnet) => {
            network.subnet6 = Some(subnet.trunc());
            network.gateway6 = parsed::<Ipv6Addr>("gateway", &config.gateway)?;
            network.ip_range6 = match range {
                Some(IpNet::V6(range)) => Some(range),
                Some(IpNet::V4(_)) => return Err(mismatch()),
                None => None,
            };
        }
    }
    for (name, address) in &config.auxiliary_addresses {
        let address = parsed::<IpAddr>("auxiliary address", address)?;
        network.auxiliary.extend(address.map(|address| (name.clone(), address)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translated(request: Value) -> Result<CreateDockerNetwork, ApiError> {
        translate(body::decode(request).unwrap())
    }

    #[test]
    fn the_clis_request_is_understood() {
        let request = translated(json!({
            "Name": "front", "Driver": "bridge", "Scope": "", "Internal": false, "Attachable": false, "Ingress": false,
            "ConfigOnly": false, "EnableIPv6": true, "IPAM": {"Driver": "default", "Options": {}, "Config": [
                {"Subnet": "10.5.0.0/24", "Gateway": "10.5.0.1", "IPRange": "10.5.0.128/25",
                 "AuxiliaryAddresses": {"router": "10.5.0.130"}}, {"Subnet": "fd00:5::/64"}]},
            "Options": {"com.docker.network.driver.mtu": "1400"}, "Labels": {"a": "b"},
        }))
        .unwrap();
        assert_eq!(request.subnet, Some("10.5.0.0/24".parse().unwrap()));
        assert_eq!(request.gateway, Some("10.5.0.1".parse().unwrap()));
        assert_eq!(request.ip_range, Some("10.5.0.128/25".parse().unwrap()));
        assert_eq!(request.subnet6, Some("fd00:5::/64".parse().unwrap()));
        assert_eq!(request.auxiliary["router"].to_string(), "10.5.0.130");
        assert_eq!(request.labels["a"], "b");
        assert!(request.ipv6);
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        let ipam = |config: Value| json!({"Name": "x", "IPAM": {"Config": config}});
        for (request, status) in [
            (json!({"Name": ""}), 400),
            (json!({"Name": "a/b"}), 400),
            (json!({"Name": "x", "Driver": "overlay"}), 503),
            (json!({"Name": "x", "Driver": "macvlan"}), 501),
            (json!({"Name": "x", "Driver": "weave"}), 404),
            (json!({"Name": "x", "EnableIPv4": false}), 501),
            (ipam(json!([{"Subnet": "nonsense"}])), 400),
            (ipam(json!([{"Subnet": "10.5.0.0/24", "Gateway": "x"}])), 400),
            (ipam(json!([{"Subnet": "10.5.0.0/24"}, {"Subnet": "10.6.0.0/24"}])), 403),
            (ipam(json!([{"Gateway": "10.6.0.1"}])), 400),
        ] {
            assert_eq!(translated(request.clone()).unwrap_err().status, status, "{request}");
        }
    }
}
