//! Tenants' networks: overlapping, apart, guarded live; containers and machines side by side.

use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cirro_net::{CreatePort, Network, PortTarget, SubnetId, Tenants};
use cirro_sys::netlink::Netlink;
use cirro_types::kinds::{IngressRule, Peer, PortRange, Protocol, SecurityGroupSpec};
use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable, Decoder, Encodable};

use super::lab::{
    HOST, WORLD, Workload, ask, ask_here, ask_open, echoes, on_a_host, publish, resolve, serve, workload,
};

fn named(name: &str) -> (String, String) {
    ("default".into(), name.into())
}

fn rule(port: u16, from: Option<Peer>) -> IngressRule {
    IngressRule { protocol: Protocol::Tcp, ports: Some(PortRange { first: port, last: port }), from }
}

/// Two VPCs of one range, each with a subnet of one range, and in the first a second subnet.
fn tenants(web: Vec<IngressRule>) -> Tenants {
    let group = |vpc: &str, ingress| SecurityGroupSpec { vpc: vpc.into(), ingress, egress: None };
    let range = |text: &str| text.parse().unwrap();
    Tenants {
        vpcs: vec![(named("red"), range("10.0.0.0/16")), (named("blue"), range("10.0.0.0/16"))],
        subnets: vec![
            (named("front"), ("red".into(), range("10.0.1.0/24"))),
            (named("back"), ("red".into(), range("10.0.2.0/24"))),
            (named("other"), ("blue".into(), range("10.0.1.0/24"))),
        ],
        groups: vec![
            (named("web"), group("red", web)),
            (named("clients"), group("red", Vec::new())),
            (named("blue-web"), group("blue", vec![rule(80, None)])),
        ],
    }
}

fn subnet(name: &str) -> SubnetId {
    SubnetId::Tenant { namespace: "default".into(), name: name.into() }
}

async fn member(network: &Network, id: &str, on: &str, groups: &[&str]) -> Workload {
    let change = |port: &mut CreatePort| port.groups = groups.iter().map(|group| (*group).into()).collect();
    workload(network, id, &subnet(on), change).await
}

#[test]
fn root_vpcs_overlap_and_are_apart() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        network
            .set_tenants(tenants(vec![rule(80, Some(Peer::Cidr("10.0.0.0/16".parse().unwrap())))]))
            .await
            .unwrap();
        let web = member(&network, "web", "front", &["web"]).await;
        let client = member(&network, "client", "back", &[]).await;
        let other = member(&network, "other-web", "other", &["blue-web"]).await;
        let stranger = member(&network, "stranger", "other", &[]).await;
        assert_eq!(web.port.address, other.port.address);
        let _pages =
            (serve(&web.netns, "red", 80), serve(&web.netns, "red", 22), serve(&other.netns, "blue", 80));
        assert_eq!(
            ask(&client.netns, (web.port.address, 80)).unwrap(),
            format!("red {}", client.port.address)
        );
        assert_eq!(
            ask(&stranger.netns, (web.port.address, 80)).unwrap(),
            format!("blue {}", stranger.port.address)
        );
        assert!(ask(&client.netns, (web.port.address, 22)).is_err());
        // A port without a group lets nobody in.
        let _closed = serve(&client.netns, "closed", 80);
        assert!(ask(&web.netns, (client.port.address, 80)).is_err());
        // Out to the world, through two translations; not into another VPC or the host.
        let _out = serve(&lab.world, "world", 8080);
        assert_eq!(ask(&client.netns, (WORLD, 8080)).unwrap(), format!("world {HOST}"));
        let _host = super::lab::serve_here("host", 9090);
        assert!(ask(&client.netns, (HOST, 9090)).is_err());
        // Names: the short one within the subnet, the full one in the VPC.
        let dns = client.port.dns.unwrap();
        assert_eq!(dns, Ipv4Addr::new(10, 0, 2, 1));
        assert_eq!(client.port.dns_search, ["back.red.internal"]);
        assert_eq!(resolve(&client.netns, dns, "web.front.red.internal."), Some(vec![web.port.address]));
        assert_eq!(resolve(&client.netns, dns, "web."), None);
        assert_eq!(resolve(&client.netns, dns, "client."), Some(vec![client.port.address]));
        assert_eq!(resolve(&client.netns, dns, "other-web.other.blue.internal."), None);
        // Free addresses are nobody's, at once.
        let began = Instant::now();
        assert!(ask(&client.netns, (Ipv4Addr::new(10, 0, 1, 200), 80)).is_err());
        assert!(began.elapsed() < Duration::from_secs(1));
        network.tear_down().await.unwrap();
        assert_eq!(network.leaks(|_| false).await.unwrap(), Vec::<String>::new());
    });
}

#[test]
fn root_groups_open_and_close_living_connections() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let open = tenants(vec![rule(80, Some(Peer::Group("clients".into())))]);
        network.set_tenants(open.clone()).await.unwrap();
        let web = member(&network, "web", "front", &["web"]).await;
        let client = member(&network, "client", "front", &["clients"]).await;
        let stranger = member(&network, "stranger", "front", &[]).await;
        let _page = serve(&web.netns, "web", 80);
        assert!(ask(&stranger.netns, (web.port.address, 80)).is_err());
        let (_, mut living) = client.netns.run(|| ask_open((web.port.address, 80))).unwrap().unwrap();
        assert!(echoes(&mut living));
        network.set_tenants(tenants(Vec::new())).await.unwrap();
        assert!(!echoes(&mut living));
        assert!(ask(&client.netns, (web.port.address, 80)).is_err());
        network.set_tenants(open).await.unwrap();
        // The stalled bytes come with the next retransmission.
        living.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut byte = [0; 4];
        living.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"ping");
        // A restart changes nothing.
        network.stop().await;
        drop(network);
        let network = lab.start().await;
        assert!(ask(&client.netns, (web.port.address, 80)).is_ok());
        assert!(ask(&stranger.netns, (web.port.address, 80)).is_err());
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_tenants_port_is_published_and_stays_until_it_goes() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        network.set_tenants(tenants(vec![rule(80, None)])).await.unwrap();
        let web = workload(&network, "web", &subnet("front"), |port| {
            port.groups = vec!["web".into()];
            port.publish = vec![publish(8080, 80)];
        })
        .await;
        let _page = serve(&web.netns, "web", 80);
        assert_eq!(ask(&lab.world, (HOST, 8080)).unwrap(), format!("web {WORLD}"));
        assert!(ask_here((Ipv4Addr::LOCALHOST, 8080)).unwrap().starts_with("web "));
        assert!(ask(&web.netns, (HOST, 8080)).unwrap().starts_with("web "));
        let other = member(&network, "other", "other", &[]).await;
        assert!(ask(&other.netns, (HOST, 8080)).unwrap().starts_with("web "));
        // The groups guard what is published, too.
        network.set_tenants(tenants(Vec::new())).await.unwrap();
        assert!(ask(&lab.world, (HOST, 8080)).is_err());
        network.set_tenants(Tenants::default()).await.unwrap();
        assert!(network.port("web").is_some());
        network.delete_port("web").await.unwrap();
        network.delete_port("other").await.unwrap();
        let files = std::fs::read_dir(lab.directory.path().join("netns")).unwrap();
        let vpcs = files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains('@'));
        assert_eq!(vpcs.count(), 0);
        let links = Netlink::open().unwrap().links().unwrap();
        assert!(links.iter().all(|link| !link.name.starts_with("lab-t")));
        network.tear_down().await.unwrap();
    });
}

#[test]
fn root_a_tenant_cannot_take_anothers_address() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        let everybody = IngressRule { protocol: Protocol::All, ports: None, from: None };
        network.set_tenants(tenants(vec![everybody])).await.unwrap();
        let web = member(&network, "web", "front", &["web"]).await;
        let thief = member(&network, "thief", "front", &[]).await;
        let listener = web.netns.run(|| std::net::UdpSocket::bind("0.0.0.0:9000")).unwrap().unwrap();
        listener.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let forged = Ipv4Addr::new(10, 0, 1, 77);
        let target = (web.port.address, 9000);
        thief
            .netns
            .run(|| {
                let mut netlink = Netlink::open().unwrap();
                let index = netlink.index("eth0").unwrap();
                netlink.add_address(index, forged, 32).unwrap();
                for from in [forged, thief.port.address] {
                    let socket = std::net::UdpSocket::bind((from, 0)).unwrap();
                    socket.send_to(b"x", target).unwrap();
                }
            })
            .unwrap();
        let mut buffer = [0; 8];
        let (_, from) = listener.recv_from(&mut buffer).unwrap();
        assert_eq!(from.ip(), std::net::IpAddr::from(thief.port.address));
        assert!(listener.recv_from(&mut buffer).is_err());
        network.tear_down().await.unwrap();
    });
}

/// A machine's side of the tap, as much as DHCP needs: frames behind a virtio header.
fn exchange(tap: &OwnedFd, mac: [u8; 6], request: &Message) -> Message {
    const VIRTIO_HEADER: usize = 10;
    let payload = request.to_vec().unwrap();
    let mut frame = vec![0; VIRTIO_HEADER];
    frame.extend([[0xff; 6], mac].concat());
    frame.extend([0x08, 0x00]);
    frame.extend(ip_header(payload.len() + 28));
    frame.extend([0, 68, 0, 67]);
    frame.extend(((payload.len() + 8) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let mut file = std::fs::File::from(tap.try_clone().unwrap());
    file.write_all(&frame).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    let mut buffer = [0; 2048];
    while Instant::now() < until {
        let length = file.read(&mut buffer).unwrap();
        let packet = &buffer[VIRTIO_HEADER..length];
        // IPv4, UDP, to port 68.
        if packet.len() > 42 && packet[12..14] == [8, 0] && packet[23] == 17 && packet[36..38] == [0, 68] {
            return Message::decode(&mut Decoder::new(&packet[42..])).unwrap();
        }
    }
    panic!("no answer");
}

fn ip_header(length: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((length as u16).to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255]);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

#[test]
fn root_a_machine_gets_its_address_by_dhcp() {
    on_a_host(async |lab| {
        let network = lab.start().await;
        network.set_tenants(tenants(vec![rule(80, None)])).await.unwrap();
        let request = CreatePort {
            names: vec!["vm".into()],
            groups: vec!["web".into()],
            ..CreatePort::new("vm", subnet("front"), PortTarget::Tap)
        };
        let port = network.create_port(request.clone()).await.unwrap();
        let (tap, mtu) = network.open_tap("vm").await.unwrap();
        assert_eq!(mtu, 1450);
        assert!(network.open_tap("vm").await.is_err());
        let any = Ipv4Addr::UNSPECIFIED;
        let mut discover = Message::new_with_id(99, any, any, any, any, &port.mac.0);
        discover.opts_mut().insert(DhcpOption::MessageType(MessageType::Discover));
        let offer = tokio::task::block_in_place(|| exchange(&tap, port.mac.0, &discover));
        assert_eq!((offer.yiaddr(), offer.xid()), (port.address, 99));
        // It comes back after the machine and after the daemon.
        drop(tap);
        network.stop().await;
        drop(network);
        let network = lab.start().await;
        let (tap, _) = network.open_tap("vm").await.unwrap();
        assert_eq!(network.create_port(request).await.unwrap(), port);
        let offer = tokio::task::block_in_place(|| exchange(&tap, port.mac.0, &discover));
        assert_eq!(offer.yiaddr(), port.address);
        network.tear_down().await.unwrap();
    });
}
