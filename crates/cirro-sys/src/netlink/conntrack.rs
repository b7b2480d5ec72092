//! Flows that connection tracking remembers, and forgetting those of UDP.
//!
//! A flow's translation is decided with its first datagram. A client that goes on sending from one port keeps the old
//! decision alive for ever, also when the rule is gone or there was none yet. The kernel lists what fits
//! (`CTA_FILTER`, Linux 5.8; an older one lists everything); what is stale is deleted one by one.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::RECEIVE_BYTES;
use super::attributes::{self, HEADER, attribute, put, put_nested};

// linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h.
const SUBSYSTEM: u16 = 1;
const GET: u16 = SUBSYSTEM << 8 | 1;
const DELETE: u16 = SUBSYSTEM << 8 | 2;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const FILTER: u16 = 25;
const FILTER_ORIGINAL: u16 = 1;
const FILTER_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Protocol number and destination port (`nf_internals.h`).
const BY_PORT: u32 = 1 << 3 | 1 << 5;
/// Length of `struct nfgenmsg`.
const FAMILY_HEADER: usize = 4;

const DONE: u16 = 3;
const ERROR: u16 = 2;

/// A flow of UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// Who began it.
    pub source: IpAddr,
    /// Where it was sent.
    pub destination: IpAddr,
    /// Who answers: another one than the destination if that was translated.
    pub answerer: IpAddr,
}

/// A flow with what names it to the kernel.
struct Entry {
    flow: Flow,
    family: u8,
    names: Vec<u8>,
}

/// Forgets the stale ones of the flows that were first sent to a UDP port, in the calling thread's network namespace.
/// Returns how many.
pub fn forget_udp(port: u16, is_stale: impl Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.set_rx_buf_sz(1024 * 1024)?;
    let mut gone = 0;
    for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
        for entry in list(&socket, family, port)?.iter().filter(|entry| is_stale(&entry.flow)) {
            gone += usize::from(delete(&socket, entry)?);
        }
    }
    Ok(gone)
}

fn list(socket: &Socket, family: u8, port: u16) -> io::Result<Vec<Entry>> {
    let mut request = begin(GET, NLM_F_DUMP, family);
    put_nested(&mut request, ORIGINAL, |tuple| {
        put_nested(tuple, TUPLE_PROTOCOL, |protocol| {
            put(protocol, PROTOCOL_NUMBER, &[libc::IPPROTO_UDP as u8]);
            put(protocol, DESTINATION_PORT, &port.to_be_bytes());
        });
    });
    put_nested(&mut request, FILTER, |filter| {
        put(filter, FILTER_ORIGINAL, &BY_PORT.to_ne_bytes());
        put(filter, FILTER_REPLY, &0_u32.to_ne_bytes());
    });
    send(socket, request)?;
    let mut found = Vec::new();
    let mut buffer = vec![0_u8; RECEIVE_BYTES];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        for message in attributes::messages(&buffer[..length]) {
            match message.kind {
                DONE => return Ok(found),
                ERROR => return refusal(message.payload).map(|()| found),
                _ => found.extend(read(message.payload, port)),
            }
        }
    }
}

/// Returns whether it was still there.
fn delete(socket: &Socket, entry: &Entry) -> io::Result<bool> {
    let mut request = begin(DELETE, NLM_F_ACK, entry.family);
    request.extend(&entry.names);
    send(socket, request)?;
    let mut buffer = vec![0_u8; RECEIVE_BYTES];
    let length = socket.recv(&mut &mut buffer[..], 0)?;
    let answer = attributes::messages(&buffer[..length]).find(|message| message.kind == ERROR);
    match answer.map_or(Ok(()), |message| refusal(message.payload)) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        result => result.map(|()| true),
    }
}

fn begin(kind: u16, flags: u16, family: u8) -> Vec<u8> {
    let mut message = vec![0; 4];
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.resize(HEADER, 0);
    message.extend([family, 0, 0, 0]);
    message
}

fn send(socket: &Socket, mut message: Vec<u8>) -> io::Result<()> {
    let length = u32::try_from(message.len()).expect("our messages are short");
    message[..4].copy_from_slice(&length.to_ne_bytes());
    socket.send(&message, 0).map(|_| ())
}

fn refusal(payload: &[u8]) -> io::Result<()> {
    let code = payload
        .get(..4)
        .map_or(-libc::EPROTO, |code| i32::from_ne_bytes(code.try_into().expect("four bytes")));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) }
}

fn read(payload: &[u8], port: u16) -> Option<Entry> {
    let (family, rest) = (*payload.first()?, payload.get(FAMILY_HEADER..)?);
    let (original, reply) = (attribute(rest, ORIGINAL)?, attribute(rest, REPLY)?);
    let protocol = attribute(original, TUPLE_PROTOCOL)?;
    attribute(protocol, SOURCE_PORT)?;
    let is_wanted = attribute(protocol, PROTOCOL_NUMBER) == Some(&[libc::IPPROTO_UDP as u8])
        && attribute(protocol, DESTINATION_PORT) == Some(&port.to_be_bytes());
    if !is_wanted {
        return None;
    }
    let (source, destination) = addresses(original)?;
    let (answerer, _) = addresses(reply)?;
    let mut names = Vec::new();
    put_nested(&mut names, ORIGINAL, |tuple| tuple.extend(original));
    put(&mut names, ID, attribute(rest, ID)?);
    Some(Entry { flow: Flow { source, destination, answerer }, family, names })
}

fn addresses(tuple: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let pair = attribute(tuple, TUPLE_IP)?;
    let four = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(attribute(pair, kind)?).ok()?));
    let six = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(attribute(pair, kind)?).ok()?));
    four(1).zip(four(2)).or_else(|| six(3).zip(six(4)))
}
