//! gRPC over HTTP/2, on `h2` itself: clients and servers on a connection that someone else has made.
//!
//! A whole gRPC stack would have every crate of the servers built again with HTTP/2 and its own way of connecting;
//! what cirro calls (etcd) and serves (BuildKit) is a dozen methods, some of them over connections that were upgraded or
//! turned around.
//!
//! - `frames` messages as they are on a stream; `status` how a call ends
//! - [`client`] makes calls, [`server`] answers them
//!
//! A message is a flag byte, its length in four bytes, and the message. A call ends with the trailers `grpc-status`
//! and `grpc-message`. Compression is not offered, so that none is used.
//!
//! Source: grpc/grpc `doc/PROTOCOL-HTTP2.md`.
#![forbid(unsafe_code)]

pub mod client;
mod frames;
pub mod server;
mod status;
#[cfg(test)]
mod tests;

pub use frames::Messages;
pub use status::{Any, Code, RpcStatus, Status};

/// What the other side may send.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one message.
    pub message: usize,
    /// Bytes of a stream before we have read them.
    pub stream_window: u32,
    /// Bytes of all streams together before we have read them.
    pub connection_window: u32,
    /// Bytes of the headers of a call.
    pub headers: u32,
}
