//! Where a container's network is: `NetworkMode` and `NetworkingConfig` together.

use std::net::Ipv4Addr;

use cirro_seams::container::NetworkMode;
use serde_json::Value;

use super::fields;
use super::request::{Endpoint, NetworkingConfig};
use crate::body;
use crate::error::ApiError;

/// The network of a create request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) mode: NetworkMode,
    pub(crate) aliases: Vec<String>,
    pub(crate) address: Option<Ipv4Addr>,
}

/// Returns where the container goes.
pub(crate) fn parse(mode: &str, networking: &NetworkingConfig) -> Result<Place, ApiError> {
    let mut endpoints = networking.endpoints_config.iter();
    let (Some((name, endpoint)), rest) = (endpoints.next(), endpoints.next()) else {
        return Ok(Place { mode: parse_mode(mode)?, ..Place::default() });
    };
    if rest.is_some() {
        return Err(ApiError::not_supported("a container on more than one network"));
    }
    // dockerd gives the endpoints the last word when the mode is the default.
    let mode = if is_default(mode) { parse_mode(name)? } else { parse_mode(mode)? };
    let named = parse_mode(name)?;
    if named != mode {
        return Err(ApiError::not_supported("a container on more than one network"));
    }
    let (aliases, address) = parse_endpoint(endpoint)?;
    let can_have_address = matches!(mode, NetworkMode::Network(_) | NetworkMode::Subnet { .. });
    if address.is_some() && !can_have_address {
        return Err(ApiError::invalid(
            "user specified IP address is supported on user defined networks only",
        ));
    }
    if !aliases.is_empty() && !can_have_address {
        return Err(ApiError::invalid(
            "network-scoped alias is supported only for containers in user defined networks",
        ));
    }
    Ok(Place { mode, aliases, address })
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

fn parse_endpoint(value: &Value) -> Result<(Vec<String>, Option<Ipv4Addr>), ApiError> {
    fields::check(fields::ENDPOINT, "EndpointsConfig.", value)?;
    let endpoint: Endpoint = match value {
        Value::Null => Endpoint::default(),
        value => body::decode(value.clone())?,
    };
    if !endpoint.ipam_config.ipv6_address.is_empty() {
        return Err(ApiError::not_supported("EndpointsConfig.IPAMConfig.IPv6Address"));
    }
    if !endpoint.ipam_config.link_local_ips.is_empty() {
        return Err(ApiError::not_supported("EndpointsConfig.IPAMConfig.LinkLocalIPs"));
    }
    let address = match endpoint.ipam_config.ipv4_address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| ApiError::invalid(format!("invalid IPv4 address: {text}")))?),
    };
    Ok((endpoint.aliases, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn place(mode: &str, endpoints: Value) -> Result<Place, ApiError> {
        parse(mode, &serde_json::from_value(json!({ "EndpointsConfig": endpoints })).unwrap())
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

    #[test]
    fn the_cli_names_the_network_twice() {
        let found =
            place("front", json!({"front": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Aliases": ["db"]}}));
        let expected = Place {
            mode: NetworkMode::Network("front".into()),
            aliases: vec!["db".into()],
            address: Some([10, 0, 0, 5].into()),
        };
        assert_eq!(found, Ok(expected));
        assert_eq!(place("default", json!({"default": {}})), Ok(Place::default()));
        assert_eq!(place("bridge", json!({})), Ok(Place::default()));
    }

    #[test]
    fn endpoints_have_the_last_word_over_the_default() {
        let found = place("default", json!({"front": {}})).unwrap();
        assert_eq!(found.mode, NetworkMode::Network("front".into()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(place("a", json!({"a": {}, "b": {}})).unwrap_err().status, 501);
        assert_eq!(place("a", json!({"b": {}})).unwrap_err().status, 501);
        assert_eq!(place("a", json!({"a": {"Links": ["x"]}})).unwrap_err().status, 501);
        assert_eq!(place("bridge", json!({"bridge": {"Aliases": ["x"]}})).unwrap_err().status, 400);
        assert_eq!(place("a", json!({"a": {"IPAMConfig": {"IPv4Address": "x"}}})).unwrap_err().status, 400);
    }
}
