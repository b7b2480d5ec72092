//! A UDP client that never pauses follows its port to the workload that has it now.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use cirro_net::CreatePort;
use cirro_seams::network::Protocol;
use cirro_sys::netns::Netns;

use super::docker::default_bridge;
use super::lab::{HOST, on_a_host, publish, workload};

fn udp(port: &mut CreatePort) {
    let mut udp = publish(5300, 53);
    udp.protocol = Protocol::Udp;
    port.publish = vec![udp];
}

/// Sends from one socket until the workload hears it.
fn reaches(client: &UdpSocket, workload: &Netns) -> bool {
    let server = workload.run(|| UdpSocket::bind("0.0.0.0:53").unwrap()).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let _ = client.send_to(b"x", (HOST, 5300));
        if server.recv_from(&mut [0; 8]).is_ok() {
            return true;
        }
    }
    false
}

#[test]
fn root_a_client_that_goes_on_sending_reaches_who_has_the_port_now() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let bridge = default_bridge(&network);
        let client = lab.world.run(|| UdpSocket::bind("0.0.0.0:4000").unwrap()).unwrap();
        // Nobody has the port yet: the flow is remembered as the host's own.
        for _ in 0..3 {
            let _ = client.send_to(b"x", (HOST, 5300));
        }
        let one = workload(&network, "one", &bridge, udp).await;
        assert!(reaches(&client, &one.netns), "the first workload");
        // Its address goes to nobody, and the port to a workload with another one.
        let two = workload(&network, "two", &bridge, |_| {}).await;
        network.delete_port("one").await.unwrap();
        network.delete_port("two").await.unwrap();
        drop(two);
        let three = workload(&network, "three", &bridge, |port| {
            udp(port);
            port.address = Some("172.17.0.9".parse().unwrap());
        })
        .await;
        assert!(reaches(&client, &three.netns), "the second workload");
        network.tear_down().await.unwrap();
    });
}
