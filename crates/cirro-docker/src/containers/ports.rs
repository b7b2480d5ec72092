//! Exposed and published ports, read and written.

use std::collections::BTreeMap;

use cirro_seams::container::{Container, Phase};
use cirro_seams::network::{PortPublish, Protocol};
use serde_json::{Map, Value, json};

use super::request::PortBinding;
use crate::error::ApiError;

/// Parses `80/tcp`; the protocol is tcp when it is not written.
pub(crate) fn parse_port(text: &str) -> Result<(u16, Protocol), ApiError> {
    let invalid = || ApiError::invalid(format!("invalid port specification: \"{text}\""));
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(invalid()),
    };
    let number = number.parse().ok().filter(|number| *number != 0).ok_or_else(invalid)?;
    Ok((number, protocol))
}

/// Parses `PortBindings`.
pub(crate) fn parse_bindings(
    bindings: &BTreeMap<String, Option<Vec<PortBinding>>>,
) -> Result<Vec<PortPublish>, ApiError> {
    let mut publish = Vec::new();
    for (port, hosts) in bindings {
        let (port, protocol) = parse_port(port)?;
        for host in hosts.iter().flatten() {
            publish.push(parse_binding(port, protocol, host)?);
        }
    }
    Ok(publish)
}

fn parse_binding(port: u16, protocol: Protocol, host: &PortBinding) -> Result<PortPublish, ApiError> {
    let host_address = match host.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| ApiError::invalid(format!("invalid IP address: {text}")))?),
    };
    let (host_port, last_host_port) = parse_host_ports(&host.host_port)?;
    Ok(PortPublish { host_address, host_port, last_host_port, port, protocol })
}

/// Parses `8080` or `8000-8010`; nothing and 0 stand for any.
fn parse_host_ports(text: &str) -> Result<(Option<u16>, Option<u16>), ApiError> {
    let invalid = || ApiError::invalid(format!("invalid port specification: \"{text}\""));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid());
    match text.split_once('-') {
        None if text.is_empty() => Ok((None, None)),
        None => Ok((Some(number(text)?).filter(|port| *port != 0), None)),
        Some((first, last)) => match (number(first)?, number(last)?) {
            (first, last) if first == 0 || last < first => Err(invalid()),
            (first, last) => Ok((Some(first), (last > first).then_some(last))),
        },
    }
}

/// Returns `PortBindings` as a pod's container (whose request was not docker's) would have had them.
pub(crate) fn bindings(publish: &[PortPublish]) -> Value {
    let mut map = Map::new();
    for port in publish {
        let address = port.host_address.map_or_else(String::new, |address| address.to_string());
        push_binding(&mut map, port, &address);
    }
    Value::Object(map)
}

/// Returns `NetworkSettings.Ports`: published ports with their hosts, exposed ones with null.
pub(crate) fn inspect(container: &Container) -> Value {
    let mut map = Map::new();
    if !holds_ports(container) {
        return Value::Object(map);
    }
    for port in &container.ports {
        host_addresses(port).iter().for_each(|address| push_binding(&mut map, port, address));
    }
    for (number, protocol) in &container.exposed_ports {
        map.entry(format!("{number}/{}", protocol.as_str())).or_insert(Value::Null);
    }
    Value::Object(map)
}

fn push_binding(map: &mut Map<String, Value>, port: &PortPublish, address: &str) {
    let key = format!("{}/{}", port.port, port.protocol.as_str());
    let host = json!({ "HostIp": address, "HostPort": host_port(port) });
    match map.entry(key).or_insert_with(|| json!([])) {
        Value::Array(hosts) => hosts.push(host),
        other => *other = json!([host]),
    }
}

/// Returns the `Ports` of a list.
pub(crate) fn summary(container: &Container) -> Vec<Value> {
    if !holds_ports(container) {
        return Vec::new();
    }
    let rows = container
        .ports
        .iter()
        .flat_map(|port| host_addresses(port).into_iter().map(move |address| (address, port)));
    let published = rows.map(|(address, port)| {
        json!({
            "IP": address,
            "PrivatePort": port.port,
            "PublicPort": port.host_port.unwrap_or_default(),
            "Type": port.protocol.as_str(),
        })
    });
    let unpublished = container
        .exposed_ports
        .iter()
        .filter(|(number, protocol)| {
            !container.ports.iter().any(|port| (port.port, port.protocol) == (*number, *protocol))
        })
        .map(|(number, protocol)| json!({ "PrivatePort": number, "Type": protocol.as_str() }));
    published.chain(unpublished).collect()
}

fn holds_ports(container: &Container) -> bool {
    matches!(container.phase, Phase::Running | Phase::Paused)
}

/// A port that names no address is published at every one of either family.
fn host_addresses(port: &PortPublish) -> Vec<String> {
    match port.host_address {
        Some(address) => vec![address.to_string()],
        None => ["0.0.0.0", "::"].map(str::to_owned).to_vec(),
    }
}

fn host_port(port: &PortPublish) -> String {
    port.host_port.map_or_else(String::new, |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_a_number_and_a_protocol() {
        assert_eq!(parse_port("80"), Ok((80, Protocol::Tcp)));
        assert_eq!(parse_port("53/udp"), Ok((53, Protocol::Udp)));
        for text in ["", "0/tcp", "70000", "80/icmp", "80-90/tcp", "x"] {
            assert_eq!(parse_port(text).unwrap_err().status, 400, "{text}");
        }
    }

    #[test]
    fn bindings_may_leave_address_and_port_open() {
        let host = |host_ip: &str, host_port: &str| PortBinding {
            host_ip: host_ip.into(),
            host_port: host_port.into(),
        };
        let bindings = BTreeMap::from([
            ("80/tcp".to_owned(), Some(vec![host("", "8080"), host("127.0.0.1", "")])),
            ("90/tcp".to_owned(), None),
        ]);
        let publish = parse_bindings(&bindings).unwrap();
        assert_eq!(publish.len(), 2);
        assert_eq!((publish[0].host_address, publish[0].host_port), (None, Some(8080)));
        assert_eq!((publish[1].host_address, publish[1].host_port), (Some([127, 0, 0, 1].into()), None));
        let range = BTreeMap::from([("80/sctp".to_owned(), Some(vec![host("", "8000-8010")]))]);
        let range = parse_bindings(&range).unwrap();
        assert_eq!((range[0].host_port, range[0].last_host_port), (Some(8000), Some(8010)));
        assert_eq!(range[0].protocol, Protocol::Sctp);
        for text in ["8010-8000", "x-1", "1-", "0-5", "70000"] {
            let wrong = BTreeMap::from([("80/tcp".to_owned(), Some(vec![host("", text)]))]);
            assert_eq!(parse_bindings(&wrong).unwrap_err().status, 400, "{text}");
        }
    }
}
