//! The multiplexed stream: stdout and stderr of a process without a terminal over one connection.
//!
//! A frame is one byte of stream, three zero bytes, the length as four bytes big-endian, and the payload.

use bytes::{BufMut, Bytes, BytesMut};
use cirro_seams::node::Output;

/// Content type of a raw stream.
pub(crate) const RAW: &str = "application/vnd.docker.raw-stream";
/// Content type of a multiplexed stream.
pub(crate) const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

const HEADER: usize = 8;

/// A stream of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Its standard output.
    Stdout = 1,
    /// Its standard error.
    Stderr = 2,
}

/// What a client gets of a process' output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Whether the process has a terminal: then bytes go out raw.
    pub(crate) tty: bool,
    /// Whether stdout is wanted.
    pub(crate) stdout: bool,
    /// Whether stderr is wanted.
    pub(crate) stderr: bool,
}

impl Wanted {
    /// Returns the bytes that go to the client for `output`, none when it does not want them.
    pub(crate) fn encode(self, output: Output) -> Option<Bytes> {
        let (stream, payload) = match output {
            Output::Stdout(payload) => (Stream::Stdout, payload),
            Output::Stderr(payload) => (Stream::Stderr, payload),
        };
        self.encode_stream(stream, payload)
    }

    /// Returns the bytes that go to the client for a payload of `stream`.
    pub(crate) fn encode_stream(self, stream: Stream, payload: Bytes) -> Option<Bytes> {
        let wanted = match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        if !wanted || payload.is_empty() {
            return None;
        }
        Some(if self.tty { payload } else { frame(stream, &payload) })
    }

    /// Returns the content type: the multiplexed one exists from API 1.42 on.
    pub(crate) fn content_type(self, minor: u32) -> &'static str {
        if self.tty || minor < 42 { RAW } else { MULTIPLEXED }
    }
}

fn frame(stream: Stream, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).expect("pieces of output are far below 4 GiB");
    let mut bytes = BytesMut::with_capacity(HEADER + payload.len());
    bytes.put_slice(&[stream as u8, 0, 0, 0]);
    bytes.put_u32(length);
    bytes.put_slice(payload);
    bytes.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Wanted = Wanted { tty: false, stdout: true, stderr: true };

    #[test]
    fn a_frame_has_stream_zeros_length_and_payload() {
        let bytes = BOTH.encode(Output::Stderr(Bytes::from_static(b"oops"))).unwrap();
        assert_eq!(&bytes[..], b"\x02\0\0\0\0\0\0\x04oops");
    }

    #[test]
    fn a_terminal_is_raw_and_unwanted_streams_are_left_out() {
        let tty = Wanted { tty: true, ..BOTH };
        assert_eq!(tty.encode(Output::Stdout(Bytes::from_static(b"x"))).unwrap(), "x");
        let only_stderr = Wanted { stdout: false, ..BOTH };
        assert_eq!(only_stderr.encode(Output::Stdout(Bytes::from_static(b"x"))), None);
        assert_eq!(BOTH.encode(Output::Stdout(Bytes::new())), None);
    }

    #[test]
    fn the_multiplexed_content_type_is_only_sent_to_clients_that_know_it() {
        assert_eq!(BOTH.content_type(41), RAW);
        assert_eq!(BOTH.content_type(42), MULTIPLEXED);
        assert_eq!(Wanted { tty: true, ..BOTH }.content_type(50), RAW);
    }
}
