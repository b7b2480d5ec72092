//! Published ports by IPv6: carried to workloads that have none, translated to those that have.

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use cirro_net::CreateDockerNetwork;
use cirro_seams::network::Protocol;
use cirro_sys::netlink::Netlink;

use super::docker::default_bridge;
use super::lab::{Lab, ask, ask_here, ask_open, echoes, on_a_host, publish, serve, until, workload};

const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const WORLD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn address_the_wire(lab: &Lab) {
    let give = |link: &str, address| {
        let mut netlink = Netlink::open().unwrap();
        let index = netlink.index(link).unwrap();
        netlink.add_address6(index, address, 64).unwrap();
    };
    give("uplink", HOST6);
    lab.world.run(|| give("eth0", WORLD6)).unwrap();
}

#[test]
fn root_a_published_port_is_reached_by_ipv6_without_ipv6_inside() {
    on_a_host(async |lab| {
        address_the_wire(&lab);
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| port.publish = vec![publish(3000, 80)]).await;
        let _page = serve(&one.netns, "one", 80);
        assert_eq!(ask_here((Ipv6Addr::LOCALHOST, 3000)).unwrap(), "one 172.17.0.1");
        assert_eq!(ask(&lab.world, (HOST6, 3000)).unwrap(), "one 172.17.0.1");
        let (_, mut stream) = lab.world.run(|| ask_open((HOST6, 3000))).unwrap().unwrap();
        assert!(echoes(&mut stream));
        // What is published at one family's address is not at the other's.
        let two = workload(&network, "two", &bridge, |port| {
            let at = |address: &str, port| {
                let mut publish = publish(port, 80);
                publish.host_address = Some(address.parse().unwrap());
                publish
            };
            port.publish = vec![at("0.0.0.0", 3001), at("::1", 3002), at("::", 3003)];
        })
        .await;
        let _page = serve(&two.netns, "two", 80);
        assert!(ask_here((Ipv6Addr::LOCALHOST, 3001)).is_err());
        assert!(ask_here((Ipv6Addr::LOCALHOST, 3002)).unwrap().starts_with("two "));
        assert!(ask(&lab.world, (HOST6, 3002)).is_err());
        assert!(ask(&lab.world, (HOST6, 3003)).unwrap().starts_with("two "));
        assert!(ask_here(([127, 0, 0, 1], 3003)).is_err());
        network.delete_port("one").await.unwrap();
        let refused = ask_here((Ipv6Addr::LOCALHOST, 3000)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(!echoes(&mut stream));
        // A daemon that starts again carries again.
        network.stop().await;
        drop(network);
        let network = lab.start().await;
        assert!(ask(&lab.world, (HOST6, 3003)).unwrap().starts_with("two "));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_with_ipv6_inside_only_localhost_is_carried() {
    on_a_host(async |lab| {
        address_the_wire(&lab);
        let network = lab.start().await;
        let request = CreateDockerNetwork { name: "six".into(), ipv6: true, ..Default::default() };
        let made = network.create_docker_network(request).await.unwrap();
        let subnet = cirro_net::SubnetId::Docker(made.id.clone());
        let one = workload(&network, "one", &subnet, |port| port.publish = vec![publish(3000, 80)]).await;
        let _page = one.netns.run(|| super::lab::serve_at("one", "[::]:80")).unwrap();
        // Its client's own address, where the packet filter translates.
        // A new link asks for neighbours only when its own address is known to be nobody else's.
        until("the way in", || ask(&lab.world, (HOST6, 3000)).is_ok());
        assert_eq!(ask(&lab.world, (HOST6, 3000)).unwrap(), format!("one {WORLD6}"));
        let gateway = made.gateway6.unwrap();
        until("the way in from here", || ask_here((Ipv6Addr::LOCALHOST, 3000)).is_ok());
        assert_eq!(ask_here((Ipv6Addr::LOCALHOST, 3000)).unwrap(), format!("one {gateway}"));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_datagrams_are_carried_by_ipv6_and_answered() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let one = workload(&network, "one", &bridge, |port| {
            let mut udp = publish(5300, 53);
            udp.protocol = Protocol::Udp;
            port.publish = vec![udp];
        })
        .await;
        let server = one.netns.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
        server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let clients = [UdpSocket::bind("[::1]:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap()];
        for (number, client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let there: SocketAddr = (Ipv6Addr::LOCALHOST, 5300).into();
            let mut buffer = [0; 16];
            let until = Instant::now() + Duration::from_secs(30);
            // Datagrams may get lost; a client asks again.
            let answer = loop {
                client.send_to(&[number as u8], there).unwrap();
                if let Ok((1, from)) = server.recv_from(&mut buffer) {
                    server.send_to(&[buffer[0] + 10], from).unwrap();
                }
                if let Ok((1, _)) = client.recv_from(&mut buffer) {
                    break buffer[0];
                }
                assert!(Instant::now() < until, "no answer");
            };
            assert_eq!(answer, number as u8 + 10);
        }
        network.tear_down().await.unwrap();
    });
}
