//! Carries what comes to published ports by IPv6 to workloads that have IPv4 only, as dockerd's proxy does.
//!
//! The packet filter does not translate from one family to the other, and what comes from `::1` cannot leave the host at
//! all. So each port that is published at IPv6 addresses has one listener in the daemon, on the very socket that
//! keeps the port from others ([`crate::hostports`]); everything else goes by the packet filter and never gets here.
//! Workloads see the host as their client. While no daemon runs nobody carries: such clients are refused until the next start.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cirro_seams::network::{PortPublish, Protocol};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::hostports::{HostPorts, Key, key};
use crate::plan::host::At;
use crate::plan::places::{Places, Published};
use crate::state::State;

/// Connections and UDP clients of all ports together.
const MAX_CLIENTS: usize = 4096;
/// Those of one port.
const MAX_CLIENTS_OF_ONE: usize = 1024;
/// How long a workload may take to accept.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// How long a UDP client may go without an answer before it is forgotten, as dockerd's.
const UDP_SILENCE: Duration = Duration::from_secs(90);
/// Largest datagram.
const MAX_DATAGRAM: usize = 65_536;
/// A pause after the kernel refused to accept (no descriptor left, say).
const PAUSE: Duration = Duration::from_millis(100);

/// The running relays.
pub(crate) struct Relays {
    runtime: Handle,
    running: HashMap<Key, Running>,
    clients: Arc<Semaphore>,
    stopped: bool,
}

struct Running {
    target: SocketAddr,
    socket: OwnedFd,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        // The port stays taken, but nobody is to connect to what nobody serves.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Read);
    }
}

/// Room for the clients of one port.
#[derive(Clone)]
struct Room {
    all: Arc<Semaphore>,
    own: Arc<Semaphore>,
}

impl Room {
    fn take(&self) -> Option<[tokio::sync::OwnedSemaphorePermit; 2]> {
        let own = Arc::clone(&self.own).try_acquire_owned().ok()?;
        Some([own, Arc::clone(&self.all).try_acquire_owned().ok()?])
    }
}

impl Relays {
    /// Starts with none.
    pub(crate) fn new(runtime: Handle) -> Self {
        let clients = Arc::new(Semaphore::new(MAX_CLIENTS));
        Self { runtime, running: HashMap::new(), clients, stopped: false }
    }

    /// Carries for every port of the records that needs it, and no other.
    pub(crate) fn follow(&mut self, state: &State, ports: &HostPorts) {
        if self.stopped {
            return;
        }
        let wanted = wanted(state);
        self.running.retain(|key, relay| wanted.get(key) == Some(&relay.target) && !relay.task.is_finished());
        for (key, target) in wanted {
            if self.running.contains_key(&key) {
                continue;
            }
            // Absent where the host has no IPv6, or another process has the port there.
            let Some(socket) = ports.socket6(key) else { continue };
            match self.serve(key.1, socket, target) {
                Ok(relay) => {
                    self.running.insert(key, relay);
                }
                Err(error) => warn!(port = key.2, %error, "a published port is not reached by IPv6"),
            }
        }
    }

    /// Ends them all, for good.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.running.clear();
    }

    fn serve(&self, protocol: Protocol, socket: &OwnedFd, target: SocketAddr) -> std::io::Result<Running> {
        let (kept, used) = (socket.try_clone()?, socket.try_clone()?);
        let own = Arc::new(Semaphore::new(MAX_CLIENTS_OF_ONE));
        let room = Room { all: Arc::clone(&self.clients), own };
        let _runtime = self.runtime.enter();
        let task = if protocol == Protocol::Udp {
            let datagrams = UdpSocket::from_std(used.into())?;
            self.runtime.spawn(carry_datagrams(Arc::new(datagrams), target, room))
        } else {
            rustix::net::listen(&used, 128)?;
            self.runtime.spawn(carry_connections(TcpListener::from_std(used.into())?, target, room))
        };
        Ok(Running { target, socket: kept, task })
    }
}

/// Finds the ports that the packet filter cannot lead on, with where they lead.
fn wanted(state: &State) -> HashMap<Key, SocketAddr> {
    let places = Places::of(state);
    let published = places.published(state);
    let found = published.iter().filter(|published| published.publish.protocol != Protocol::Sctp);
    found.filter_map(|published| Some((key(published.publish)?, target(state, published)?))).collect()
}

fn target(state: &State, published: &Published<'_>) -> Option<SocketAddr> {
    let PortPublish { port, host_port, .. } = published.publish;
    let six = published.target6.and_then(|record| record.port.address6);
    match crate::plan::host::host_address(published.publish) {
        At::Everywhere4 | At::V4(_) => None,
        // The packet filter does it.
        At::V6(address) if six.is_some() && !address.is_loopback() => None,
        At::Everywhere | At::Everywhere6 | At::V6(_) => {
            if let Some((address, _)) = six {
                return Some(SocketAddr::new(address.into(), *port));
            }
            let record = published.target?;
            // A tenant's VPC leads its ports on itself.
            Some(match state.vpc_of(&record.port.subnet) {
                Some((_, vpc)) => SocketAddr::new(vpc.own_address().into(), (*host_port)?),
                None => SocketAddr::new(IpAddr::V4(record.port.address), *port),
            })
        }
    }
}

async fn carry_connections(listener: TcpListener, target: SocketAddr, room: Room) {
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    // Who finds no room is hung up on.
                    if let Some(place) = room.take() {
                        open.spawn(async move {
                            let _place = place;
                            if let Err(error) = carry_connection(client, target).await {
                                debug!(%target, %error, "a relayed connection ended");
                            }
                        });
                    }
                }
                Err(error) => {
                    debug!(%target, %error, "accept for a published port");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn carry_connection(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut workload = timeout(CONNECT_TIME, TcpStream::connect(target)).await??;
    for stream in [&client, &workload] {
        stream.set_nodelay(true)?;
        // A peer that went without a word must not keep its place for ever.
        rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut workload).await.map(|_| ())
}

async fn carry_datagrams(socket: Arc<UdpSocket>, target: SocketAddr, room: Room) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut answering = JoinSet::new();
    let mut buffer = vec![0_u8; MAX_DATAGRAM];
    loop {
        tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, client)) = received else { continue };
                let way = match clients.entry(client) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let Some(place) = room.take() else { continue };
                        let Ok(way) = way_to(target).await.map(Arc::new) else { continue };
                        let (back, here) = (Arc::clone(&way), Arc::clone(&socket));
                        answering.spawn(async move {
                            let _place = place;
                            carry_answers(&back, &here, client).await;
                            client
                        });
                        new.insert(way)
                    }
                };
                // A workload that does not listen says so on the next send; datagrams get lost anyway.
                let _ = way.send(&buffer[..length]).await;
            }
            Some(ended) = answering.join_next() => {
                if let Ok(client) = ended {
                    clients.remove(&client);
                }
            }
        }
    }
}

async fn way_to(target: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Sends a workload's answers to a client until there are none for a while.
async fn carry_answers(workload: &UdpSocket, here: &UdpSocket, client: SocketAddr) {
    let mut buffer = vec![0_u8; MAX_DATAGRAM];
    while let Ok(received) = timeout(UDP_SILENCE, workload.recv(&mut buffer)).await {
        // Refused: nobody listens there yet.
        let Ok(length) = received else { continue };
        let _ = here.send_to(&buffer[..length], client).await;
    }
}
