//! Services: the proxy's backends and the cluster's names, written whole whenever something changed.

use std::collections::{BTreeMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Cache, labels, name, namespace, text};
use cirro_seams::api::Resource;
use cirro_seams::network::{NameRecord, NameTarget, Protocol, ServicePort};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{CLUSTER_DOMAIN, Kubelet};

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Changes that come together are applied together.
const GATHER: Duration = Duration::from_millis(5);
/// What failed is tried again after so long.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a pod that ends waits for the proxy to forget it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What the proxy has been told.
pub(crate) struct ServicePlane {
    backends: watch::Sender<HashSet<Ipv4Addr>>,
}

impl Default for ServicePlane {
    fn default() -> Self {
        Self { backends: watch::Sender::new(HashSet::new()) }
    }
}

impl ServicePlane {
    /// Waits until no new connection is sent to an address: a pod is signalled only then, so that a rollout
    /// loses no request.
    pub(crate) async fn forgotten(&self, address: Ipv4Addr) {
        let mut backends = self.backends.subscribe();
        let gone = backends.wait_for(|backends| !backends.contains(&address));
        let _ = tokio::time::timeout(PATIENCE, gone).await;
    }
}

/// Keeps proxy and DNS in step with services and slices.
pub(crate) async fn run(kubelet: Arc<Kubelet>, stop: CancellationToken) {
    let slices =
        Cache::start(kubelet.api.clone(), Resource::new("discovery.k8s.io", "endpointslices"), stop.clone());
    slices.synced().await;
    kubelet.services.synced().await;
    let changed = Arc::new(Notify::new());
    for cache in [&kubelet.services, &slices] {
        let changed = changed.clone();
        cache.on_change(move |_, _| changed.notify_one());
    }
    let (mut services, mut names) = (None, None);
    loop {
        if stop.run_until_cancelled(changed.notified()).await.is_none() {
            return;
        }
        tokio::time::sleep(GATHER).await;
        let state = State::read(&kubelet.services.list(), &slices.list());
        if names.as_ref() != Some(&state.names) {
            match kubelet.engine.set_names(state.names.clone()).await {
                Ok(()) => names = Some(state.names),
                Err(error) => {
                    warn!(%error, "cannot set the cluster's names");
                    try_again(&changed);
                }
            }
        }
        if services.as_ref() != Some(&state.ports) {
            match kubelet.engine.set_services(state.ports.clone()).await {
                Ok(()) => services = Some(state.ports),
                Err(error) => {
                    warn!(%error, "cannot set the service proxy");
                    try_again(&changed);
                    continue;
                }
            }
        }
        let backends = services.iter().flatten().flat_map(|port| &port.backends).map(|(address, _)| *address);
        kubelet.plane.backends.send_replace(backends.collect());
    }
}

/// What could not be told is told a little later.
fn try_again(changed: &Arc<Notify>) {
    let again = changed.clone();
    tokio::spawn(async move {
        tokio::time::sleep(AGAIN).await;
        again.notify_one();
    });
}

/// Everything the proxy and the DNS are to know.
#[derive(Debug, Default, PartialEq)]
struct State {
    ports: Vec<ServicePort>,
    names: Vec<NameRecord>,
}

/// An endpoint of a slice.
struct Endpoint {
    address: Ipv4Addr,
    hostname: String,
    ready: bool,
    serving: bool,
    ports: Vec<(String, Protocol, u16)>,
}

impl State {
    fn read(services: &[Arc<Value>], slices: &[Arc<Value>]) -> Self {
        let mut by_service: BTreeMap<(&str, &str), Vec<Endpoint>> = BTreeMap::new();
        for slice in slices.iter().filter(|slice| slice["addressType"] == "IPv4") {
            if let Some(service) = labels(slice).get(SERVICE_LABEL) {
                by_service.entry((namespace(slice), service)).or_default().extend(read_slice(slice));
            }
        }
        let mut state = Self::default();
        for service in services {
            let none = Vec::new();
            let endpoints = by_service.get(&(namespace(service), name(service))).unwrap_or(&none);
            state.add_ports(service, endpoints);
            state.add_names(service, endpoints);
        }
        state.ports.sort();
        state.names.sort();
        state
    }

    fn add_ports(&mut self, service: &Value, endpoints: &[Endpoint]) {
        let Ok(cluster_ip) = text(service, "/spec/clusterIP").parse::<Ipv4Addr>() else { return };
        // With nobody ready, those that end but still serve are better than nobody.
        let anybody_ready = endpoints.iter().any(|endpoint| endpoint.ready);
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let (Some(protocol), Some(number)) = (protocol(port), port_number(&port["port"])) else {
                continue;
            };
            let usable = endpoints.iter().filter(|one| if anybody_ready { one.ready } else { one.serving });
            let mut backends: Vec<(Ipv4Addr, u16)> = usable
                .filter_map(|endpoint| {
                    let fits =
                        |one: &&(String, Protocol, u16)| one.0 == text(port, "/name") && one.1 == protocol;
                    Some((endpoint.address, endpoint.ports.iter().find(fits)?.2))
                })
                .collect();
            backends.sort_unstable();
            backends.dedup();
            self.ports.push(ServicePort {
                cluster_ip: Some(cluster_ip),
                port: number,
                node_port: port_number(&port["nodePort"]),
                protocol,
                backends,
                client_ip_affinity: text(service, "/spec/sessionAffinity") == "ClientIP",
            });
        }
    }

    fn add_names(&mut self, service: &Value, endpoints: &[Endpoint]) {
        let full = format!("{}.{}.svc.{CLUSTER_DOMAIN}", name(service), namespace(service));
        if text(service, "/spec/type") == "ExternalName" {
            let target = NameTarget::Alias(text(service, "/spec/externalName").to_lowercase());
            self.names.push(NameRecord { name: full, target });
            return;
        }
        let addresses: Vec<Ipv4Addr> = match text(service, "/spec/clusterIP").parse() {
            Ok(address) => vec![address],
            Err(_) => endpoints.iter().filter(|one| one.ready).map(|one| one.address).collect(),
        };
        self.names.push(NameRecord { name: full.clone(), target: NameTarget::Addresses(addresses) });
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let (Some(protocol), Some(number)) = (protocol(port), port_number(&port["port"])) else {
                continue;
            };
            if !text(port, "/name").is_empty() {
                let name = format!("_{}._{}.{full}", text(port, "/name"), protocol.as_str());
                let target = NameTarget::Service { port: number, host: full.clone() };
                self.names.push(NameRecord { name, target });
            }
        }
        for endpoint in endpoints.iter().filter(|one| one.ready && !one.hostname.is_empty()) {
            let name = format!("{}.{full}", endpoint.hostname);
            self.names.push(NameRecord { name, target: NameTarget::Addresses(vec![endpoint.address]) });
        }
    }
}

fn read_slice(slice: &Value) -> Vec<Endpoint> {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let ports: Vec<_> = ports
        .filter_map(|port| {
            Some((text(port, "/name").to_owned(), protocol(port)?, port_number(&port["port"])?))
        })
        .collect();
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter_map(|endpoint| {
            let ready = endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
            Some(Endpoint {
                address: endpoint["addresses"][0].as_str()?.parse().ok()?,
                hostname: text(endpoint, "/hostname").to_owned(),
                ready,
                serving: endpoint["conditions"]["serving"].as_bool().unwrap_or(ready),
                ports: ports.clone(),
            })
        })
        .collect()
}

fn protocol(port: &Value) -> Option<Protocol> {
    match port["protocol"].as_str().unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        // SCTP is stored, and not proxied.
        _ => None,
    }
}

fn port_number(value: &Value) -> Option<u16> {
    value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(conditions: [(bool, bool); 2]) -> Arc<Value> {
        let endpoint = |index: usize| {
            let (ready, serving) = conditions[index];
            json!({"addresses": [format!("10.0.0.{}", index + 1)], "hostname": format!("h{index}"),
                "conditions": {"ready": ready, "serving": serving}})
        };
        Arc::new(json!({"metadata": {"namespace": "ns", "name": "web-x", "labels": {SERVICE_LABEL: "web"}},
            "addressType": "IPv4", "endpoints": [endpoint(0), endpoint(1)],
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}]}))
    }

    fn service(cluster_ip: &str) -> Arc<Value> {
        Arc::new(json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": {"clusterIP": cluster_ip,
            "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}]}}))
    }

    #[test]
    fn only_ready_backends_are_sent_to_while_there_are_some() {
        let state = State::read(&[service("10.43.0.5")], &[slice([(true, true), (false, true)])]);
        assert_eq!(state.ports[0].backends, [(Ipv4Addr::new(10, 0, 0, 1), 8080)]);
        assert_eq!(state.ports[0].node_port, Some(30080));
        let state = State::read(&[service("10.43.0.5")], &[slice([(false, true), (false, false)])]);
        assert_eq!(state.ports[0].backends, [(Ipv4Addr::new(10, 0, 0, 1), 8080)]);
    }

    #[test]
    fn a_headless_service_is_its_endpoints() {
        let state = State::read(&[service("None")], &[slice([(true, true), (true, true)])]);
        assert!(state.ports.is_empty());
        let addresses = vec![Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)];
        let find =
            |name: &str| state.names.iter().find(|record| record.name == name).map(|record| &record.target);
        assert_eq!(find("web.ns.svc.cluster.local"), Some(&NameTarget::Addresses(addresses)));
        assert!(find("h1.web.ns.svc.cluster.local").is_some());
        assert!(matches!(
            find("_http._tcp.web.ns.svc.cluster.local"),
            Some(NameTarget::Service { port: 80, .. })
        ));
    }
}
