//! Columns of networking.k8s.io.

use serde_json::Value;

use super::{Column, or_none, selector_text};
use crate::json;

/// Returns the columns of ingresses.
pub(crate) fn ingress() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Class", |ingress| or_none(json::text(ingress, "spec.ingressClassName").into())),
        Column::text("Hosts", |ingress| {
            let rules = json::array(ingress, "spec.rules").iter();
            let hosts: Vec<_> =
                rules.map(|rule| json::text(rule, "host")).filter(|host| !host.is_empty()).collect();
            match hosts.len() {
                0 => "*".into(),
                1..=3 => hosts.join(",").into(),
                more => format!("{} + {} more...", hosts[..3].join(","), more - 3).into(),
            }
        }),
        Column::text("Address", |ingress| {
            let points = json::array(ingress, "status.loadBalancer.ingress").iter();
            let address = |one: &Value| match json::text(one, "ip") {
                "" => json::text(one, "hostname").to_owned(),
                ip => ip.to_owned(),
            };
            points.map(address).collect::<Vec<_>>().join(",").into()
        }),
        Column::text("Ports", |ingress| match json::array(ingress, "spec.tls").len() {
            0 => "80".into(),
            _ => "80, 443".into(),
        }),
        Column::age(),
    ]
}

/// Returns the columns of ingress classes.
pub(crate) fn ingress_class() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Controller", |class| json::text(class, "spec.controller").into()),
        Column::text("Parameters", |class| match json::at(class, "spec.parameters") {
            None => "<none>".into(),
            Some(parameters) => {
                let group = json::text(parameters, "apiGroup");
                let dot = if group.is_empty() { "" } else { "." };
                let (kind, name) = (json::text(parameters, "kind"), json::text(parameters, "name"));
                format!("{kind}{dot}{group}/{name}").into()
            }
        }),
        Column::age(),
    ]
}

/// Returns the columns of network policies.
pub(crate) fn network_policy() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("Pod-Selector", |policy| selector_text(json::at(policy, "spec.podSelector")).into()),
        Column::age(),
    ]
}

/// Returns the columns of addresses.
pub(crate) fn ip_address() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("ParentRef", |address| {
            let Some(parent) = json::at(address, "spec.parentRef") else { return "<none>".into() };
            let mut text = json::text(parent, "resource").to_lowercase();
            let group = json::text(parent, "group");
            if !group.is_empty() {
                text.push_str(&format!(".{group}"));
            }
            for member in ["namespace", "name"] {
                let part = json::text(parent, member);
                if !part.is_empty() {
                    text.push_str(&format!("/{part}"));
                }
            }
            text.into()
        }),
        Column::age(),
    ]
}

/// Returns the columns of service ranges.
pub(crate) fn service_cidr() -> Vec<Column> {
    vec![
        Column::name(),
        Column::text("CIDRs", |range| {
            let cidrs = json::array(range, "spec.cidrs").iter().filter_map(Value::as_str);
            cidrs.collect::<Vec<_>>().join(",").into()
        }),
        Column::age(),
    ]
}
