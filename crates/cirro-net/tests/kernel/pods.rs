//! Pods and services: balanced, from pods, host and outside; changed under living connections; named.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use cirro_net::SubnetId;
use cirro_seams::network::{NameRecord, NameTarget, PortPublish, Protocol, ServicePort};
use cirro_sys::netlink::Netlink;

use super::lab::{
    HOST, WORLD, ask, ask_here, ask_open, echoes, on_a_host, publish, resolve, serve, workload,
};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 100);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

fn service(backends: &[Ipv4Addr]) -> ServicePort {
    ServicePort {
        cluster_ip: Some(SERVICE),
        port: 80,
        node_port: Some(30080),
        protocol: Protocol::Tcp,
        backends: backends.iter().map(|address| (*address, 8080)).collect(),
        client_ip_affinity: false,
    }
}

fn answers(times: usize, ask: impl Fn() -> std::io::Result<String>) -> BTreeSet<String> {
    (0..times).map(|_| ask().unwrap().split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn root_a_service_balances_for_pods_host_and_outside() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let a = workload(&network, "a", &SubnetId::Pods, |_| {}).await;
        let b = workload(&network, "b", &SubnetId::Pods, |_| {}).await;
        let c = workload(&network, "c", &SubnetId::Pods, |_| {}).await;
        assert_eq!(a.port.address, Ipv4Addr::new(10, 42, 0, 2));
        let _servers = (serve(&a.netns, "a", 8080), serve(&b.netns, "b", 8080));
        // Pods reach each other with their own addresses, and the world with the host's.
        assert_eq!(ask(&c.netns, (a.port.address, 8080)).unwrap(), format!("a {}", c.port.address));
        let _out = serve(&lab.world, "world", 8080);
        assert_eq!(ask(&c.netns, (WORLD, 8080)).unwrap(), format!("world {HOST}"));
        assert_eq!(ask_here((a.port.address, 8080)).unwrap(), format!("a {GATEWAY}"));

        network.set_services(vec![service(&[a.port.address, b.port.address])]).await.unwrap();
        let both = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(answers(40, || ask(&c.netns, (SERVICE, 80))), both);
        assert_eq!(answers(40, || ask_here((SERVICE, 80))), both);
        assert_eq!(answers(40, || ask(&lab.world, (HOST, 30080))), both);
        assert_eq!(answers(40, || ask_here((Ipv4Addr::LOCALHOST, 30080))), both);
        assert_eq!(answers(40, || ask_here((HOST, 30080))), both);
        assert_eq!(answers(40, || ask(&a.netns, (SERVICE, 80))), both);
        assert!(ask(&c.netns, (SERVICE, 80)).unwrap().ends_with(&c.port.address.to_string()));
        assert!(ask(&lab.world, (HOST, 30080)).unwrap().ends_with(&WORLD.to_string()));

        // Also for a container on docker's bridge, and in front of a process of the host (the API server's way).
        let bridge = SubnetId::Docker(network.docker_networks()[0].id.clone());
        let container = workload(&network, "container", &bridge, |_| {}).await;
        assert_eq!(answers(40, || ask(&container.netns, (SERVICE, 80))), both);
        let _host = super::lab::serve_here("host", 8080);
        network.set_services(vec![service(&[GATEWAY])]).await.unwrap();
        assert_eq!(ask(&c.netns, (SERVICE, 80)).unwrap(), format!("host {}", c.port.address));
        assert!(ask_here((SERVICE, 80)).unwrap().starts_with("host "));
        // From outside the gateway's address is nobody's.
        lab.world
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                let hop = cirro_sys::netlink::NextHop::Via(netlink.index("eth0").unwrap(), HOST);
                let destination = Ipv4Addr::new(10, 42, 0, 0);
                netlink.set_route(&cirro_sys::netlink::Route {
                    destination,
                    prefix: 15,
                    hop,
                    source: None,
                    protocol: 4,
                })
            })
            .unwrap()
            .unwrap();
        assert!(ask(&lab.world, (GATEWAY, 8080)).is_err());

        let sticky = ServicePort { client_ip_affinity: true, ..service(&[a.port.address, b.port.address]) };
        network.set_services(vec![sticky]).await.unwrap();
        assert_eq!(answers(20, || ask(&c.netns, (SERVICE, 80))).len(), 1);
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_services_change_under_living_connections() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let a = workload(&network, "a", &SubnetId::Pods, |_| {}).await;
        let b = workload(&network, "b", &SubnetId::Pods, |_| {}).await;
        let c = workload(&network, "c", &SubnetId::Pods, |_| {}).await;
        let _servers = (serve(&a.netns, "a", 8080), serve(&b.netns, "b", 8080));
        network.set_services(vec![service(&[a.port.address])]).await.unwrap();
        let (_, mut living) = c.netns.run(|| ask_open((SERVICE, 80))).unwrap().unwrap();
        network.set_services(vec![service(&[b.port.address])]).await.unwrap();
        assert!(echoes(&mut living));
        assert_eq!(answers(10, || ask(&c.netns, (SERVICE, 80))), BTreeSet::from(["b".to_owned()]));
        network.set_services(Vec::new()).await.unwrap();
        assert!(echoes(&mut living));
        // Nobody's address is refused at once, and does not leave by the default route.
        let began = Instant::now();
        assert!(ask(&c.netns, (SERVICE, 80)).is_err());
        assert!(ask_here((SERVICE, 80)).is_err());
        assert!(ask(&c.netns, (Ipv4Addr::new(10, 42, 0, 200), 80)).is_err());
        assert!(ask(&lab.world, (HOST, 30080)).is_err());
        assert!(began.elapsed().as_millis() < 1500, "{:?}", began.elapsed());
        // What was told last is in force after a restart, too.
        network.set_services(vec![service(&[a.port.address])]).await.unwrap();
        network.stop().await;
        drop(network);
        let network = lab.start().await;
        assert!(echoes(&mut living));
        assert_eq!(answers(10, || ask(&c.netns, (SERVICE, 80))), BTreeSet::from(["a".to_owned()]));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_pod_cannot_take_anothers_address() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let a = workload(&network, "a", &SubnetId::Pods, |_| {}).await;
        let b = workload(&network, "b", &SubnetId::Pods, |_| {}).await;
        let listener = a.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:9000")).unwrap().unwrap();
        listener.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
        let forged = Ipv4Addr::new(10, 42, 0, 77);
        let send = |from: Ipv4Addr, to: (Ipv4Addr, u16)| {
            let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
            socket.send_to(b"x", to).unwrap();
        };
        let target = (a.port.address, 9000);
        b.netns
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                let index = netlink.index("eth0").unwrap();
                netlink.add_address(index, forged, 32).unwrap();
                send(forged, target);
                send(b.port.address, target);
            })
            .unwrap();
        let mut buffer = [0; 8];
        let (_, from) = listener.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), std::net::IpAddr::from(b.port.address));
        assert!(listener.recv_from(&mut buffer).is_err());
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_pods_ask_the_clusters_dns_whatever_is_published() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let a = workload(&network, "a", &SubnetId::Pods, |port| {
            let dns = PortPublish { protocol: Protocol::Udp, ..publish(53, 53) };
            port.publish = vec![publish(8080, 80), dns];
        })
        .await;
        let b = workload(&network, "b", &SubnetId::Pods, |_| {}).await;
        let dns = b.port.dns.unwrap();
        assert_eq!(dns, Ipv4Addr::new(10, 43, 0, 10));
        assert_eq!(resolve(&b.netns, dns, "web.default.svc.cluster.local."), None);
        let name = "web.default.svc.cluster.local".to_owned();
        network.set_names(vec![NameRecord { name, target: NameTarget::Addresses(vec![SERVICE]) }]);
        assert_eq!(resolve(&b.netns, dns, "web.default.svc.cluster.local."), Some(vec![SERVICE]));
        assert_eq!(resolve(&b.netns, dns, "none.default.svc.cluster.local."), None);
        // A host port of a pod is a published port.
        let _page = serve(&a.netns, "a", 80);
        assert_eq!(ask(&lab.world, (HOST, 8080)).unwrap(), format!("a {WORLD}"));
        let local: SocketAddr = (Ipv4Addr::LOCALHOST, 8080).into();
        assert_eq!(ask_here(local).unwrap(), format!("a {GATEWAY}"));
        assert!(ask(&a.netns, (HOST, 8080)).unwrap().starts_with("a "));
        network.tear_down().await.unwrap();
    });
}
