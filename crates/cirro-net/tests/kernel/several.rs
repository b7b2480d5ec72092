//! Workloads on several docker networks, and docker networks that are not like the others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cirro_net::{
    CreateDockerNetwork, CreatePort, DockerNetwork, EMBEDDED_DNS, NetError, Network, PortTarget, SubnetId,
};
use cirro_sys::netlink::{Netlink, NextHop};
use cirro_sys::netns::Netns;

use super::lab::{HOST, ask, nft, on_a_host, publish, request, resolve, serve, workload};

async fn network_of(
    network: &Network,
    name: &str,
    change: impl FnOnce(&mut CreateDockerNetwork),
) -> DockerNetwork {
    let mut request = CreateDockerNetwork { name: name.into(), ..CreateDockerNetwork::default() };
    change(&mut request);
    network.create_docker_network(request).await.unwrap()
}

fn on(network: &DockerNetwork) -> SubnetId {
    SubnetId::Docker(network.id.clone())
}

fn default_gateway(netns: &Netns) -> Option<Ipv4Addr> {
    let routes = netns.run(|| Netlink::open().unwrap().routes().unwrap()).unwrap();
    routes.iter().find(|route| route.prefix == 0).and_then(|route| match route.hop {
        NextHop::Via(_, gateway) => Some(gateway),
        _ => None,
    })
}

#[test]
fn root_a_second_network_comes_and_goes_while_the_workload_runs() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let front = network_of(&network, "front", |_| {}).await;
        let back = network_of(&network, "back", |_| {}).await;
        let one = workload(&network, "one", &on(&front), |port| {
            port.id = "one@front".into();
            port.names = vec!["one".into()];
            port.publish = vec![publish(3000, 80)];
        })
        .await;
        let client = workload(&network, "client", &on(&back), |_| {}).await;
        let _page = serve(&one.netns, "one", 80);
        assert_eq!(default_gateway(&one.netns), Some(front.gateway));
        let target = PortTarget::Namespace { path: one.path.clone(), interface: "eth1".into() };
        let second = CreatePort {
            names: vec!["one".into(), "db".into()],
            gateway_priority: 5,
            ..CreatePort::new("one@back", on(&back), target)
        };
        let second = network.create_port(second).await.unwrap();
        // The published port follows the default route, and names are those of both networks.
        assert_eq!(default_gateway(&one.netns), Some(back.gateway));
        assert!(ask(&lab.world, (HOST, 3000)).unwrap().starts_with("one "));
        assert!(ask(&client.netns, (second.address, 80)).unwrap().starts_with("one "));
        assert_eq!(resolve(&client.netns, EMBEDDED_DNS, "db."), Some(vec![second.address]));
        assert_eq!(resolve(&one.netns, EMBEDDED_DNS, "client."), Some(vec![client.port.address]));
        assert!(resolve(&one.netns, EMBEDDED_DNS, "one.").is_some());
        // What is published stays when the port that asked for it goes.
        network.delete_port("one@front").await.unwrap();
        assert!(ask(&lab.world, (HOST, 3000)).unwrap().starts_with("one "));
        assert_eq!(resolve(&client.netns, EMBEDDED_DNS, "one."), Some(vec![second.address]));
        network.delete_ports(vec!["one@back".into()]).await.unwrap();
        assert_eq!(default_gateway(&one.netns), None);
        assert!(ask(&lab.world, (HOST, 3000)).is_err());
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_addresses_and_ranges_are_the_users() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let range = network_of(&network, "range", |request| {
            request.subnet = Some("10.90.0.0/24".parse().unwrap());
            request.ip_range = Some("10.90.0.128/30".parse().unwrap());
            request.gateway = Some("10.90.0.1".parse().unwrap());
            request.auxiliary = [("router".to_owned(), IpAddr::from([10, 90, 0, 128]))].into();
        })
        .await;
        let one = workload(&network, "one", &on(&range), |_| {}).await;
        assert_eq!(one.port.address, Ipv4Addr::new(10, 90, 0, 129));
        let fixed = workload(&network, "fixed", &on(&range), |port| {
            port.address = Some([10, 90, 0, 9].into());
            port.mac = Some("02:00:00:00:00:aa".parse().unwrap());
        })
        .await;
        assert_eq!(fixed.port.mac.to_string(), "02:00:00:00:00:aa");
        let path = network.create_namespace("third").await.unwrap();
        let mut third = request("third", &on(&range), path);
        third.address = Some([10, 90, 0, 9].into());
        assert!(
            matches!(network.create_port(third).await, Err(NetError::Forbidden(text)) if text == "Address already in use")
        );
        let overlapping = CreateDockerNetwork {
            name: "again".into(),
            subnet: Some("10.90.0.0/25".parse().unwrap()),
            ..CreateDockerNetwork::default()
        };
        let refused = network.create_docker_network(overlapping).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "invalid pool request: Pool overlaps with other one on this address space"
        );
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_bridge_is_as_its_options_say() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let option = |name: &str, value: &str| (format!("com.docker.network.{name}"), value.to_owned());
        let closed = network_of(&network, "closed", |request| {
            request.options = [
                option("bridge.name", "mine0"),
                option("bridge.enable_icc", "false"),
                option("bridge.enable_ip_masquerade", "false"),
                option("driver.mtu", "1400"),
            ]
            .into();
        })
        .await;
        assert_eq!(closed.bridge, "mine0");
        let one =
            workload(&network, "one", &on(&closed), |port| port.publish = vec![publish(3000, 80)]).await;
        let two = workload(&network, "two", &on(&closed), |_| {}).await;
        let _page = serve(&one.netns, "one", 80);
        let mtu = |netns: &Netns| {
            netns.run(|| Netlink::open().unwrap().link("eth0").unwrap().unwrap().mtu).unwrap()
        };
        assert_eq!(mtu(&one.netns), 1400);
        assert!(ask(&two.netns, (one.port.address, 80)).is_err());
        assert!(ask(&lab.world, (HOST, 3000)).is_ok());
        assert!(
            !nft(&["list", "chain", "inet", "lab", "nat_postrouting"])
                .contains(&format!("ip saddr {}", closed.subnet))
        );
        // Started again over it, and torn down without a trace.
        network.stop().await;
        drop(network);
        let network = lab.start().await;
        assert!(ask(&lab.world, (HOST, 3000)).is_ok());
        network.tear_down().await.unwrap();
        assert!(Netlink::open().unwrap().link("mine0").unwrap().is_none());
    });
}

#[test]
fn root_a_network_with_ipv6_is_reached_by_it() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let dual = network_of(&network, "dual", |request| {
            request.ipv6 = true;
            request.subnet6 = Some("fd00:90::/64".parse().unwrap());
        })
        .await;
        assert_eq!(dual.gateway6, Some("fd00:90::1".parse().unwrap()));
        let one = workload(&network, "one", &on(&dual), |_| {}).await;
        let two = workload(&network, "two", &on(&dual), |_| {}).await;
        let address: Ipv6Addr = "fd00:90::2".parse().unwrap();
        assert_eq!(one.port.address6, Some((address, 64)));
        let listener = one.netns.run(|| std::net::TcpListener::bind((address, 80)).unwrap()).unwrap();
        let connects = |netns: &Netns| {
            let patience = std::time::Duration::from_secs(10);
            netns
                .run(|| std::net::TcpStream::connect_timeout(&(address, 80).into(), patience).is_ok())
                .unwrap()
        };
        assert!(connects(&two.netns));
        drop(listener);
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_of_a_range_of_host_ports_the_first_free_one_is_taken() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let front = network_of(&network, "front", |_| {}).await;
        let mut ranged = publish(3000, 80);
        ranged.last_host_port = Some(3001);
        let mut ports = Vec::new();
        for id in ["one", "two"] {
            let made = workload(&network, id, &on(&front), |port| port.publish = vec![ranged.clone()]).await;
            ports.push(made.port.publish[0].host_port.unwrap());
        }
        assert_eq!(ports, [3000, 3001]);
        let path = network.create_namespace("three").await.unwrap();
        let mut third = request("three", &on(&front), path);
        third.publish = vec![ranged];
        let refused = network.create_port(third).await.unwrap_err().to_string();
        assert!(refused.ends_with("Bind for 0.0.0.0:3000 failed: port is already allocated"), "{refused}");
        network.tear_down().await.unwrap();
    });
}
