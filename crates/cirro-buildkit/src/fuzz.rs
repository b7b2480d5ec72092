//! What is fuzzed: messages of a client, and what it lists of its files.

use prost::Message;

use crate::messages::{
    BridgeSolveRequest, BuildHistoryRequest, Packet, PruneRequest, ReturnRequest, SolveRequest, StatusRequest,
};

/// Reads bytes as every message that a client sends; what can be read is the same when it is written and read again.
pub fn messages(bytes: &[u8]) {
    again::<SolveRequest>(bytes);
    again::<BridgeSolveRequest>(bytes);
    again::<ReturnRequest>(bytes);
    again::<StatusRequest>(bytes);
    again::<PruneRequest>(bytes);
    again::<BuildHistoryRequest>(bytes);
    again::<Packet>(bytes);
}

fn again<M: Message + Default + PartialEq>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let written = message.encode_to_vec();
        assert!(M::decode(&*written).ok() == Some(message), "a message is read as it was written");
    }
}

/// Takes bytes for the packets of a client's transfer, each behind its length in one byte, into `directory`.
pub fn transfer(bytes: &[u8], directory: &std::path::Path) {
    let mut left = bytes;
    let packets = std::iter::from_fn(|| {
        let (length, rest) = left.split_first()?;
        let (packet, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        left = rest;
        Packet::decode(packet).ok()
    });
    crate::session::files::receive_all(packets, directory);
}
