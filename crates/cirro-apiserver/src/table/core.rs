//! Columns of the core kinds, pods apart.

use serde_json::Value;

use super::{Column, or_none};
use crate::json;

/// Returns the columns of namespaces.
pub(crate) fn namespace() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Status", |object| json::text(object, "status.phase").into()),
        Column::age(),
    ]
}

/// Returns the columns of nodes.
pub(crate) fn node() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Status", node_status),
        Column::text("Roles", node_roles),
        Column::age(),
        Column::text("Version", |node| json::text(node, "status.nodeInfo.kubeletVersion").into()),
        Column::text("Internal-IP", |node| node_address(node, "InternalIP")).wide(),
        Column::text("External-IP", |node| node_address(node, "ExternalIP")).wide(),
        Column::text("OS-Image", |node| or_unknown(node, "status.nodeInfo.osImage")).wide(),
        Column::text("Kernel-Version", |node| or_unknown(node, "status.nodeInfo.kernelVersion")).wide(),
        Column::text("Container-Runtime", |node| or_unknown(node, "status.nodeInfo.containerRuntimeVersion"))
            .wide(),
    ]
}

fn node_status(node: &Value) -> Value {
    let ready = json::array(node, "status.conditions").iter().find(|one| json::text(one, "type") == "Ready");
    let mut words = match ready.map(|one| json::text(one, "status")) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if json::at(node, "spec.unschedulable") == Some(&Value::Bool(true)) {
        words.push_str(",SchedulingDisabled");
    }
    words.into()
}

fn node_roles(node: &Value) -> Value {
    let mut roles: Vec<_> = json::object(node, "metadata.labels")
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| {
            key.strip_prefix("node-role.kubernetes.io/")
                .or_else(|| value.as_str().filter(|_| key == "kubernetes.io/role"))
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    or_none(roles.join(","))
}

fn node_address(node: &Value, kind: &str) -> Value {
    let addresses = json::array(node, "status.addresses");
    let found = addresses.iter().find(|one| json::text(one, "type") == kind);
    or_none(found.map(|one| json::text(one, "address")).unwrap_or_default().into())
}

fn or_unknown(object: &Value, path: &str) -> Value {
    let text = json::text(object, path);
    if text.is_empty() { "<unknown>".into() } else { text.into() }
}

/// Returns the columns of services.
pub(crate) fn service() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Type", |service| json::text(service, "spec.type").into()),
        Column::text("Cluster-IP", |service| or_none(json::text(service, "spec.clusterIP").into())),
        Column::text("External-IP", external_ip),
        Column::text("Port(s)", service_ports),
        Column::age(),
        Column::text("Selector", |service| {
            or_none(super::map_terms(json::object(service, "spec.selector")).join(","))
        })
        .wide(),
    ]
}

fn external_ip(service: &Value) -> Value {
    let mut addresses: Vec<_> =
        json::array(service, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match json::text(service, "spec.type") {
        "ExternalName" => return json::text(service, "spec.externalName").into(),
        "LoadBalancer" => {
            let ingress = json::array(service, "status.loadBalancer.ingress");
            let given = ingress.iter().map(|one| match json::text(one, "ip") {
                "" => json::text(one, "hostname"),
                address => address,
            });
            addresses.extend(given);
            if addresses.is_empty() {
                return "<pending>".into();
            }
        }
        _ => {}
    }
    or_none(addresses.join(","))
}

fn service_ports(service: &Value) -> Value {
    let port = |port: &Value| {
        let (number, protocol) = (json::number(port, "port").unwrap_or(0), json::text(port, "protocol"));
        match json::number(port, "nodePort").filter(|port| *port > 0) {
            Some(node_port) => format!("{number}:{node_port}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    };
    or_none(json::array(service, "spec.ports").iter().map(port).collect::<Vec<_>>().join(","))
}

/// Returns the columns of endpoints.
pub(crate) fn endpoints() -> Vec<Column> {
    vec![Column::name(), Column::text("Endpoints", endpoint_list), Column::age()]
}

fn endpoint_list(endpoints: &Value) -> Value {
    let mut list = Vec::new();
    for subset in json::array(endpoints, "subsets") {
        let ports = json::array(subset, "ports");
        for address in json::array(subset, "addresses").iter().map(|one| json::text(one, "ip")) {
            if ports.is_empty() {
                list.push(address.to_owned());
            }
            list.extend(ports.iter().map(|port| format!("{address}:{}", port["port"])));
        }
    }
    shortened(list)
}

/// Shows the first three and counts the rest.
pub(super) fn shortened(list: Vec<String>) -> Value {
    let more = list.len().saturating_sub(3);
    let mut text = list.into_iter().take(3).collect::<Vec<_>>().join(",");
    if more > 0 {
        text.push_str(&format!(" + {more} more..."));
    }
    or_none(text)
}

/// Returns the columns of config maps.
pub(crate) fn config_map() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Data", |object| (members(object, "data") + members(object, "binaryData")).into()),
        Column::age(),
    ]
}

/// Returns the columns of secrets.
pub(crate) fn secret() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Type", |object| json::text(object, "type").into()),
        Column::integer("Data", |object| members(object, "data").into()),
        Column::age(),
    ]
}

fn members(object: &Value, member: &str) -> usize {
    json::object(object, member).map_or(0, serde_json::Map::len)
}

/// Returns the columns of service accounts.
pub(crate) fn service_account() -> Vec<Column> {
    vec![
        Column::name(),
        Column::integer("Secrets", |object| json::array(object, "secrets").len().into()),
        Column::age(),
    ]
}

/// Returns the columns of events.
pub(crate) fn event() -> Vec<Column> {
    vec![
        Column::text("Last Seen", last_seen),
        Column::text("Type", |event| json::text(event, "type").into()),
        Column::text("Reason", |event| json::text(event, "reason").into()),
        Column::text("Object", event_object),
        Column::text("Subobject", |event| json::text(event, "involvedObject.fieldPath").into()).wide(),
        Column::text("Source", event_source).wide(),
        Column::text("Message", |event| json::text(event, "message").trim().into()),
        Column::text("First Seen", |event| super::age(first_time(event)).into()).wide(),
        Column::integer("Count", count).wide(),
        Column { priority: 1, ..Column::name() },
    ]
}

fn event_source(event: &Value) -> Value {
    let component = json::text(event, "source.component");
    let (component, host) = match component {
        "" => (json::text(event, "reportingComponent"), json::text(event, "reportingInstance")),
        _ => (component, json::text(event, "source.host")),
    };
    if host.is_empty() { component.into() } else { format!("{component}, {host}").into() }
}

fn event_object(event: &Value) -> Value {
    let kind = json::text(event, "involvedObject.kind").to_lowercase();
    let name = json::text(event, "involvedObject.name");
    if name.is_empty() { kind.into() } else { format!("{kind}/{name}").into() }
}

fn first_time(event: &Value) -> &str {
    match json::text(event, "firstTimestamp") {
        "" => json::text(event, "eventTime"),
        time => time,
    }
}

fn last_seen(event: &Value) -> Value {
    let series = json::text(event, "series.lastObservedTime");
    let last = json::text(event, "lastTimestamp");
    let time = [series, last, first_time(event)].into_iter().find(|time| !time.is_empty());
    super::age(time.unwrap_or_default()).into()
}

fn count(event: &Value) -> Value {
    let count = json::number(event, "series.count").or_else(|| json::number(event, "count"));
    count.filter(|count| *count > 0).unwrap_or(1).into()
}
