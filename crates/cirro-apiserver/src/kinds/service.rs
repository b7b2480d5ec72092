//! core/v1 Service: addresses and node ports are allocated with the write.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::allocate::{self, Pool};
use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::validate::{self, NameRule, names};

/// Returns the kind.
pub(crate) fn kind() -> Kind {
    Kind::namespaced("", "v1", "Service", "services")
        .short(&["svc"])
        .category("all")
        .schema("io.k8s.api.core.v1.Service")
        .subresources(&[Subresource::Status, Subresource::Proxy("ServiceProxyOptions")])
        .selectable(&["spec.clusterIP", "spec.type"])
        .columns(crate::table::core::service())
        .strategy(&Service)
}

struct Service;

impl Strategy for Service {
    fn name_rule(&self) -> NameRule {
        NameRule::Label1035
    }

    fn defaults(&self, service: &mut Value) {
        json::object_mut(service, "spec");
        let spec = &mut service["spec"];
        set_default(spec, "type", "ClusterIP");
        set_default(spec, "sessionAffinity", "None");
        for port in json::elements_mut(spec, "ports") {
            set_default(port, "protocol", "TCP");
            let number = port["port"].clone();
            set_default(port, "targetPort", number);
        }
        if json::text(spec, "sessionAffinity") == "ClientIP" {
            let config = json::object_mut(spec, "sessionAffinityConfig");
            config.entry("clientIP").or_insert_with(|| json!({"timeoutSeconds": 10800}));
        }
        let kind = json::text(spec, "type").to_owned();
        if kind != "ExternalName" {
            set_default(spec, "internalTrafficPolicy", "Cluster");
            set_default(spec, "ipFamilies", json!(["IPv4"]));
            set_default(spec, "ipFamilyPolicy", "SingleStack");
        }
        if kind == "NodePort" || kind == "LoadBalancer" {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" && spec["allocateLoadBalancerNodePorts"].is_null() {
            spec["allocateLoadBalancerNodePorts"] = true.into();
        }
    }

    fn prepare_create(&self, service: &mut Value) {
        service["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, service: &mut Value, old: &Value) {
        keep_address(&mut service["spec"], &old["spec"]);
        keep_node_ports(&mut service["spec"], &old["spec"]);
    }

    fn allocates(&self) -> bool {
        true
    }

    fn allocate(&self, service: &mut Value, old: Option<&Value>, pool: &mut Pool, causes: &mut Causes) {
        let held = old.map(|old| (address(old), node_ports(old))).unwrap_or_default();
        held.0.iter().for_each(|address| pool.release_address(*address));
        held.1.iter().for_each(|port| pool.release_port(*port));
        allocate_address(&mut service["spec"], pool, causes);
        allocate_node_ports(&mut service["spec"], pool, causes);
    }

    fn validate(&self, service: &Value, causes: &mut Causes) {
        let spec = &service["spec"];
        let supported = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
        if !supported.contains(&json::text(spec, "type")) {
            causes.unsupported("spec.type", &spec["type"], &supported);
        }
        if !["None", "ClientIP"].contains(&json::text(spec, "sessionAffinity")) {
            causes.unsupported("spec.sessionAffinity", &spec["sessionAffinity"], &["ClientIP", "None"]);
        }
        if json::text(spec, "type") == "ExternalName" {
            if json::text(spec, "externalName").is_empty() {
                causes.required("spec.externalName", "");
            }
        } else if json::array(spec, "ports").is_empty() && json::text(spec, "clusterIP") != "None" {
            causes.required("spec.ports", "");
        }
        if json::array(spec, "ipFamilies").iter().any(|family| family != "IPv4") {
            causes.invalid("spec.ipFamilies[0]", &spec["ipFamilies"][0], "not configured on this cluster");
        }
        validate::labels("spec.selector", spec.get("selector"), causes);
        ports(spec, causes);
    }

    fn validate_update(&self, service: &Value, old: &Value, causes: &mut Causes) {
        let (now, before) = (json::text(service, "spec.clusterIP"), json::text(old, "spec.clusterIP"));
        let external = |object| json::text(object, "spec.type") == "ExternalName";
        if !before.is_empty() && now != before && !external(service) && !external(old) {
            let value = json!([now]);
            causes.invalid("spec.clusterIPs[0]", &value, "may not change once set");
        }
    }

    fn claims(&self, service: &Value) -> Vec<String> {
        let address = address(service).map(allocate::address_claim);
        address.into_iter().chain(node_ports(service).into_iter().map(allocate::port_claim)).collect()
    }
}

fn address(service: &Value) -> Option<Ipv4Addr> {
    json::text(service, "spec.clusterIP").parse().ok()
}

fn node_ports(service: &Value) -> HashSet<u16> {
    let ports = json::array(service, "spec.ports").iter();
    let mut held: HashSet<u16> = ports.filter_map(node_port).collect();
    held.extend(port_at(service, "spec.healthCheckNodePort"));
    held
}

fn node_port(port: &Value) -> Option<u16> {
    port_at(port, "nodePort")
}

/// Returns a port; protobuf bodies carry a 0 for one that was not chosen.
fn port_at(object: &Value, path: &str) -> Option<u16> {
    json::number(object, path).and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// Carries the address over when the client did not send it, unless the type has none.
fn keep_address(spec: &mut Value, old: &Value) {
    if json::text(spec, "type") == "ExternalName" {
        if let Some(spec) = spec.as_object_mut() {
            spec.remove("clusterIP");
            spec.remove("clusterIPs");
        }
        return;
    }
    if json::text(spec, "clusterIP").is_empty() && !json::text(old, "clusterIP").is_empty() {
        spec["clusterIP"] = old["clusterIP"].clone();
        spec["clusterIPs"] = old["clusterIPs"].clone();
    }
}

/// Carries node ports over to ports that the client sent without, and drops them where the type
/// has none any more.
fn keep_node_ports(spec: &mut Value, old: &Value) {
    let wanted = wants_node_ports(spec);
    let mut used: HashSet<u16> = json::array(spec, "ports").iter().filter_map(node_port).collect();
    let olds = json::array(old, "ports");
    for port in json::elements_mut(spec, "ports") {
        let same = |old: &&Value| old["port"] == port["port"] && old["protocol"] == port["protocol"];
        let before = olds.iter().find(same).and_then(node_port);
        if !wanted {
            if node_port(port) == before
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        } else if node_port(port).is_none()
            && let Some(number) = before.filter(|number| used.insert(*number))
        {
            port["nodePort"] = number.into();
        }
    }
}

fn wants_node_ports(spec: &Value) -> bool {
    match json::text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => spec["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn allocate_address(spec: &mut Value, pool: &mut Pool, causes: &mut Causes) {
    if json::text(spec, "type") == "ExternalName" {
        return;
    }
    if json::text(spec, "clusterIP").is_empty()
        && let Some(first) = json::array(spec, "clusterIPs").first().cloned()
    {
        spec["clusterIP"] = first;
    }
    match json::text(spec, "clusterIP") {
        "None" => {}
        "" => match pool.take_free_address() {
            Some(address) => spec["clusterIP"] = address.to_string().into(),
            None => {
                causes.invalid(
                    "spec.clusterIPs",
                    &json!([]),
                    "failed to allocate a serviceIP: range is full",
                );
                return;
            }
        },
        text => {
            let taken = text
                .parse()
                .map_err(|_| "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned());
            if let Err(why) = taken.and_then(|address| pool.take_address(address)) {
                let detail = format!("failed to allocate IP {text}: {why}");
                causes.invalid("spec.clusterIPs", &json!([text]), &detail);
                return;
            }
        }
    }
    spec["clusterIPs"] = json!([spec["clusterIP"]]);
}

fn allocate_node_ports(spec: &mut Value, pool: &mut Pool, causes: &mut Causes) {
    let wanted = wants_node_ports(spec);
    // One number may serve two protocols of one service.
    let mut mine = HashSet::new();
    for (index, port) in json::elements_mut(spec, "ports").enumerate() {
        let field = format!("spec.ports[{index}].nodePort");
        match node_port(port) {
            Some(_) if !wanted => {
                let detail = "may not be used when `type` is 'ClusterIP'";
                causes.forbidden(&field, detail);
            }
            Some(number) => {
                if mine.insert(number)
                    && let Err(why) = pool.take_port(number)
                {
                    causes.invalid(&field, &number.into(), &why);
                }
            }
            None => {}
        }
    }
    for (index, port) in json::elements_mut(spec, "ports").enumerate() {
        if wanted && node_port(port).is_none() {
            match pool.take_free_port() {
                Some(number) => port["nodePort"] = number.into(),
                None => causes.invalid(
                    &format!("spec.ports[{index}].nodePort"),
                    &0.into(),
                    "failed to allocate a nodePort: range is full",
                ),
            }
        }
    }
}

fn ports(spec: &Value, causes: &mut Causes) {
    let list = json::array(spec, "ports");
    let (mut seen_names, mut seen_ports) = (HashSet::new(), HashSet::new());
    for (index, port) in list.iter().enumerate() {
        let at = format!("spec.ports[{index}]");
        let name = json::text(port, "name");
        if name.is_empty() {
            if list.len() > 1 {
                causes.required(&format!("{at}.name"), "");
            }
        } else if let Err(why) = NameRule::Label.check(name) {
            causes.invalid(&format!("{at}.name"), &name.into(), &why);
        } else if !seen_names.insert(name) {
            causes.duplicate(&format!("{at}.name"), &name.into());
        }
        let number = json::number(port, "port").unwrap_or(0);
        if let Err(why) = names::port(number) {
            causes.invalid(&format!("{at}.port"), &number.into(), &why);
        }
        let protocol = json::text(port, "protocol");
        if !["TCP", "UDP", "SCTP"].contains(&protocol) {
            causes.unsupported(&format!("{at}.protocol"), &protocol.into(), &["SCTP", "TCP", "UDP"]);
        }
        if !seen_ports.insert((number, protocol)) {
            causes.duplicate(&at, &json!({"port": number, "protocol": protocol}));
        }
        let fault = match &port["targetPort"] {
            Value::Number(target) => names::port(target.as_i64().unwrap_or(0)).err(),
            Value::String(target) => names::port_name(target).err(),
            _ => None,
        };
        if let Some(why) = fault {
            causes.invalid(&format!("{at}.targetPort"), &port["targetPort"], &why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        Pool::new("10.96.0.0/24".parse().unwrap(), 30000..=30010, std::iter::empty())
    }

    fn create(spec: Value) -> (Value, Causes) {
        let mut service = json!({"metadata": {"name": "x"}, "spec": spec});
        let mut causes = Causes::default();
        Service.defaults(&mut service);
        Service.allocate(&mut service, None, &mut pool(), &mut causes);
        Service.validate(&service, &mut causes);
        (service, causes)
    }

    #[test]
    fn a_plain_service_gets_an_address_and_no_node_port() {
        let (service, causes) = create(json!({"ports": [{"port": 80}]}));
        assert!(causes.is_empty());
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
        assert!(address(&service).is_some() && node_ports(&service).is_empty());
        assert_eq!(Service.claims(&service).len(), 1);
    }

    #[test]
    fn a_headless_service_has_no_claims() {
        let (service, causes) = create(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        assert!(causes.is_empty() && Service.claims(&service).is_empty());
        assert_eq!(service["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn node_ports_are_kept_over_updates_and_dropped_with_the_type() {
        let (old, causes) = create(json!({"type": "NodePort", "ports": [{"port": 80}]}));
        assert!(causes.is_empty());
        let mut new =
            json!({"metadata": {"name": "x"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        Service.defaults(&mut new);
        Service.prepare_update(&mut new, &old);
        assert_eq!(Service.claims(&new), Service.claims(&old));
        new["spec"]["type"] = "ClusterIP".into();
        Service.prepare_update(&mut new, &old);
        assert_eq!(Service.claims(&new).len(), 1);
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_its_path() {
        let (_, causes) = create(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}));
        assert!(format!("{causes:?}").contains("spec.ports[0].nodePort"));
        let (_, causes) = create(json!({"ports": [{"port": 80}, {"port": 80, "name": "Bad"}]}));
        let text = format!("{causes:?}");
        assert!(text.contains("spec.ports[0].name") && text.contains("spec.ports[1].name"));
    }
}
