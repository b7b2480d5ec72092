//! DHCP for machines: one socket per tap, bound to the link.
//!
//! The link is the identity: whoever asks there gets the port's own address, so there are no leases to keep.
//! The answer goes to everybody on the link, which is the machine.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use cirro_types::MacAddress;
use dhcproto::v4::{DhcpOption, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable};
use ipnet::Ipv4Net;
use tokio::net::UdpSocket;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::{debug, warn};

use crate::apply::open_namespace;
use crate::error::NetError;
use crate::model::PortTarget;
use crate::plan::{Context, VPC_MTU};
use crate::state::{PortRecord, State};

/// The address never changes while the port lives; a day only bounds how long a stopped machine believes in it.
const LEASE_SECONDS: u32 = 86_400;

/// What a machine is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    mac: MacAddress,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    host_name: Option<String>,
    domain: Option<String>,
}

/// Where a machine asks: its VPC's namespace and its link.
type Place = (PathBuf, String);

/// The running servers.
pub(crate) struct DhcpServers {
    runtime: Handle,
    running: BTreeMap<Place, (Lease, JoinHandle<()>)>,
    stopped: bool,
}

impl DhcpServers {
    /// Starts with none.
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, running: BTreeMap::new(), stopped: false }
    }

    /// Serves every machine's port of the records, and no other.
    pub(crate) fn follow(&mut self, context: &Context, state: &State) {
        if self.stopped {
            return;
        }
        let mut wanted = BTreeMap::new();
        for record in state.ports.values().filter(|record| record.target == PortTarget::Tap) {
            if let (Some((_, vpc)), Some(lease)) = (state.vpc_of(&record.port.subnet), lease(record)) {
                wanted.insert((context.netns_dir().join(&vpc.file), record.link.clone()), lease);
            }
        }
        self.running.retain(|place, (lease, task)| {
            let keep = wanted.get(place) == Some(lease) && !task.is_finished();
            if !keep {
                task.abort();
            }
            keep
        });
        for (place, lease) in wanted {
            if self.running.contains_key(&place) {
                continue;
            }
            match self.serve(&place, lease.clone()) {
                Ok(task) => {
                    self.running.insert(place, (lease, task));
                }
                Err(error) => warn!(link = place.1, %error, "no DHCP for a machine"),
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

    fn serve(&self, (namespace, link): &Place, lease: Lease) -> Result<JoinHandle<()>, NetError> {
        let netns = open_namespace(namespace)?;
        let socket = netns
            .run(|| cirro_sys::socket::udp_on_link(link, 67))
            .and_then(|result| result)
            .map_err(|error| NetError::kernel(format!("bind DHCP to {link}"), error))?;
        let _runtime = self.runtime.enter();
        let socket = UdpSocket::from_std(socket).map_err(|error| NetError::kernel("serve DHCP", error))?;
        Ok(self.runtime.spawn(answer_all(socket, lease)))
    }
}

fn lease(record: &PortRecord) -> Option<Lease> {
    let port = &record.port;
    Some(Lease {
        mac: port.mac,
        address: port.address,
        prefix: port.prefix,
        gateway: port.gateway?,
        host_name: record.names.first().cloned(),
        domain: port.dns_search.first().cloned(),
    })
}

async fn answer_all(socket: UdpSocket, lease: Lease) {
    let mut buffer = [0; 1500];
    let everybody = SocketAddr::from((Ipv4Addr::BROADCAST, 68));
    loop {
        // The link went: so does its server, and comes back with it.
        let Ok((length, _)) = socket.recv_from(&mut buffer).await else { return };
        let Some(reply) = answer(&lease, &buffer[..length]) else { continue };
        if let Err(error) = socket.send_to(&reply, everybody).await {
            debug!(address = %lease.address, %error, "DHCP answer not sent");
        }
    }
}

/// Answers one message; `None` if it needs no answer.
///
/// Source: RFC 2131, section 4.3.
fn answer(lease: &Lease, request: &[u8]) -> Option<Vec<u8>> {
    let request = Message::decode(&mut Decoder::new(request)).ok()?;
    if request.opcode() != Opcode::BootRequest || request.chaddr() != lease.mac.0 {
        return None;
    }
    let kind = match request.opts().msg_type()? {
        MessageType::Discover => MessageType::Offer,
        MessageType::Inform => MessageType::Ack,
        MessageType::Request if is_for_another(lease, &request) => return None,
        MessageType::Request if asked_address(&request) == Some(lease.address) => MessageType::Ack,
        MessageType::Request => MessageType::Nak,
        _ => return None,
    };
    let mut reply = Message::new_with_id(
        request.xid(),
        request.ciaddr(),
        if kind == MessageType::Nak { Ipv4Addr::UNSPECIFIED } else { lease.address },
        lease.gateway,
        request.giaddr(),
        request.chaddr(),
    );
    reply.set_opcode(Opcode::BootReply).set_htype(HType::Eth).set_flags(request.flags());
    fill_options(lease, kind, &mut reply);
    reply.to_vec().ok()
}

fn is_for_another(lease: &Lease, request: &Message) -> bool {
    let server = request.opts().get(OptionCode::ServerIdentifier);
    matches!(server, Some(DhcpOption::ServerIdentifier(server)) if *server != lease.gateway)
}

fn asked_address(request: &Message) -> Option<Ipv4Addr> {
    match request.opts().get(OptionCode::RequestedIpAddress) {
        Some(DhcpOption::RequestedIpAddress(address)) => Some(*address),
        _ => Some(request.ciaddr()).filter(|address| !address.is_unspecified()),
    }
}

fn fill_options(lease: &Lease, kind: MessageType, reply: &mut Message) {
    let options = reply.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(lease.gateway));
    if kind == MessageType::Nak {
        return;
    }
    let range = Ipv4Net::new(lease.address, lease.prefix).expect("a prefix of a range");
    options.insert(DhcpOption::AddressLeaseTime(LEASE_SECONDS));
    options.insert(DhcpOption::SubnetMask(range.netmask()));
    options.insert(DhcpOption::BroadcastAddr(range.broadcast()));
    options.insert(DhcpOption::Router(vec![lease.gateway]));
    options.insert(DhcpOption::DomainNameServer(vec![lease.gateway]));
    options.insert(DhcpOption::InterfaceMtu(VPC_MTU as u16));
    if let Some(name) = &lease.host_name {
        options.insert(DhcpOption::Hostname(name.clone()));
    }
    if let Some(domain) = &lease.domain {
        options.insert(DhcpOption::DomainName(domain.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            mac: MacAddress([2, 0x42, 10, 0, 0, 5]),
            address: Ipv4Addr::new(10, 0, 0, 5),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 0, 0, 1),
            host_name: Some("vm".into()),
            domain: Some("a.main.internal".into()),
        }
    }

    fn ask(kind: MessageType, requested: Option<Ipv4Addr>, mac: [u8; 6]) -> Option<Message> {
        let any = Ipv4Addr::UNSPECIFIED;
        let mut request = Message::new_with_id(7, any, any, any, any, &mac);
        request.opts_mut().insert(DhcpOption::MessageType(kind));
        if let Some(address) = requested {
            request.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        }
        let reply = answer(&lease(), &request.to_vec().unwrap())?;
        Some(Message::decode(&mut Decoder::new(&reply)).unwrap())
    }

    #[test]
    fn a_machine_is_offered_and_given_its_ports_address() {
        let mac = lease().mac.0;
        let offer = ask(MessageType::Discover, None, mac).unwrap();
        assert_eq!((offer.yiaddr(), offer.xid()), (lease().address, 7));
        assert_eq!(offer.opts().msg_type(), Some(MessageType::Offer));
        let router = DhcpOption::Router(vec![lease().gateway]);
        assert_eq!(offer.opts().get(OptionCode::Router), Some(&router));
        let acknowledged = ask(MessageType::Request, Some(lease().address), mac).unwrap();
        assert_eq!(acknowledged.opts().msg_type(), Some(MessageType::Ack));
        assert_eq!(acknowledged.opts().get(OptionCode::InterfaceMtu), Some(&DhcpOption::InterfaceMtu(1450)));
    }

    #[test]
    fn another_address_is_refused_and_another_mac_not_heard() {
        let refused = ask(MessageType::Request, Some(Ipv4Addr::new(10, 0, 0, 9)), lease().mac.0).unwrap();
        assert_eq!(refused.opts().msg_type(), Some(MessageType::Nak));
        assert!(ask(MessageType::Discover, None, [2, 0, 0, 0, 0, 1]).is_none());
        assert!(answer(&lease(), b"no message at all").is_none());
    }
}
