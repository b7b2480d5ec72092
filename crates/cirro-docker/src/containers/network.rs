//! Where a container's network is: `NetworkMode` and `NetworkingConfig` together.

use cirro_seams::container::{Attachment, NetworkMode};
use cirro_types::MacAddress;
use serde_json::Value;

use super::fields;
use super::request::{Endpoint, NetworkingConfig};
use crate::body;
use crate::error::ApiError;

/// Names the link of one endpoint.
const INTERFACE_OPTION: &str = "com.docker.network.endpoint.ifname";

/// The network of a create request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) mode: NetworkMode,
    /// The networks, the mode's own first; what the mode says when absent.
    pub(crate) networks: Option<Vec<Attachment>>,
}

/// Returns where the container goes. `mac` is the container's own wish, for the mode's network.
pub(crate) fn parse(mode: &str, networking: &NetworkingConfig, mac: &str) -> Result<Place, ApiError> {
    let mut attachments = Vec::new();
    for (name, endpoint) in &networking.endpoints_config {
        attachments.push(parse_endpoint(name, endpoint)?);
    }
    // dockerd gives the endpoints the last word when the mode is the default.
    let mode = match attachments.first() {
        Some(first) if is_default(mode) && !attachments.iter().any(|other| is_default(&other.network)) => {
            parse_mode(&first.network)?
        }
        _ => parse_mode(mode)?,
    };
    let mut place = Place { mode, networks: None };
    if attachments.is_empty() && mac.is_empty() {
        return Ok(place);
    }
    let own = mode_text(&place.mode);
    if !has_networks(&place.mode) {
        // The CLI names `host` and `none` as networks too.
        return match attachments.iter().find(|attachment| attachment.network != own) {
            Some(_) => Err(ApiError::invalid(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
            )),
            None if mac.is_empty() => Ok(place),
            None => Err(ApiError::invalid("conflicting options: mac-address and the network mode")),
        };
    }
    if let Some(other) =
        attachments.iter().find(|other| !has_networks(&parse_mode(&other.network).unwrap_or_default()))
    {
        let text = format!("container cannot be connected to network {} and others", other.network);
        return Err(ApiError::invalid(text));
    }
    attachments.sort_by_key(|attachment| attachment.network != own);
    if attachments.is_empty() {
        attachments.push(Attachment { network: own, ..Attachment::default() });
    }
    if attachments[0].mac.is_none() {
        attachments[0].mac = parse_mac(mac)?;
    }
    place.networks = Some(attachments);
    Ok(place)
}

fn has_networks(mode: &NetworkMode) -> bool {
    matches!(mode, NetworkMode::Default | NetworkMode::Network(_) | NetworkMode::Subnet { .. })
}

fn is_default(mode: &str) -> bool {
    matches!(mode, "" | "default" | "bridge")
}

/// Parses a network mode. A name with a slash is a subnet of a VPC: `NAMESPACE/SUBNET`.
pub(crate) fn parse_mode(mode: &str) -> Result<NetworkMode, ApiError> {
    if is_default(mode) {
        return Ok(NetworkMode::Default);
    }
    match mode {
        "none" => return Ok(NetworkMode::None),
        "host" => return Ok(NetworkMode::Host),
        _ => (),
    }
    if let Some(container) = mode.strip_prefix("container:") {
        return match container.is_empty() {
            true => {
                Err(ApiError::invalid("Invalid network mode: invalid container format container:<name|id>"))
            }
            false => Ok(NetworkMode::Container(container.to_owned())),
        };
    }
    match mode.split_once('/') {
        None => Ok(NetworkMode::Network(mode.to_owned())),
        Some((namespace, name)) if is_label(namespace) && is_label(name) => {
            Ok(NetworkMode::Subnet { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        Some(_) => Err(ApiError::invalid(format!(
            "invalid network \"{mode}\": want the name of a network, or NAMESPACE/SUBNET for a subnet of a VPC"
        ))),
    }
}

/// Returns a mode as docker writes it.
pub(crate) fn mode_text(mode: &NetworkMode) -> String {
    match mode {
        NetworkMode::Default => "bridge".to_owned(),
        NetworkMode::None => "none".to_owned(),
        NetworkMode::Host => "host".to_owned(),
        NetworkMode::Container(container) => format!("container:{container}"),
        NetworkMode::Network(name) => name.clone(),
        NetworkMode::Subnet { namespace, name } => format!("{namespace}/{name}"),
        NetworkMode::Sandbox(pod) => format!("pod:{pod}"),
    }
}

/// A DNS label, as names in the API are.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Reads one wanted place on a network.
pub(crate) fn parse_endpoint(name: &str, value: &Value) -> Result<Attachment, ApiError> {
    fields::check(fields::ENDPOINT, "EndpointsConfig.", value)?;
    let endpoint: Endpoint = match value {
        Value::Null => Endpoint::default(),
        value => body::decode(value.clone())?,
    };
    if !endpoint.ipam_config.link_local_ips.is_empty() {
        return Err(ApiError::not_supported("EndpointsConfig.IPAMConfig.LinkLocalIPs"));
    }
    if let Some(option) = endpoint.driver_opts.keys().find(|option| *option != INTERFACE_OPTION) {
        return Err(ApiError::not_supported(format!("the endpoint option {option}")));
    }
    Ok(Attachment {
        network: if is_default(name) { "bridge".into() } else { name.to_owned() },
        network_id: None,
        aliases: endpoint.aliases,
        links: endpoint.links,
        address: parse_address("IPv4", &endpoint.ipam_config.ipv4_address)?,
        address6: parse_address("IPv6", &endpoint.ipam_config.ipv6_address)?,
        mac: parse_mac(&endpoint.mac_address)?,
        driver_options: endpoint.driver_opts,
        gateway_priority: endpoint.gw_priority,
    })
}

fn parse_address<T: std::str::FromStr>(family: &str, text: &str) -> Result<Option<T>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid =
        || ApiError::invalid(format!("invalid endpoint settings:\ninvalid {family} address: {text}"));
    text.parse().map(Some).map_err(|_| invalid())
}

fn parse_mac(text: &str) -> Result<Option<MacAddress>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let mac = text.to_ascii_lowercase().replace('-', ":").parse();
    mac.map(Some).map_err(|_| ApiError::invalid(format!("invalid mac address {text}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(mode: &str, endpoints: Value) -> Result<Place, ApiError> {
        parse(mode, &serde_json::from_value(json!({ "EndpointsConfig": endpoints })).unwrap(), "")
    }

    #[test]
    fn modes_print_as_they_were_parsed() {
        for mode in ["bridge", "none", "host", "container:web", "front", "default/web-subnet"] {
            assert_eq!(mode_text(&parse_mode(mode).unwrap()), mode);
        }
        assert_eq!(
            parse_mode("default/web"),
            Ok(NetworkMode::Subnet { namespace: "default".into(), name: "web".into() })
        );
        for mode in ["container:", "a/b/c", "/x", "x/", "A/b", "../x"] {
            assert!(parse_mode(mode).is_err(), "{mode}");
        }
    }

    fn names(place: &Place) -> Vec<&str> {
        place.networks.iter().flatten().map(|attachment| attachment.network.as_str()).collect()
    }

    #[test]
    fn the_cli_names_the_network_twice() {
        let endpoints = json!({"front": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Aliases": ["db"]}});
        let found = place("front", endpoints).unwrap();
        assert_eq!(found.mode, NetworkMode::Network("front".into()));
        let expected = Attachment {
            network: "front".into(),
            aliases: vec!["db".into()],
            address: Some([10, 0, 0, 5].into()),
            ..Attachment::default()
        };
        assert_eq!(found.networks, Some(vec![expected]));
        assert_eq!(names(&place("default", json!({"default": {}})).unwrap()), ["bridge"]);
        assert_eq!(place("bridge", json!({})), Ok(Place::default()));
        assert_eq!(place("host", json!({"host": {}})).unwrap().networks, None);
    }

    #[test]
    fn the_modes_network_comes_first() {
        let found = place("front", json!({"back": {"GwPriority": 3}, "front": {}, "zoo": {}})).unwrap();
        assert_eq!(names(&found), ["front", "back", "zoo"]);
        assert_eq!(found.networks.unwrap()[1].gateway_priority, 3);
    }

    #[test]
    fn endpoints_have_the_last_word_over_the_default() {
        let found = place("default", json!({"front": {}})).unwrap();
        assert_eq!(found.mode, NetworkMode::Network("front".into()));
    }

    #[test]
    fn a_containers_own_ethernet_address_is_for_its_first_network() {
        let empty = NetworkingConfig::default();
        let found = parse("front", &empty, "02:00:00:00:00:aa").unwrap().networks.unwrap();
        assert_eq!(found[0].mac, Some(MacAddress([2, 0, 0, 0, 0, 0xaa])));
        assert_eq!(parse("front", &empty, "x").unwrap_err().status, 400);
        assert_eq!(parse("host", &empty, "02:00:00:00:00:aa").unwrap_err().status, 400);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(place("host", json!({"front": {}})).unwrap_err().status, 400);
        assert_eq!(place("front", json!({"front": {}, "none": {}})).unwrap_err().status, 400);
        assert_eq!(place("a", json!({"a": {"DriverOpts": {"x": "y"}}})).unwrap_err().status, 501);
        assert_eq!(place("a", json!({"a": {"IPAMConfig": {"IPv4Address": "x"}}})).unwrap_err().status, 400);
    }
}
