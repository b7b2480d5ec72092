//! The sockets that are asked, in the host's and the VPCs' namespaces.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::answer::{Outcome, answer, reply};
use super::forward::Forwarder;
use super::{Asker, Names, Scope};
use crate::apply::open_namespace;
use crate::ipam;
use crate::plan::Context;
use crate::plan::host::user_networks;
use crate::state::State;

/// Where DNS listens.
const PORT: u16 = 53;
/// Longest question by UDP.
const MAX_DATAGRAM: usize = 4096;
/// What a client without EDNS takes.
const PLAIN_PAYLOAD: usize = 512;
/// Connections per server.
const MAX_CONNECTIONS: usize = 64;
/// Questions of one server that are being forwarded.
const MAX_FORWARDED: usize = 128;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);

/// Namespace (`None`: the host's) and address of a server.
type Place = (Option<PathBuf>, Ipv4Addr);

/// The running servers.
pub(crate) struct DnsServers {
    runtime: Handle,
    names: Arc<Names>,
    forwarder: Arc<Forwarder>,
    running: BTreeMap<Place, (Scope, JoinHandle<()>)>,
    stopped: bool,
}

/// What a server needs to answer.
struct Server {
    scope: Scope,
    names: Arc<Names>,
    forwarder: Arc<Forwarder>,
    own: Vec<Ipv4Addr>,
    forwarded: Semaphore,
}

impl DnsServers {
    /// Starts with none.
    pub(crate) fn new(runtime: Handle, names: Arc<Names>) -> Self {
        Self {
            runtime,
            names,
            forwarder: Arc::new(Forwarder::new()),
            running: BTreeMap::new(),
            stopped: false,
        }
    }

    /// Answers for every subnet of the records, and no other, with the records' names.
    pub(crate) fn follow(&mut self, context: &Context, state: &State) {
        self.names.set_ports(state);
        if self.stopped {
            return;
        }
        let wanted = places(context, state);
        let own: Vec<Ipv4Addr> = wanted.keys().map(|(_, address)| *address).collect();
        self.running.retain(|place, (scope, task)| {
            let keep = wanted.get(place) == Some(scope) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (place, scope) in wanted {
            if self.running.contains_key(&place) {
                continue;
            }
            match self.serve(&place, &scope, &own) {
                Ok(task) => {
                    self.running.insert(place, (scope, task));
                }
                Err(error) => warn!(address = %place.1, %error, "no DNS for a subnet"),
            }
        }
    }

    /// Ends them all, for good.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        for (_, (_, task)) in std::mem::take(&mut self.running) {
            task.abort();
        }
    }

    fn serve(
        &self,
        (namespace, address): &Place,
        scope: &Scope,
        own: &[Ipv4Addr],
    ) -> std::io::Result<JoinHandle<()>> {
        let address = SocketAddrV4::new(*address, PORT);
        let open = || {
            let datagrams = cirro_sys::socket::udp_at(address)?;
            std::io::Result::Ok((datagrams, cirro_sys::socket::tcp_at(address)?))
        };
        let (datagrams, connections) = match namespace {
            None => open()?,
            Some(path) => open_namespace(path).map_err(std::io::Error::other)?.run(open)??,
        };
        let _runtime = self.runtime.enter();
        let (datagrams, connections) = (UdpSocket::from_std(datagrams)?, TcpListener::from_std(connections)?);
        let server = Server {
            scope: scope.clone(),
            names: self.names.clone(),
            forwarder: self.forwarder.clone(),
            own: own.to_vec(),
            forwarded: Semaphore::new(MAX_FORWARDED),
        };
        Ok(self.runtime.spawn(serve(Arc::new(server), Arc::new(datagrams), connections)))
    }
}

fn places(context: &Context, state: &State) -> BTreeMap<Place, Scope> {
    let mut places = BTreeMap::from([((None, context.options.dns_address), Scope::Cluster)]);
    for network in user_networks(state) {
        places.insert((None, network.gateway), Scope::Docker(network.id.clone()));
    }
    for (subnet, record) in &state.subnets {
        if let Some(vpc) = state.vpcs.get(&(subnet.0.clone(), record.vpc.clone())) {
            let path = context.netns_dir().join(&vpc.file);
            places.insert((Some(path), ipam::first(record.cidr)), Scope::Subnet(subnet.clone()));
        }
    }
    places
}

/// Serves both transports; its tasks end with it.
async fn serve(server: Arc<Server>, datagrams: Arc<UdpSocket>, connections: TcpListener) {
    let mut tasks = JoinSet::new();
    let mut streams = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM];
    loop {
        tokio::select! {
            received = datagrams.recv_from(&mut buffer) => {
                // An error here is an ICMP answer to one of our datagrams: of no interest.
                let Ok((length, client)) = received else { continue };
                let Ok(request) = Message::from_vec(&buffer[..length]) else { continue };
                let (server, datagrams) = (server.clone(), datagrams.clone());
                match server.decide(&request, client.ip()) {
                    Some(Outcome::Reply(reply)) => {
                        let _ = datagrams.try_send_to(&fit(&request, reply), client);
                    }
                    Some(Outcome::Forward { .. }) if tasks.len() >= MAX_FORWARDED => {}
                    Some(outcome) => {
                        tasks.spawn(async move {
                            let reply = server.complete(&request, outcome, client.ip()).await;
                            let _ = datagrams.send_to(&fit(&request, reply), client).await;
                        });
                    }
                    None => {}
                }
            }
            accepted = connections.accept(), if streams.len() < MAX_CONNECTIONS => {
                let Ok((stream, client)) = accepted else { continue };
                let server = server.clone();
                streams.spawn(async move {
                    if let Err(error) = serve_stream(server, stream, client.ip()).await {
                        debug!(%error, "DNS connection ended");
                    }
                });
            }
            Some(_) = tasks.join_next() => {}
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn serve_stream(server: Arc<Server>, mut stream: TcpStream, client: IpAddr) -> std::io::Result<()> {
    loop {
        let Ok(length) = timeout(SILENCE, stream.read_u16()).await? else { return Ok(()) };
        let mut bytes = vec![0; length.into()];
        timeout(SILENCE, stream.read_exact(&mut bytes)).await??;
        let request = Message::from_vec(&bytes).map_err(std::io::Error::other)?;
        let Some(outcome) = server.decide(&request, client) else { return Ok(()) };
        let reply = server.complete(&request, outcome, client).await;
        let bytes = reply.to_vec().map_err(std::io::Error::other)?;
        let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
        timeout(SILENCE, stream.write_all(&[&length.to_be_bytes(), &bytes[..]].concat())).await??;
    }
}

impl Server {
    /// Decides on a question; `None` for what is no question.
    fn decide(&self, request: &Message, client: IpAddr) -> Option<Outcome> {
        if request.metadata.message_type != hickory_proto::op::MessageType::Query {
            return None;
        }
        let views = self.names.views();
        let asker = Asker::find(&views, &self.scope, client);
        Some(answer(&self.scope, asker.as_ref(), self.names.cluster().as_deref(), request))
    }

    async fn complete(&self, request: &Message, outcome: Outcome, client: IpAddr) -> Message {
        let (aliases, question) = match outcome {
            Outcome::Reply(reply) => return reply,
            Outcome::Forward { aliases, question } => (aliases, question),
        };
        let Ok(_permit) = self.forwarded.acquire().await else {
            return reply(request, ResponseCode::ServFail);
        };
        let resolvers = Asker::find(&self.names.views(), &self.scope, client)
            .map_or_else(Vec::new, |asker| asker.resolvers().to_vec());
        let Some(outside) = self.forwarder.ask(&question, &self.own, &resolvers).await else {
            return reply(request, ResponseCode::ServFail);
        };
        let mut reply = reply(request, outside.metadata.response_code);
        reply.metadata.authoritative = false;
        reply.add_answers(aliases);
        reply.add_answers(outside.answers);
        reply.add_authorities(outside.authorities);
        reply
    }
}

/// Encodes a reply for UDP: without records and marked if it is longer than the client takes.
fn fit(request: &Message, reply: Message) -> Vec<u8> {
    let limit =
        request.edns.as_ref().map_or(PLAIN_PAYLOAD, |edns| usize::from(edns.max_payload()).clamp(512, 1232));
    let bytes = reply.to_vec().unwrap_or_default();
    if bytes.len() <= limit { bytes } else { reply.truncate().to_vec().unwrap_or_default() }
}
