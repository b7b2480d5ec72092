//! Plans against checked-in text. `UPDATE_PLANS=1 cargo test -p cirro-net plan` writes the text anew; a
//! difference in it is a decision.

use std::path::Path;
use std::sync::Arc;

use cirro_seams::network::{PortPublish, Protocol, ServicePort};
use cirro_types::kinds;

use super::*;
use crate::model::{DockerNetwork, Port, PortTarget, SubnetId, Tenants};
use crate::ranges::ForeignRanges;
use crate::state::PortRecord;

fn context() -> Context {
    Context::new(NetworkOptions {
        name: "cirro".into(),
        run_dir: "/run/cirro".into(),
        docker_subnets: vec!["172.17.0.0/16".parse().unwrap()],
        pod_cidr: "10.42.0.0/24".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        dns_address: "10.43.0.10".parse().unwrap(),
        transit_cidr: "100.64.0.0/16".parse().unwrap(),
    })
}

fn compare(name: &str, plan: &impl ToString) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/plan/tests").join(name);
    let text = plan.to_string();
    if std::env::var_os("UPDATE_PLANS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert!(text == expected, "{name} differs from the plan:\n{text}");
}

fn network(id: &str, name: &str, bridge: &str, subnet: &str, internal: bool) -> Arc<DockerNetwork> {
    let subnet: Ipv4Net = subnet.parse().unwrap();
    Arc::new(DockerNetwork {
        id: id.into(),
        name: name.into(),
        bridge: bridge.into(),
        subnet,
        gateway: crate::ipam::first(subnet),
        ip_range: None,
        subnet6: None,
        gateway6: None,
        ip_range6: None,
        auxiliary: BTreeMap::new(),
        has_own_range: false,
        internal,
        attachable: false,
        created_at: String::new(),
        labels: BTreeMap::new(),
        options: BTreeMap::new(),
    })
}

fn port(
    id: &str,
    subnet: SubnetId,
    address: &str,
    prefix: u8,
    publish: &[(&str, u16, u16)],
) -> Arc<PortRecord> {
    let address: Ipv4Addr = address.parse().unwrap();
    let gateway = crate::ipam::first(Ipv4Net::new(address, prefix).unwrap().trunc());
    let publish = publish.iter().map(|(host, host_port, port)| PortPublish {
        host_address: (!host.is_empty()).then(|| host.parse().unwrap()),
        host_port: Some(*host_port),
        last_host_port: None,
        port: *port,
        protocol: Protocol::Tcp,
    });
    Arc::new(PortRecord {
        port: Port {
            id: id.into(),
            subnet,
            address,
            prefix,
            gateway: Some(gateway),
            address6: None,
            gateway6: None,
            mac: mac_of(address),
            interface: "eth0".into(),
            dns: None,
            dns_search: Vec::new(),
            publish: publish.collect(),
        },
        link: format!("cirro-x{id}"),
        target: PortTarget::Namespace {
            path: format!("/run/cirro/netns/{id}").into(),
            interface: "eth0".into(),
        },
        namespace_inode: 7,
        names: vec![id.into()],
        links: BTreeMap::new(),
        resolvers: Vec::new(),
        gateway_priority: 0,
        groups: Vec::new(),
    })
}

fn state_of(networks: Vec<Arc<DockerNetwork>>, ports: Vec<Arc<PortRecord>>) -> State {
    State {
        networks: networks.into_iter().map(|network| (network.id.clone(), network)).collect(),
        ports: ports.into_iter().map(|record| (record.port.id.clone(), record)).collect(),
        ..State::default()
    }
}

#[test]
fn docker_networks() {
    let networks = vec![
        network("aa", "bridge", "cirro0", "172.17.0.0/16", false),
        network("bb", "front", "cirro-bb", "172.18.0.0/16", false),
        network("cc", "back", "cirro-cc", "172.19.0.0/16", true),
    ];
    let ports = vec![
        port(
            "one",
            SubnetId::Docker("aa".into()),
            "172.17.0.2",
            16,
            &[("", 3000, 80), ("127.0.0.1", 3001, 81)],
        ),
        port("two", SubnetId::Docker("bb".into()), "172.18.0.2", 16, &[]),
    ];
    let state = state_of(networks, ports);
    compare("docker.txt", &plan(&context(), &state, &services::ServiceMaps::default()));
}

#[test]
fn pods_and_services() {
    let service = |address: &str, node_port, backends: &[&str], sticky| ServicePort {
        cluster_ip: Some(address.parse().unwrap()),
        port: 80,
        node_port,
        protocol: Protocol::Tcp,
        backends: backends.iter().map(|text| (text.parse().unwrap(), 8080)).collect(),
        client_ip_affinity: sticky,
    };
    let list = [
        service("10.43.0.5", Some(30080), &["10.42.0.3", "10.42.0.2", "10.42.0.2"], false),
        service("10.43.0.6", None, &["10.42.0.2"], true),
        service("10.43.0.7", None, &[], false),
        // Answered by ourselves, whatever the cluster says.
        service("10.43.0.10", None, &["10.42.0.2"], false),
    ];
    let state = state_of(Vec::new(), vec![port("a", SubnetId::Pods, "10.42.0.2", 24, &[("", 8080, 80)])]);
    let context = context();
    compare("pods.txt", &plan(&context, &state, &services::plan(&context, &list)));
}

#[test]
fn tenants_networks() {
    let named = |name: &str| ("team".to_owned(), name.to_owned());
    let tcp = kinds::Protocol::Tcp;
    let range = |first, last| Some(kinds::PortRange { first, last });
    let from_group = |name: &str| Some(kinds::Peer::Group(name.into()));
    let web = kinds::SecurityGroupSpec {
        vpc: "main".into(),
        ingress: vec![
            kinds::IngressRule { protocol: tcp, ports: range(80, 80), from: from_group("clients") },
            kinds::IngressRule { protocol: tcp, ports: range(8000, 8080), from: None },
            kinds::IngressRule { protocol: tcp, ports: None, from: from_group("nobody") },
            kinds::IngressRule { protocol: kinds::Protocol::Icmp, ports: None, from: None },
        ],
        egress: None,
    };
    let peer = Some(kinds::Peer::Cidr("10.0.1.0/24".parse().unwrap()));
    let clients = kinds::SecurityGroupSpec {
        vpc: "main".into(),
        ingress: Vec::new(),
        egress: Some(vec![kinds::EgressRule {
            protocol: kinds::Protocol::All,
            ports: range(53, 53),
            to: peer,
        }]),
    };
    let subnet = SubnetId::Tenant { namespace: "team".into(), name: "a".into() };
    let mut one = PortRecord::clone(&port("one", subnet.clone(), "10.0.1.2", 24, &[("", 8080, 80)]));
    one.groups = vec!["web".into()];
    let mut two = PortRecord::clone(&port("two", subnet, "10.0.1.3", 24, &[]));
    two.groups = vec!["clients".into()];
    two.target = PortTarget::Tap;
    let mut state = State {
        tenants: Arc::new(Tenants {
            vpcs: vec![(named("main"), "10.0.0.0/16".parse().unwrap())],
            subnets: vec![
                (named("a"), ("main".into(), "10.0.1.0/24".parse().unwrap())),
                (named("outside"), ("main".into(), "10.9.0.0/24".parse().unwrap())),
            ],
            groups: vec![(named("web"), web), (named("clients"), clients)],
        }),
        ..state_of(Vec::new(), vec![Arc::new(one), Arc::new(two)])
    };
    let context = context();
    crate::tenants::settle(&context, &mut state, &ForeignRanges::default());
    assert_eq!(state.subnets.len(), 1, "a subnet outside its VPC is none");
    compare("tenants.txt", &plan(&context, &state, &services::ServiceMaps::default()));
}
