//! Told by the kernel when a network namespace changes: links, addresses, routes, a table of nftables.
//!
//! Reads only what its user can do something about: a link that went or is down, an address or a route that went, and
//! each transaction on one table with its sender, so that a process can tell its own changes from others'. When the
//! kernel had to drop messages, everything may have changed.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER, protocols::NETLINK_ROUTE};
use tokio::io::unix::AsyncFd;

use super::RECEIVE_BYTES;
use super::attributes::{Message, attribute, messages, text};

// linux/rtnetlink.h, if_link.h, if_addr.h.
const NEW_LINK: u16 = 16;
const DELETE_LINK: u16 = 17;
const DELETE_ADDRESS: u16 = 21;
const DELETE_ROUTE: u16 = 25;
const GROUPS: [u32; 4] = [1, 5, 7, 9];
const LINK_NAME: u16 = 3;
const ROUTE_DESTINATION: u16 = 1;
// linux/netfilter/nfnetlink.h, nf_tables.h.
const NFTABLES_GROUP: u32 = 7;
const NFTABLES: u16 = 10;
const NEW_GENERATION: u16 = 15;
/// Every message of nftables but that of a generation has its table's name there.
const TABLE_NAME: u16 = 1;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// A link went, left its bridge, or is down.
    Link(String),
    /// A link lost an address; its index.
    Address(u32),
    /// A route went: destination, prefix length, who had made it.
    Route(Ipv4Addr, u8, u8),
    /// Somebody changed the table: the sender's port, which is its process id while that has one such socket.
    Table(u32),
    /// More happened than could be told.
    Lost,
}

/// The kernel's messages about one network namespace.
pub struct Watch {
    routing: Socket,
    filter: Socket,
    table: String,
    /// Whether the transaction that is being told concerns the table.
    touched: bool,
}

impl Watch {
    /// Listens in the calling thread's network namespace; `table` is the one of nftables that matters.
    pub fn open(table: &str) -> io::Result<Self> {
        let open = |protocol, groups: &[u32]| {
            let mut socket = Socket::new(protocol)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            socket.set_rx_buf_sz(1024 * 1024)?;
            groups.iter().try_for_each(|group| socket.add_membership(*group))?;
            socket.set_non_blocking(true)?;
            io::Result::Ok(socket)
        };
        Ok(Self {
            routing: open(NETLINK_ROUTE, &GROUPS)?,
            filter: open(NETLINK_NETFILTER, &[NFTABLES_GROUP])?,
            table: table.into(),
            touched: false,
        })
    }

    /// Tells every change to `told` until that says no. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Reading from the kernel failed; nothing is told any more.
    pub async fn follow<F: Future<Output = bool>>(
        mut self,
        mut told: impl FnMut(BTreeSet<Change>) -> F,
    ) -> io::Result<()> {
        let routing = readable(&self.routing)?;
        let filter = readable(&self.filter)?;
        let mut buffer = vec![0_u8; RECEIVE_BYTES];
        loop {
            let mut changes = BTreeSet::new();
            tokio::select! {
                ready = routing.readable() => {
                    receive(&self.routing, &mut buffer, &mut changes, read_routing)?;
                    ready?.clear_ready();
                }
                ready = filter.readable() => {
                    let (table, touched) = (&self.table, &mut self.touched);
                    receive(&self.filter, &mut buffer, &mut changes, |message| read_filter(message, table, touched))?;
                    ready?.clear_ready();
                }
            }
            if !changes.is_empty() && !told(changes).await {
                return Ok(());
            }
        }
    }
}

/// A copy of the descriptor for the event loop.
fn readable(socket: &Socket) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor belongs to `socket`, which lives as long as the borrow.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    let copy = borrowed.try_clone_to_owned()?;
    crate::readiness::watch(copy)
}

/// Reads all that there is.
fn receive(
    socket: &Socket,
    buffer: &mut [u8],
    changes: &mut BTreeSet<Change>,
    mut read: impl FnMut(Message<'_>) -> Option<Change>,
) -> io::Result<()> {
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Ok(length) => changes.extend(messages(&buffer[..length]).filter_map(&mut read)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                changes.insert(Change::Lost);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn read_routing(message: Message<'_>) -> Option<Change> {
    match message.kind {
        NEW_LINK | DELETE_LINK => {
            let flags = message.payload.get(8..12)?.try_into().ok().map(u32::from_ne_bytes)?;
            if message.kind == NEW_LINK && flags & libc::IFF_UP as u32 != 0 {
                return None;
            }
            let name = attribute(message.payload.get(16..)?, LINK_NAME).and_then(text)?;
            Some(Change::Link(name.into()))
        }
        DELETE_ADDRESS => {
            Some(Change::Address(u32::from_ne_bytes(message.payload.get(4..8)?.try_into().ok()?)))
        }
        DELETE_ROUTE => {
            let (family, prefix, protocol) =
                (message.payload.first()?, message.payload.get(1)?, message.payload.get(5)?);
            if i32::from(*family) != libc::AF_INET {
                return None;
            }
            let destination = attribute(message.payload.get(12..)?, ROUTE_DESTINATION)?;
            let destination = Ipv4Addr::from(<[u8; 4]>::try_from(destination).ok()?);
            Some(Change::Route(destination, *prefix, *protocol))
        }
        _ => None,
    }
}

fn read_filter(message: Message<'_>, table: &str, touched: &mut bool) -> Option<Change> {
    if message.kind >> 8 != NFTABLES {
        return None;
    }
    if message.kind & 0xff == NEW_GENERATION {
        return std::mem::take(touched).then_some(Change::Table(message.sender));
    }
    let name = attribute(message.payload.get(4..)?, TABLE_NAME).and_then(text);
    *touched |= name == Some(table);
    None
}
