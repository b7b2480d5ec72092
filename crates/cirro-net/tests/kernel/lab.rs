//! A host with a neighbour on its wire, workloads that listen and connect, and one cloud.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use cirro_net::{CreatePort, Network, NetworkOptions, Port, PortTarget, SubnetId};
use cirro_seams::network::{PortPublish, Protocol};
use cirro_store::NodeDb;
use cirro_sys::netlink::{Netlink, NewLink, NextHop, Route, VethPeer};
use cirro_sys::netns::Netns;

/// The host's address on the wire.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
/// The neighbour's.
pub(crate) const WORLD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

/// A host and its neighbour.
pub(crate) struct Lab {
    pub(crate) world: Netns,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) db: Arc<dyn NodeDb>,
}

/// Runs a test on a host of its own.
pub(crate) fn on_a_host<F: Future<Output = ()>>(test: impl FnOnce(Arc<Lab>) -> F + Send) {
    let (host, world) = (Netns::fresh().unwrap(), Netns::fresh().unwrap());
    host.run(|| {
        wire(&world);
        let lab = Lab {
            world,
            directory: tempfile::tempdir().unwrap(),
            db: Arc::new(cirro_store::MemoryNodeDb::new()),
        };
        // Its threads are made here, so they are on the host too.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let lab = Arc::new(lab);
        runtime.block_on(test(lab.clone()));
        drop(runtime);
    })
    .unwrap();
}

fn wire(world: &Netns) {
    let mut netlink = Netlink::open().unwrap();
    let peer = VethPeer { name: "eth0", mac: [2, 0, 0, 0, 0, 2], namespace: Some(world.as_fd()) };
    netlink.add_link("uplink", NewLink::Veth(peer), [2, 0, 0, 0, 0, 1], 1500, None).unwrap();
    let set_up = |netlink: &mut Netlink, name: &str, address: Option<Ipv4Addr>| {
        let index = netlink.index(name).unwrap();
        if let Some(address) = address {
            netlink.add_address(index, address, 24).unwrap();
        }
        netlink.set_up(index, true).unwrap();
        index
    };
    set_up(&mut netlink, "lo", None);
    let index = set_up(&mut netlink, "uplink", Some(HOST));
    world
        .run(|| {
            let mut netlink = Netlink::open().unwrap();
            set_up(&mut netlink, "lo", None);
            set_up(&mut netlink, "eth0", Some(WORLD));
        })
        .unwrap();
    let (destination, prefix, hop) = (Ipv4Addr::UNSPECIFIED, 0, NextHop::Via(index, WORLD));
    netlink.set_route(&Route { destination, prefix, hop, source: None, protocol: 4 }).unwrap();
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Also when the test failed: the namespaces' files hold mounts.
        for entry in std::fs::read_dir(self.directory.path().join("netns")).into_iter().flatten().flatten() {
            let _ = cirro_sys::netns::unpin(&entry.path());
        }
    }
}

impl Lab {
    /// Options of the cloud.
    pub(crate) fn options(&self) -> NetworkOptions {
        NetworkOptions {
            name: "lab".into(),
            run_dir: self.directory.path().into(),
            docker_subnets: vec!["172.17.0.0/16".parse().unwrap(), "172.18.0.0/15".parse().unwrap()],
            pod_cidr: "10.42.0.0/24".parse().unwrap(),
            service_cidr: "10.43.0.0/16".parse().unwrap(),
            dns_address: Ipv4Addr::new(10, 43, 0, 10),
            transit_cidr: "100.64.0.0/16".parse().unwrap(),
        }
    }

    /// Starts the cloud's network.
    pub(crate) async fn start(&self) -> Network {
        Network::start(self.options(), self.db.clone()).await.unwrap()
    }
}

/// A workload in a namespace of its own.
pub(crate) struct Workload {
    pub(crate) port: Port,
    pub(crate) netns: Arc<Netns>,
    pub(crate) path: PathBuf,
}

/// Asks for a port.
pub(crate) fn request(id: &str, subnet: &SubnetId, path: PathBuf) -> CreatePort {
    let target = PortTarget::Namespace { path, interface: "eth0".into() };
    CreatePort { names: vec![id.into()], ..CreatePort::new(id, subnet.clone(), target) }
}

/// Publishes a TCP port.
pub(crate) fn publish(host_port: u16, port: u16) -> PortPublish {
    PortPublish {
        host_address: None,
        host_port: Some(host_port),
        last_host_port: None,
        port,
        protocol: Protocol::Tcp,
    }
}

/// Makes a workload.
pub(crate) async fn workload(
    network: &Network,
    id: &str,
    subnet: &SubnetId,
    change: impl FnOnce(&mut CreatePort),
) -> Workload {
    let path = network.create_namespace(id).await.unwrap();
    let mut request = request(id, subnet, path.clone());
    change(&mut request);
    let port = network.create_port(request).await.unwrap();
    Workload { port, netns: Arc::new(Netns::open(&path).unwrap()), path }
}

/// A listener that tells each client its name and the client's address.
pub(crate) struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// Serves in the calling thread's namespace. Connections stay open and echo.
pub(crate) fn serve_here(name: &str, port: u16) -> Server {
    serve_at(name, &format!("0.0.0.0:{port}"))
}

/// The same at an address.
pub(crate) fn serve_at(name: &str, address: &str) -> Server {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (name, stopped) = (name.to_owned(), stop.clone());
    let thread = std::thread::spawn(move || {
        let mut open = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            if let Ok((mut stream, client)) = listener.accept() {
                let _ = stream.write_all(format!("{name} {}\n", client.ip()).as_bytes());
                stream.set_nonblocking(true).unwrap();
                open.push(stream);
            }
            for stream in &mut open {
                let mut buffer = [0; 64];
                if let Ok(length) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..length]);
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    Server { stop, thread: Some(thread) }
}

/// Serves inside a namespace.
pub(crate) fn serve(netns: &Netns, name: &str, port: u16) -> Server {
    netns.run(|| serve_here(name, port)).unwrap()
}

/// Connects from the calling thread's namespace; what the server tells, or the error.
pub(crate) fn ask_here(address: impl Into<SocketAddr>) -> std::io::Result<String> {
    ask_open(address).map(|(text, _)| text)
}

/// The same, keeping the connection.
pub(crate) fn ask_open(address: impl Into<SocketAddr>) -> std::io::Result<(String, TcpStream)> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address.into(), patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0].into());
    }
    Ok((text, stream))
}

/// Connects from inside a namespace.
pub(crate) fn ask(netns: &Netns, address: impl Into<SocketAddr> + Send) -> std::io::Result<String> {
    netns.run(|| ask_here(address)).unwrap()
}

/// Sends something over an open connection and waits for it to come back.
pub(crate) fn echoes(stream: &mut TcpStream) -> bool {
    let mut buffer = [0; 4];
    stream.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut buffer).is_ok() && &buffer == b"ping"
}

/// Waits for a condition.
pub(crate) fn until(what: &str, mut test: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    while !test() {
        assert!(std::time::Instant::now() < end, "{what}: not within 30 seconds");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Lists a table in the calling thread's namespace.
pub(crate) fn nft(arguments: &[&str]) -> String {
    let output = std::process::Command::new("nft").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks a name server for addresses, from the calling thread's namespace. `None`: no such name.
pub(crate) fn resolve_here(server: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
    use hickory_proto::op::{Message, Query, ResponseCode};
    use hickory_proto::rr::{Name, RData, RecordType};
    let mut request = Message::query();
    request.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket.send_to(&request.to_vec().unwrap(), (server, 53)).unwrap();
    let mut buffer = [0; 2048];
    let (length, _) =
        socket.recv_from(&mut buffer).unwrap_or_else(|error| panic!("ask {server} for {name}: {error}"));
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    if answer.metadata.response_code != ResponseCode::NoError {
        return None;
    }
    let address = |data: &RData| if let RData::A(address) = data { Some(address.0) } else { None };
    Some(answer.answers.iter().filter_map(|record| address(&record.data)).collect())
}

/// Asks from inside a namespace.
pub(crate) fn resolve(netns: &Netns, server: Ipv4Addr, name: &str) -> Option<Vec<Ipv4Addr>> {
    netns.run(|| resolve_here(server, name)).unwrap()
}
