//! Beside a firewall of the host's own: its drop stays a drop, and what it lets through goes through.

use super::docker::default_bridge;
use super::lab::{HOST, WORLD, ask, ask_here, nft, on_a_host, publish, serve, workload};

#[test]
fn root_a_drop_of_the_hosts_firewall_stays_a_drop_until_it_is_opened() {
    on_a_host(async |lab| {
        nft(&[
            "add table inet fw; add chain inet fw forward { type filter hook forward priority 0; policy drop; }",
        ]);
        // Where br_netfilter is on, neighbours on a bridge meet the host's firewall as well.
        let _ = std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0");
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let two = workload(&network, "two", &bridge, |_| {}).await;
        let _page = serve(&one.netns, "one", 80);
        let _out = serve(&lab.world, "world", 8080);
        let from_outside = || ask(&lab.world, (HOST, 3000));
        let to_outside = || ask(&two.netns, (WORLD, 8080));
        assert!(from_outside().is_err() && to_outside().is_err());
        // The host itself forwards nothing, and neighbours on a bridge do not go through it.
        assert!(ask_here((HOST, 3000)).is_ok());
        assert!(ask(&two.netns, (one.port.address, 80)).is_ok());
        let foreign = nft(&["list", "table", "inet", "fw"]);
        // The rules that docs/configuration.md shows.
        nft(&["add rule inet fw forward ct state established,related accept"]);
        nft(&["add rule inet fw forward iifname \"lab*\" accept"]);
        assert!(to_outside().is_ok() && from_outside().is_err());
        nft(&["add rule inet fw forward oifname \"lab*\" ct status dnat accept"]);
        assert_eq!(from_outside().unwrap(), format!("one {WORLD}"));
        // Where the host lets everything through, what is not published stays closed.
        nft(&["add chain inet fw forward { policy accept; }"]);
        let route = "ip route add 172.17.0.0/16 via 203.0.113.1";
        let routed = lab.world.run(|| std::process::Command::new("sh").args(["-c", route]).status());
        assert!(routed.unwrap().unwrap().success());
        assert!(ask(&lab.world, (one.port.address, 80)).is_err());
        network.tear_down().await.unwrap();
        assert!(nft(&["list", "table", "inet", "fw"]).starts_with(foreign.split("policy").next().unwrap()));
    });
}
