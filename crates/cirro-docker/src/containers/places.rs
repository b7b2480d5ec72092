//! `NetworkSettings`: a container's places on networks, and those that it wants when it does not run.

use std::net::IpAddr;

use cirro_seams::container::{Attachment, Container, Endpoint, NetworkMode, Phase};
use serde_json::{Map, Value, json};

use super::{network, ports};

/// Writes `NetworkSettings`.
pub(crate) fn network_settings(container: &Container) -> Value {
    let active = matches!(container.phase, Phase::Running | Phase::Paused);
    // Old members, which dockerd fills for the default bridge only.
    let bridge = container.endpoints.iter().find(|endpoint| endpoint.network == "bridge");
    let place = addresses(bridge);
    json!({
        "Bridge": "",
        "SandboxID": if active { container.id.as_str() } else { "" },
        "SandboxKey": "",
        "Ports": ports::inspect(container),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": place["EndpointID"],
        "Gateway": place["Gateway"],
        "GlobalIPv6Address": place["GlobalIPv6Address"],
        "GlobalIPv6PrefixLen": place["GlobalIPv6PrefixLen"],
        "IPAddress": place["IPAddress"],
        "IPPrefixLen": place["IPPrefixLen"],
        "IPv6Gateway": place["IPv6Gateway"],
        "MacAddress": place["MacAddress"],
        "Networks": networks(container),
    })
}

/// Writes `Networks`: each place on a network while there is one, else the network that is asked for.
pub(crate) fn networks(container: &Container) -> Value {
    // Whoever shares a network namespace has no place of its own.
    if matches!(container.spec.network, NetworkMode::Container(_) | NetworkMode::Sandbox(_)) {
        return json!({});
    }
    let mut rows = Map::new();
    for attachment in container.spec.attachments() {
        let endpoint = container.endpoints.iter().find(|endpoint| endpoint.is_on(&attachment));
        let name = endpoint.map_or_else(|| attachment.network.clone(), |endpoint| endpoint.network.clone());
        rows.insert(name, row(container, &attachment, endpoint));
    }
    if matches!(container.spec.network, NetworkMode::Host | NetworkMode::None) && rows.is_empty() {
        let name = network::mode_text(&container.spec.network);
        rows.insert(name, row(container, &Attachment::default(), None));
    }
    Value::Object(rows)
}

fn row(container: &Container, attachment: &Attachment, endpoint: Option<&Endpoint>) -> Value {
    let list = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
    let options = &attachment.driver_options;
    let asked_mac = attachment.mac.map_or_else(String::new, |mac| mac.to_string());
    let network_id = endpoint.map(|endpoint| endpoint.network_id.as_str());
    let mut row = json!({
        "IPAMConfig": ipam_config(attachment),
        "Links": list(&attachment.links),
        "Aliases": list(&attachment.aliases),
        "DriverOpts": if options.is_empty() { Value::Null } else { json!(options) },
        "GwPriority": attachment.gateway_priority,
        "NetworkID": network_id.or(attachment.network_id.as_deref()).unwrap_or_default(),
        "DNSNames": dns_names(container, attachment),
    });
    let mut place = addresses(endpoint);
    if endpoint.is_none() {
        place["MacAddress"] = json!(asked_mac);
    }
    if let (Value::Object(row), Value::Object(place)) = (&mut row, place) {
        row.extend(place);
    }
    row
}

fn ipam_config(attachment: &Attachment) -> Value {
    let mut config = Map::new();
    if let Some(address) = attachment.address {
        config.insert("IPv4Address".into(), json!(address));
    }
    if let Some(address) = attachment.address6 {
        config.insert("IPv6Address".into(), json!(address));
    }
    if config.is_empty() { Value::Null } else { Value::Object(config) }
}

/// Lists the names that neighbours find it by; the default bridge has none.
fn dns_names(container: &Container, attachment: &Attachment) -> Value {
    if matches!(attachment.network.as_str(), "bridge" | "") {
        return Value::Null;
    }
    let mut names = vec![container.name.clone()];
    let short_id: String = container.id.chars().take(12).collect();
    let hostname = container.spec.hostname.clone().filter(|name| !name.is_empty());
    for name in attachment.aliases.iter().cloned().chain([short_id]).chain(hostname) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    json!(names)
}

/// Writes what an endpoint is made of; empty members without one.
fn addresses(endpoint: Option<&Endpoint>) -> Value {
    let text = |address: Option<IpAddr>| address.map_or_else(String::new, |address| address.to_string());
    let six = endpoint.and_then(|endpoint| endpoint.address6);
    json!({
        "MacAddress": endpoint.map_or_else(String::new, |endpoint| endpoint.mac.to_string()),
        "EndpointID": endpoint.map_or("", |endpoint| endpoint.id.as_str()),
        "Gateway": text(endpoint.and_then(|endpoint| endpoint.gateway).map(IpAddr::V4)),
        "IPAddress": text(endpoint.map(|endpoint| endpoint.address.into())),
        "IPPrefixLen": endpoint.map_or(0, |endpoint| endpoint.prefix),
        "IPv6Gateway": text(endpoint.and_then(|endpoint| endpoint.gateway6).map(IpAddr::V6)),
        "GlobalIPv6Address": text(six.map(|(address, _)| address.into())),
        "GlobalIPv6PrefixLen": six.map_or(0, |(_, prefix)| prefix),
    })
}
