//! networking.k8s.io/v1: Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR.
//!
//! Source: `pkg/apis/networking/v1/defaults.go`, `pkg/apis/networking/validation/validation.go`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::networking as columns;
use crate::validate::fields::{one_of, required};
use crate::validate::{self, NameRule, names, selector};

const GROUP: &str = "networking.k8s.io";

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced(GROUP, "v1", "Ingress", "ingresses")
            .short(&["ing"])
            .schema("io.k8s.api.networking.v1.Ingress")
            .subresources(&[Subresource::Status])
            .columns(columns::ingress())
            .strategy(&Ingress),
        Kind::cluster(GROUP, "v1", "IngressClass", "ingressclasses")
            .schema("io.k8s.api.networking.v1.IngressClass")
            .columns(columns::ingress_class())
            .strategy(&IngressClass),
        Kind::namespaced(GROUP, "v1", "NetworkPolicy", "networkpolicies")
            .short(&["netpol"])
            .schema("io.k8s.api.networking.v1.NetworkPolicy")
            .columns(columns::network_policy())
            .strategy(&NetworkPolicy),
        Kind::cluster(GROUP, "v1", "IPAddress", "ipaddresses")
            .short(&["ip"])
            .schema("io.k8s.api.networking.v1.IPAddress")
            .selectable(&["spec.parentRef.name", "spec.parentRef.namespace", "spec.parentRef.resource"])
            .columns(columns::ip_address())
            .strategy(&IpAddress),
        Kind::cluster(GROUP, "v1", "ServiceCIDR", "servicecidrs")
            .schema("io.k8s.api.networking.v1.ServiceCIDR")
            .subresources(&[Subresource::Status])
            .columns(columns::service_cidr())
            .strategy(&ServiceCidr),
    ]
}

struct Ingress;

impl Strategy for Ingress {
    fn has_generation(&self) -> bool {
        true
    }

    fn prepare_create(&self, object: &mut Value) {
        object["status"] = json!({"loadBalancer": {}});
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        let rules = json::array(spec, "rules");
        if rules.is_empty() && spec.get("defaultBackend").is_none() {
            let detail = "either `defaultBackend` or `rules` must be specified";
            causes.invalid("spec", &json!([]), detail);
        }
        if let Some(one) = spec.get("defaultBackend") {
            backend("spec.defaultBackend", one, causes);
        }
        for (index, rule) in rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            host(&format!("{field}.host"), json::text(rule, "host"), causes);
            if let Some(http) = rule.get("http") {
                paths(&format!("{field}.http.paths"), json::array(http, "paths"), causes);
            }
        }
        for (index, tls) in json::array(spec, "tls").iter().enumerate() {
            for (at, one) in json::array(tls, "hosts").iter().enumerate() {
                let field = format!("spec.tls[{index}].hosts[{at}]");
                host(&field, one.as_str().unwrap_or_default(), causes);
            }
        }
        let class = json::text(spec, "ingressClassName");
        if spec.get("ingressClassName").is_some()
            && let Err(why) = NameRule::Subdomain.check(class)
        {
            causes.invalid("spec.ingressClassName", &class.into(), &why);
        }
    }
}

fn host(field: &str, host: &str, causes: &mut Causes) {
    if host.is_empty() {
        return;
    }
    if host.parse::<IpAddr>().is_ok() {
        causes.invalid(field, &host.into(), "must be a DNS name, not an IP address");
    } else if let Err(why) = NameRule::Subdomain.check(host.strip_prefix("*.").unwrap_or(host)) {
        causes.invalid(field, &host.into(), &why);
    }
}

fn paths(field: &str, paths: &[Value], causes: &mut Causes) {
    if paths.is_empty() {
        causes.required(field, "");
    }
    for (index, one) in paths.iter().enumerate() {
        let at = |member: &str| format!("{field}[{index}].{member}");
        let path = json::text(one, "path");
        match json::text(one, "pathType") {
            "" => causes.required(&at("pathType"), "pathType must be specified"),
            "Exact" | "Prefix" => {
                if !path.starts_with('/') {
                    causes.invalid(&at("path"), &path.into(), "must be an absolute path");
                }
                for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|bad| path.contains(**bad)) {
                    causes.invalid(&at("path"), &path.into(), &format!("must not contain '{bad}'"));
                }
                for bad in ["/..", "/."].iter().filter(|bad| path.ends_with(**bad)) {
                    causes.invalid(&at("path"), &path.into(), &format!("cannot end with '{bad}'"));
                }
            }
            "ImplementationSpecific" => {
                if !path.is_empty() && !path.starts_with('/') {
                    causes.invalid(&at("path"), &path.into(), "must be an absolute path");
                }
            }
            other => {
                let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
                causes.unsupported(&at("pathType"), &other.into(), &kinds);
            }
        }
        backend(&at("backend"), &one["backend"], causes);
    }
}

fn backend(field: &str, backend: &Value, causes: &mut Causes) {
    match (json::at(backend, "service"), json::at(backend, "resource")) {
        (Some(_), Some(_)) => {
            causes.invalid(field, &"".into(), "cannot set both resource and service backends");
        }
        (None, None) => causes.required(field, "resource or service backend is required"),
        (None, Some(_)) => {}
        (Some(service), None) => {
            let name = json::text(service, "name");
            let at = format!("{field}.service");
            if name.is_empty() {
                causes.required(&format!("{at}.name"), "");
            } else if let Err(why) = NameRule::Label1035.check(name) {
                causes.invalid(&format!("{at}.name"), &name.into(), &why);
            }
            let (number, word) = (json::number(service, "port.number"), json::text(service, "port.name"));
            match (number.filter(|number| *number != 0), word) {
                (None, "") => causes.required(&at, "port name or number is required"),
                (Some(_), word) if !word.is_empty() => {
                    causes.invalid(&at, &"".into(), "cannot set both port name & port number");
                }
                (Some(number), _) => {
                    if let Err(why) = names::port(number) {
                        causes.invalid(&format!("{at}.port.number"), &number.into(), &why);
                    }
                }
                (None, word) => {
                    if let Err(why) = names::port_name(word) {
                        causes.invalid(&format!("{at}.port.name"), &word.into(), &why);
                    }
                }
            }
        }
    }
}

struct IngressClass;

impl Strategy for IngressClass {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        if let Some(parameters) = object.pointer_mut("/spec/parameters").filter(|one| one.is_object()) {
            set_default(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let controller = json::text(object, "spec.controller");
        let domain = controller.split_once('/').map(|(domain, _)| domain).unwrap_or_default();
        if controller.is_empty() {
            causes.required("spec.controller", "");
        } else if !names::is_subdomain(domain) || !controller.contains('/') {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            causes.invalid("spec.controller", &controller.into(), detail);
        }
        if json::at(object, "spec.parameters").is_some() {
            for member in ["kind", "name"] {
                required(&format!("spec.parameters.{member}"), object, "", causes);
            }
            one_of("spec.parameters.scope", object, &["Cluster", "Namespace"], causes);
            let namespace = json::text(object, "spec.parameters.namespace");
            match json::text(object, "spec.parameters.scope") {
                "Namespace" if namespace.is_empty() => {
                    causes.required("spec.parameters.namespace", "`parameters.scope` is set to 'Namespace'")
                }
                "Cluster" if !namespace.is_empty() => {
                    causes.forbidden("spec.parameters.namespace", "`parameters.scope` is set to 'Cluster'")
                }
                _ => {}
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.controller", object, old, causes);
    }
}

struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "podSelector", json!({}));
        if json::array(spec, "policyTypes").is_empty() {
            let egress = !json::array(spec, "egress").is_empty();
            spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
        }
        for rules in ["ingress", "egress"] {
            for rule in json::elements_mut(spec, rules) {
                for port in json::elements_mut(rule, "ports") {
                    set_default(port, "protocol", "TCP");
                }
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let spec = &object["spec"];
        selector::check("spec.podSelector", &spec["podSelector"], causes);
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for (index, rule) in json::array(spec, rules).iter().enumerate() {
                let field = format!("spec.{rules}[{index}]");
                for (at, port) in json::array(rule, "ports").iter().enumerate() {
                    policy_port(&format!("{field}.ports[{at}]"), port, causes);
                }
                for (at, one) in json::array(rule, peers).iter().enumerate() {
                    peer(&format!("{field}.{peers}[{at}]"), one, causes);
                }
            }
        }
        let types = json::array(spec, "policyTypes");
        if types.len() > 2 {
            let value = &spec["policyTypes"];
            causes.invalid("spec.policyTypes", value, "may not specify more than two policyTypes");
        }
        for (index, one) in types.iter().enumerate() {
            if one != "Ingress" && one != "Egress" {
                causes.unsupported(&format!("spec.policyTypes[{index}]"), one, &["Egress", "Ingress"]);
            }
        }
    }
}

fn policy_port(field: &str, port: &Value, causes: &mut Causes) {
    let protocols = ["SCTP", "TCP", "UDP"];
    if !protocols.contains(&json::text(port, "protocol")) {
        causes.unsupported(&format!("{field}.protocol"), &port["protocol"], &protocols);
    }
    let fault = match &port["port"] {
        Value::Number(number) => names::port(number.as_i64().unwrap_or(0)).err(),
        Value::String(name) => names::port_name(name).err(),
        _ => None,
    };
    if let Some(why) = fault {
        causes.invalid(&format!("{field}.port"), &port["port"], &why);
    }
    if let Some(end) = json::number(port, "endPort") {
        match json::number(port, "port") {
            None => {
                let detail = "may not be specified when `port` is non-numeric or not specified";
                causes.forbidden(&format!("{field}.endPort"), detail);
            }
            Some(first) if end < first => {
                let detail = "must be greater than or equal to `port`";
                causes.invalid(&format!("{field}.endPort"), &end.into(), detail);
            }
            Some(_) => {}
        }
    }
}

fn peer(field: &str, peer: &Value, causes: &mut Causes) {
    let mut members = 0;
    for member in ["podSelector", "namespaceSelector"] {
        if let Some(chosen) = json::at(peer, member) {
            members += 1;
            selector::check(&format!("{field}.{member}"), chosen, causes);
        }
    }
    if let Some(block) = json::at(peer, "ipBlock") {
        ip_block(&format!("{field}.ipBlock"), block, causes);
        if members > 0 {
            causes.forbidden(field, "may not specify both ipBlock and another peer");
        }
        members += 1;
    }
    if members == 0 {
        causes.required(field, "must specify a peer");
    }
}

fn ip_block(field: &str, block: &Value, causes: &mut Causes) {
    let text = json::text(block, "cidr");
    if text.is_empty() {
        causes.required(&format!("{field}.cidr"), "");
        return;
    }
    let Ok(whole) = text.parse::<IpNet>() else {
        causes.invalid(&format!("{field}.cidr"), &text.into(), NOT_CIDR);
        return;
    };
    for (index, except) in json::array(block, "except").iter().enumerate() {
        let field = format!("{field}.except[{index}]");
        match except.as_str().unwrap_or_default().parse::<IpNet>() {
            Err(_) => causes.invalid(&field, except, NOT_CIDR),
            Ok(part) if !whole.contains(&part) || part.prefix_len() <= whole.prefix_len() => {
                causes.invalid(&field, except, "must be a strict subset of `cidr`");
            }
            Ok(_) => {}
        }
    }
}

const NOT_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

struct IpAddress;

impl Strategy for IpAddress {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        let name = json::name(object);
        match name.parse::<IpAddr>() {
            Ok(address) if address.to_string() == name => {}
            Ok(address) => {
                let detail = format!("must be in canonical form (\"{address}\")");
                causes.invalid("metadata.name", &name.into(), &detail);
            }
            Err(_) => causes.invalid("metadata.name", &name.into(), "must be a valid IP address"),
        }
        if json::at(object, "spec.parentRef").is_none() {
            causes.required("spec.parentRef", "");
            return;
        }
        for member in ["resource", "name"] {
            required(&format!("spec.parentRef.{member}"), object, "", causes);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.parentRef", object, old, causes);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }
}

struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn has_generation(&self) -> bool {
        true
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let cidrs = json::array(object, "spec.cidrs");
        if cidrs.is_empty() {
            causes.required("spec.cidrs", "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            let value = &object["spec"]["cidrs"];
            causes.invalid("spec.cidrs", value, "may only hold up to 2 values");
        }
        let mut families = Vec::new();
        for (index, one) in cidrs.iter().enumerate() {
            let field = format!("spec.cidrs[{index}]");
            match one.as_str().unwrap_or_default().parse::<IpNet>() {
                Err(_) => causes.invalid(&field, one, NOT_CIDR),
                Ok(net) if net != net.trunc() => {
                    let detail = format!("must be the network address {}", net.trunc());
                    causes.invalid(&field, one, &detail);
                }
                Ok(net) => families.push(net.addr().is_ipv4()),
            }
        }
        if families.len() == 2 && families[0] == families[1] {
            let detail =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            causes.invalid("spec.cidrs", &object["spec"]["cidrs"], detail);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("spec.cidrs", object, old, causes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(strategy: &dyn Strategy, spec: Value) -> String {
        let mut object = json!({"metadata": {"name": "10.0.0.1"}, "spec": spec});
        let mut causes = Causes::default();
        strategy.defaults(&mut object);
        strategy.validate(&object, &mut causes);
        format!("{causes:?}")
    }

    #[test]
    fn an_ingress_leads_somewhere() {
        let rule = |path: &str, backend: Value| {
            json!({"rules": [{"host": "*.a.example", "http": {"paths": [
                {"path": path, "pathType": "Prefix", "backend": backend}]}}]})
        };
        let service = json!({"service": {"name": "web", "port": {"number": 80}}});
        assert_eq!(faults(&Ingress, rule("/", service.clone())), "Causes([])");
        assert!(faults(&Ingress, rule("x", service)).contains("must be an absolute path"));
        assert!(
            faults(&Ingress, rule("/", json!({"service": {"name": "web"}}))).contains("port name or number")
        );
        assert!(faults(&Ingress, json!({})).contains("either `defaultBackend` or `rules`"));
        let address = json!({"rules": [{"host": "10.0.0.1"}]});
        assert!(faults(&Ingress, address).contains("must be a DNS name, not an IP address"));
    }

    #[test]
    fn policies_name_their_peers() {
        let spec =
            |peer: Value| json!({"podSelector": {}, "egress": [{"to": [peer], "ports": [{"port": 53}]}]});
        let block = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}});
        assert_eq!(faults(&NetworkPolicy, spec(block)), "Causes([])");
        assert!(faults(&NetworkPolicy, spec(json!({}))).contains("must specify a peer"));
        let outside = json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}});
        assert!(faults(&NetworkPolicy, spec(outside)).contains("must be a strict subset of `cidr`"));
    }

    #[test]
    fn addresses_and_ranges_are_canonical() {
        let parent = json!({"parentRef": {"resource": "services", "name": "a", "namespace": "b"}});
        assert_eq!(faults(&IpAddress, parent), "Causes([])");
        assert!(
            faults(&ServiceCidr, json!({"cidrs": ["10.0.0.1/24"]})).contains("must be the network address")
        );
        assert!(
            faults(&ServiceCidr, json!({"cidrs": ["10.0.0.0/24", "10.1.0.0/24"]}))
                .contains("no more than one")
        );
    }
}
