//! Links and rules that somebody took away by hand come back.

use cirro_sys::netlink::{Link, Netlink};

use super::docker::default_bridge;
use super::lab::{HOST, WORLD, ask, nft, on_a_host, publish, request, serve, until, workload};

fn link(name: &str) -> Option<Link> {
    Netlink::open().unwrap().link(name).unwrap()
}

fn ours() -> Vec<Link> {
    let mut links = Netlink::open().unwrap().links().unwrap();
    links.retain(|link| link.name.starts_with("lab"));
    links
}

#[test]
fn root_what_is_taken_by_hand_comes_back() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let pod_path = network.create_namespace("pod").await.unwrap();
        let pod = network.create_port(request("pod", &cirro_net::SubnetId::Pods, pod_path)).await.unwrap();
        let _page = serve(&one.netns, "one", 80);
        let reached = || ask(&lab.world, (HOST, 3000)).is_ok_and(|text| text == format!("one {WORLD}"));
        assert!(reached());
        let rules = nft(&["list", "ruleset"]);
        let mut netlink = Netlink::open().unwrap();
        // The rules: one chain, all of them, the table, everybody's.
        for command in [
            &["flush", "chain", "inet", "lab", "local"][..],
            &["flush", "table", "inet", "lab"],
            &["delete", "table", "inet", "lab"],
            &["flush", "ruleset"],
        ] {
            nft(command);
            until("the table", || nft(&["list", "ruleset"]) == rules);
            assert!(reached(), "after {command:?}");
        }
        // Every link of ours in turn: set down, then deleted.
        let names: Vec<String> = ours().into_iter().map(|link| link.name).collect();
        assert!(names.len() >= 4, "{names:?}");
        for name in &names {
            netlink.set_up(link(name).unwrap().index, false).unwrap();
            until(name, || link(name).is_some_and(|link| link.up));
            until(&format!("the way in after {name} was down"), reached);
        }
        for name in &names {
            let before = link(name).unwrap();
            netlink.delete_link(before.index).unwrap();
            until(name, || {
                link(name).is_some_and(|link| link.index != before.index && link.up && link.mac == before.mac)
            });
            until(&format!("the way in after {name} was deleted"), reached);
        }
        // An address of the bridge, the route to a pod, a port's bridge.
        let gateway = one.port.gateway.unwrap();
        netlink.delete_address(link("lab0").unwrap().index, gateway, 16).unwrap();
        until("the address", || {
            netlink.addresses().unwrap().iter().any(|(_, address, _)| *address == gateway)
        });
        let way = |netlink: &mut Netlink| {
            netlink.routes().unwrap().into_iter().find(|route| route.destination == pod.address)
        };
        let route = way(&mut netlink).unwrap();
        netlink.delete_route(&route).unwrap();
        until("the route", || way(&mut netlink).is_some());
        let port = ours().into_iter().find(|link| link.master.is_some()).unwrap();
        let output = std::process::Command::new("ip").args(["link", "set", &port.name, "nomaster"]).status();
        assert!(output.unwrap().success());
        until("the port", || link(&port.name).is_some_and(|link| link.master == port.master));
        until("the way in", reached);
        assert_eq!(nft(&["list", "ruleset"]), rules);
        network.delete_port("one").await.unwrap();
        assert!(!ours().iter().any(|link| link.name == port.name));
        network.tear_down().await.unwrap();
        assert!(ours().is_empty());
    });
}
