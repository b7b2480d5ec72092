//! SPDY/3.1 as Kubernetes' clients speak it for exec, attach and port-forward.
//!
//! ```text
//! bytes ─▶ Decoder ─▶ frames ─▶ Connection: a task that reads, a task that writes ─▶ streams
//! ```
//! Only the side that accepts streams is here. Memory is bounded: frames, header blocks, streams and what waits
//! for each of them; a stream whose bytes nobody takes holds up the connection, as it does with Go's spdystream.
//! That implementation (every kubectl's) never opens windows, so what is sent is bounded by the transport alone;
//! windows are opened for peers that wait for them.
//!
//! Source: SPDY protocol draft 3.1; moby/spdystream for what peers do of it.

mod block;
mod connection;
mod dictionary;
mod error;
mod frame;
mod stream;

pub use block::Headers;
pub use connection::Connection;
pub use error::SpdyError;
pub use frame::{Decoder, Encoder, Frame};
pub use stream::{Closed, Reader, Stream, Writer};
