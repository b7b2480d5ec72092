//! Docker's bridges: reached, published, named, isolated; started again over what is there.

use std::net::Ipv4Addr;
use std::time::Instant;

use cirro_net::{CreateDockerNetwork, NetError, Network, SubnetId};
use cirro_sys::netlink::{Netlink, NextHop, Route};

use super::lab::{
    HOST, WORLD, ask, ask_here, ask_open, echoes, nft, on_a_host, publish, request, resolve, serve,
    serve_here, until, workload,
};

pub(crate) fn default_bridge(network: &Network) -> SubnetId {
    let networks = network.docker_networks();
    SubnetId::Docker(networks.iter().find(|network| network.name == "bridge").unwrap().id.clone())
}

#[test]
fn root_a_published_port_is_reached_from_everywhere() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let two = workload(&network, "two", &bridge, |_| {}).await;
        assert_eq!(one.port.address, Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(two.port.address, Ipv4Addr::new(172, 17, 0, 3));
        let _page = serve(&one.netns, "one", 80);
        // The neighbour is seen with its own address.
        assert_eq!(ask(&lab.world, (HOST, 3000)).unwrap(), format!("one {WORLD}"));
        assert_eq!(ask_here((Ipv4Addr::LOCALHOST, 3000)).unwrap(), "one 172.17.0.1");
        assert!(ask_here((HOST, 3000)).unwrap().starts_with("one "));
        assert!(ask_here((one.port.gateway.unwrap(), 3000)).unwrap().starts_with("one "));
        assert!(ask(&two.netns, (HOST, 3000)).unwrap().starts_with("one "));
        assert!(ask(&one.netns, (HOST, 3000)).unwrap().starts_with("one "));
        // Neighbours see each other; nobody outside gets in but by the published port.
        assert_eq!(ask(&two.netns, (one.port.address, 80)).unwrap(), "one 172.17.0.3");
        let out = serve(&lab.world, "world", 8080);
        assert_eq!(ask(&one.netns, (WORLD, 8080)).unwrap(), format!("world {HOST}"));
        drop(out);
        network.delete_port("one").await.unwrap();
        assert!(ask(&lab.world, (HOST, 3000)).is_err());
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_what_is_published_at_localhost_is_for_localhost() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| {
            let mut local = publish(3000, 80);
            local.host_address = Some(Ipv4Addr::LOCALHOST.into());
            port.publish = vec![local];
        })
        .await;
        let _page = serve(&one.netns, "one", 80);
        assert!(ask_here((Ipv4Addr::LOCALHOST, 3000)).unwrap().starts_with("one "));
        assert!(ask(&lab.world, (HOST, 3000)).is_err());
        // A neighbour that sends to 127.0.0.1 by the wire (CVE-2020-8558's way).
        let localhost = Ipv4Addr::new(127, 0, 0, 1);
        let forged = lab
            .world
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                let lo = netlink.index("lo").unwrap();
                netlink.delete_address(lo, localhost, 8).unwrap();
                let hop = NextHop::Via(netlink.index("eth0").unwrap(), HOST);
                netlink
                    .set_route(&Route {
                        destination: localhost,
                        prefix: 32,
                        hop,
                        source: Some(WORLD),
                        protocol: 4,
                    })
                    .unwrap();
                std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
                ask_here((localhost, 3000))
            })
            .unwrap();
        assert!(forged.is_err(), "{forged:?}");
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_taken_host_port_is_refused_in_dockers_words() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let path = network.create_namespace("two").await.unwrap();
        let mut second = request("two", &bridge, path);
        second.publish = vec![publish(0, 81), publish(3000, 80)];
        let error = network.create_port(second.clone()).await.unwrap_err();
        let text = format!(
            "driver failed programming external connectivity on endpoint two ({}): \
             Bind for 0.0.0.0:3000 failed: port is already allocated",
            cirro_net::Port::endpoint_id("two")
        );
        assert!(matches!(&error, NetError::Conflict(message) if *message == text), "{error}");
        assert!(network.port("two").is_none());
        // A process of the host counts as well, also for ports that are taken unasked.
        let _listening = serve_here("host", 32768);
        second.publish = vec![publish(32768, 80)];
        assert!(matches!(network.create_port(second.clone()).await, Err(NetError::Conflict(_))));
        second.publish = vec![publish(0, 80)];
        let port = network.create_port(second).await.unwrap();
        assert_eq!(port.publish[0].host_port, Some(32769));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_user_networks_have_names_and_are_apart() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let make =
            |name: &str, internal| CreateDockerNetwork { name: name.into(), internal, ..Default::default() };
        let one = network.create_docker_network(make("one", false)).await.unwrap();
        let two = network.create_docker_network(make("two", true)).await.unwrap();
        assert!(matches!(
            network.create_docker_network(make("one", false)).await,
            Err(NetError::Conflict(text)) if text == "network with name one already exists"
        ));
        let (id_one, id_two) = (SubnetId::Docker(one.id.clone()), SubnetId::Docker(two.id.clone()));
        let web = workload(&network, "web", &id_one, |port| port.names.push("alias".into())).await;
        let client = workload(&network, "client", &id_one, |_| {}).await;
        let other = workload(&network, "other", &id_two, |_| {}).await;
        let _page = serve(&web.netns, "web", 80);
        let dns = client.port.dns.unwrap();
        assert_eq!(dns, one.gateway);
        assert_eq!(resolve(&client.netns, dns, "web."), Some(vec![web.port.address]));
        assert_eq!(resolve(&client.netns, dns, "Alias."), Some(vec![web.port.address]));
        assert_eq!(resolve(&client.netns, dns, "other."), None);
        assert!(ask(&client.netns, (web.port.address, 80)).is_ok());
        assert!(ask(&other.netns, (web.port.address, 80)).is_err());
        assert!(matches!(network.delete_docker_network(&one.id).await, Err(NetError::Forbidden(_))));
        // An internal network leads nowhere.
        let _out = serve(&lab.world, "world", 8080);
        assert!(ask(&client.netns, (WORLD, 8080)).is_ok());
        assert!(ask(&other.netns, (WORLD, 8080)).is_err());
        assert!(Network::leftovers(lab.options()).unwrap().contains(&"nftables table inet lab".into()));
        network.delete_port("other").await.unwrap();
        network.delete_docker_network(&two.id).await.unwrap();
        assert!(network.leaks(|_| false).await.unwrap().iter().all(|leak| leak.ends_with("/other")));
        network.tear_down().await.unwrap();
        assert_eq!(network.leaks(|_| false).await.unwrap(), Vec::<String>::new());
        assert_eq!(Network::leftovers(lab.options()).unwrap(), Vec::<String>::new());
        let names = Netlink::open().unwrap().links().unwrap().into_iter().map(|link| link.name);
        assert_eq!(names.collect::<Vec<_>>(), ["lo", "uplink"]);
        assert_eq!(nft(&["list", "tables"]), "");
    });
}

#[test]
fn root_a_start_over_what_is_there_disturbs_nothing() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let _page = serve(&one.netns, "one", 80);
        let (_, mut stream) = lab.world.run(|| ask_open((HOST, 3000))).unwrap().unwrap();
        let seen = || (Netlink::open().unwrap().links().unwrap(), nft(&["list", "ruleset"]));
        let before = seen();
        network.stop().await;
        drop(network);
        let network = lab.start().await;
        assert_eq!(seen(), before);
        assert!(echoes(&mut stream));
        assert_eq!(network.port("one").unwrap(), one.port);
        let again = network.create_port(request("one", &bridge, one.path.clone())).await.unwrap();
        assert_eq!(again, one.port);
        assert_eq!(seen(), before);
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_port_follows_its_workload_into_a_new_namespace() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        network.delete_namespace("one").await.unwrap();
        let again = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        assert_eq!(again.port, one.port);
        let _page = serve(&again.netns, "again", 80);
        assert!(ask(&lab.world, (HOST, 3000)).unwrap().starts_with("again"));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_port_whose_namespace_is_gone_stops_nothing() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let lost = workload(&network, "lost", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let path = lost.path.clone();
        network.stop().await;
        drop(network);
        // As after a reboot: the file is there, the namespace and its links are not.
        drop(lost);
        cirro_sys::netns::unpin(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        let mut netlink = Netlink::open().unwrap();
        for link in netlink.links().unwrap().iter().filter(|link| link.name.starts_with("lab-v")) {
            let _ = netlink.delete_link(link.index);
        }
        let network = lab.start().await;
        let other = workload(&network, "other", &bridge, |_| {}).await;
        assert_eq!(other.port.address, Ipv4Addr::new(172, 17, 0, 3));
        let again = workload(&network, "lost", &bridge, |_| {}).await;
        assert_eq!(again.port.address, Ipv4Addr::new(172, 17, 0, 2));
        let _page = serve(&again.netns, "again", 80);
        assert!(ask(&lab.world, (HOST, 3000)).unwrap().starts_with("again"));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_refused_port_leaves_nothing_behind() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |_| {}).await;
        let before = (Netlink::open().unwrap().links().unwrap(), nft(&["list", "ruleset"]));
        // The namespace has an eth0 already, so the kernel refuses half-way.
        let mut second = request("second", &bridge, one.path.clone());
        second.publish = vec![publish(3000, 80)];
        assert!(matches!(network.create_port(second.clone()).await, Err(NetError::Kernel(_))));
        assert_eq!((Netlink::open().unwrap().links().unwrap(), nft(&["list", "ruleset"])), before);
        assert!(network.port("second").is_none());
        second.target = cirro_net::PortTarget::Namespace { path: one.path.clone(), interface: "eth1".into() };
        assert_eq!(network.create_port(second).await.unwrap().address, Ipv4Addr::new(172, 17, 0, 3));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_ranges_of_others_are_left_alone() {
    on_a_host(async |lab| {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.index("uplink").unwrap();
        netlink.add_address(index, "172.17.9.1".parse().unwrap(), 24).unwrap();
        let network = lab.start().await;
        assert_eq!(network.docker_networks()[0].subnet.to_string(), "172.18.0.0/16");
        let mut second = lab.options();
        second.name = "other".into();
        let db = std::sync::Arc::new(cirro_store::MemoryNodeDb::new());
        let Err(error) = Network::start(second.clone(), db.clone()).await else { panic!("started") };
        assert_eq!(error.to_string(), "pod range 10.42.0.0/24 is taken by 10.42.0.1/32 on link lab-gw");
        second.pod_cidr = "10.52.0.0/24".parse().unwrap();
        second.service_cidr = "10.53.0.0/16".parse().unwrap();
        second.dns_address = "10.53.0.10".parse().unwrap();
        second.run_dir = second.run_dir.join("other");
        let other = Network::start(second, db).await.unwrap();
        assert_eq!(other.docker_networks()[0].subnet.to_string(), "172.19.0.0/16");
        let one = workload(&network, "one", &default_bridge(&network), |_| {}).await;
        let _page = serve(&one.netns, "one", 80);
        other.tear_down().await.unwrap();
        assert!(ask_here((one.port.address, 80)).is_ok());
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_many_ports_are_made_quickly() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let mut paths = Vec::new();
        for index in 0..20 {
            paths.push(network.create_namespace(&format!("c{index}")).await.unwrap());
        }
        let began = Instant::now();
        for (index, path) in paths.into_iter().enumerate() {
            let mut port = request(&format!("c{index}"), &bridge, path);
            port.publish = vec![publish(0, 80)];
            network.create_port(port).await.unwrap();
        }
        let each = began.elapsed() / 20;
        eprintln!("a bridge port with a published port: {each:?}");
        assert!(each.as_millis() < 500, "{each:?}");
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_who_claims_anothers_address_on_a_bridge_is_not_heard() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let victim = workload(&network, "victim", &bridge, |_| {}).await;
        let asker = workload(&network, "asker", &bridge, |_| {}).await;
        let thief = workload(&network, "thief", &bridge, |_| {}).await;
        let _page = serve(&victim.netns, "victim", 80);
        let gateway = victim.port.gateway.expect("a gateway");
        let idle = Ipv4Addr::from(u32::from(victim.port.address) + 77);
        thief
            .netns
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                let index = netlink.index("eth0").unwrap();
                for address in [victim.port.address, gateway, idle] {
                    netlink.add_address(index, address, 32).unwrap();
                    // Asking for a neighbour tells it who asks.
                    let socket = std::net::UdpSocket::bind((address, 0)).unwrap();
                    for target in
                        [asker.port.address, victim.port.address].iter().filter(|target| **target != address)
                    {
                        socket.send_to(b"x", (*target, 9000)).unwrap();
                    }
                }
            })
            .unwrap();
        until("the claims are dropped", || {
            let table = nft(&["list", "chain", "bridge", "lab", "guard"]);
            table.contains("counter packets") && !table.contains("counter packets 0 ")
        });
        for _ in 0..5 {
            assert!(ask(&asker.netns, (victim.port.address, 80)).unwrap().starts_with("victim "));
        }
        let known = |address: Ipv4Addr| {
            let table =
                asker.netns.run(|| std::fs::read_to_string("/proc/thread-self/net/arp").unwrap()).unwrap();
            let line =
                table.lines().find(|line| line.split_whitespace().next() == Some(&address.to_string()));
            line.map(|line| line.split_whitespace().nth(3).unwrap_or_default().to_owned())
        };
        assert_eq!(known(victim.port.address), Some(victim.port.mac.to_string()));
        assert_ne!(known(gateway), Some(thief.port.mac.to_string()));
        // What is nobody's may be had: an address may move between containers.
        until("the idle address is heard of", || known(idle) == Some(thief.port.mac.to_string()));
        network.tear_down().await.unwrap();
    });
}
