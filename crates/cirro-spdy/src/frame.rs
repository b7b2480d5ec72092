//! Frames: what goes over a connection.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use crate::block::{Deflater, Headers, Inflater};
use crate::error::SpdyError;

const VERSION: u16 = 3;
const HEAD: usize = 8;
/// Most bytes of a control frame; data frames are passed on in pieces and need no limit.
const MAX_CONTROL: usize = 32 * 1024;
/// The largest stream id.
const MAX_ID: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// A frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    SynStream {
        /// Its id.
        id: u32,
        /// Whether the sender will send nothing on it.
        fin: bool,
        /// Whether the receiver may send nothing on it.
        unidirectional: bool,
        /// What it is for.
        headers: Headers,
    },
    /// A stream is accepted.
    SynReply {
        /// Its id.
        id: u32,
        /// Whether the sender will send nothing on it.
        fin: bool,
        /// More about it.
        headers: Headers,
    },
    /// A stream ends at once.
    Reset {
        /// Its id.
        id: u32,
        /// Why.
        status: u32,
    },
    /// Comes back as it is.
    Ping(u32),
    /// No further streams are accepted.
    GoAway {
        /// The last one that was.
        last: u32,
        /// Why.
        status: u32,
    },
    /// More headers of a stream.
    Headers {
        /// Its id.
        id: u32,
        /// Whether the sender will send nothing more on it.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// A stream (0: all of them) may carry more bytes.
    WindowUpdate {
        /// Its id.
        id: u32,
        /// How many more.
        delta: u32,
    },
    /// Bytes of a stream; a long frame is read as several of these.
    Data {
        /// The stream's id.
        id: u32,
        /// Whether they are the sender's last.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// A frame that means nothing here: settings, or a type to come.
    Other(u16),
}

/// The rest of a data frame whose head was read.
struct Rest {
    id: u32,
    fin: bool,
    length: usize,
}

/// Reads frames.
pub struct Decoder {
    inflater: Inflater,
    rest: Option<Rest>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { inflater: Inflater::new(), rest: None }
    }
}

impl Decoder {
    /// Takes the next frame off the buffer; `None` when there is no whole one.
    ///
    /// # Errors
    /// When the peer breaks the protocol; the connection cannot go on then.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, SpdyError> {
        if let Some(rest) = self.rest.take() {
            return Ok(self.data(rest, buffer));
        }
        let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
        let (first, second) = head.split_at(4);
        let first = u32::from_be_bytes(first.try_into().expect("four of eight bytes"));
        let second = u32::from_be_bytes(second.try_into().expect("four of eight bytes"));
        let (flags, length) = ((second >> 24) as u8, (second & 0x00ff_ffff) as usize);
        if first >> 31 == 0 {
            let id = stream_id(first)?;
            buffer.advance(HEAD);
            return Ok(self.data(Rest { id, fin: flags & FIN != 0, length }, buffer));
        }
        let version = (first >> 16) as u16 & 0x7fff;
        if version != VERSION {
            return Err(SpdyError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(SpdyError::TooLarge(length));
        }
        if buffer.len() < HEAD + length {
            return Ok(None);
        }
        buffer.advance(HEAD);
        let payload = buffer.split_to(length).freeze();
        self.control(first as u16, flags, payload).map(Some)
    }

    /// Takes what is there of a data frame; nothing when that is nothing.
    fn data(&mut self, mut rest: Rest, buffer: &mut BytesMut) -> Option<Frame> {
        let bytes = buffer.split_to(rest.length.min(buffer.len())).freeze();
        rest.length -= bytes.len();
        let (id, last) = (rest.id, rest.length == 0);
        let fin = rest.fin && last;
        if !last {
            self.rest = Some(rest);
            if bytes.is_empty() {
                return None;
            }
        }
        Some(Frame::Data { id, fin, bytes })
    }

    fn control(&mut self, kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, SpdyError> {
        let needed = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | HEADERS | PING => 4,
            RST_STREAM | GOAWAY | WINDOW_UPDATE => 8,
            _ => return Ok(Frame::Other(kind)),
        };
        if payload.len() < needed {
            return Err(SpdyError::Short(kind));
        }
        let fin = flags & FIN != 0;
        let number = payload.get_u32();
        Ok(match kind {
            SYN_STREAM => {
                let id = stream_id(number)?;
                // The associated stream, the priority and the slot of a certificate.
                payload.advance(6);
                let headers = self.inflater.headers(&payload)?;
                Frame::SynStream { id, fin, unidirectional: flags & UNIDIRECTIONAL != 0, headers }
            }
            SYN_REPLY => {
                Frame::SynReply { id: stream_id(number)?, fin, headers: self.inflater.headers(&payload)? }
            }
            HEADERS => {
                Frame::Headers { id: stream_id(number)?, fin, headers: self.inflater.headers(&payload)? }
            }
            RST_STREAM => Frame::Reset { id: stream_id(number)?, status: payload.get_u32() },
            GOAWAY => Frame::GoAway { last: number & MAX_ID, status: payload.get_u32() },
            WINDOW_UPDATE => Frame::WindowUpdate { id: number & MAX_ID, delta: payload.get_u32() & MAX_ID },
            _ => Frame::Ping(number),
        })
    }
}

fn stream_id(number: u32) -> Result<u32, SpdyError> {
    match number & MAX_ID {
        0 => Err(SpdyError::StreamId(0)),
        id => Ok(id),
    }
}

/// Writes frames.
pub struct Encoder(Deflater);

impl Default for Encoder {
    fn default() -> Self {
        Self(Deflater::new())
    }
}

impl Encoder {
    /// Adds a frame to the buffer. Data must be shorter than 16 MiB.
    pub fn encode(&mut self, frame: &Frame, buffer: &mut BytesMut) {
        match frame {
            Frame::SynStream { id, fin, unidirectional, headers } => {
                let block = self.0.headers(headers);
                let flags = flag(*fin, FIN) | flag(*unidirectional, UNIDIRECTIONAL);
                control(buffer, SYN_STREAM, flags, 10 + block.len());
                buffer.put_u32(*id);
                buffer.put_u32(0);
                buffer.put_u16(0);
                buffer.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => self.block(buffer, SYN_REPLY, *id, *fin, headers),
            Frame::Headers { id, fin, headers } => self.block(buffer, HEADERS, *id, *fin, headers),
            Frame::Reset { id, status } => pair(buffer, RST_STREAM, *id, *status),
            Frame::GoAway { last, status } => pair(buffer, GOAWAY, *last, *status),
            Frame::WindowUpdate { id, delta } => pair(buffer, WINDOW_UPDATE, *id, *delta),
            Frame::Ping(id) => {
                control(buffer, PING, 0, 4);
                buffer.put_u32(*id);
            }
            Frame::Data { id, fin, bytes } => {
                buffer.put_u32(*id);
                buffer.put_u32(u32::from(flag(*fin, FIN)) << 24 | bytes.len() as u32 & 0x00ff_ffff);
                buffer.put_slice(bytes);
            }
            Frame::Other(kind) => {
                // Settings without an entry; of other types nothing is known.
                control(buffer, *kind, 0, if *kind == SETTINGS { 4 } else { 0 });
                if *kind == SETTINGS {
                    buffer.put_u32(0);
                }
            }
        }
    }

    fn block(&mut self, buffer: &mut BytesMut, kind: u16, id: u32, fin: bool, headers: &Headers) {
        let block = self.0.headers(headers);
        control(buffer, kind, flag(fin, FIN), 4 + block.len());
        buffer.put_u32(id);
        buffer.put_slice(&block);
    }
}

fn flag(set: bool, flag: u8) -> u8 {
    if set { flag } else { 0 }
}

fn control(buffer: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    buffer.put_u16(0x8000 | VERSION);
    buffer.put_u16(kind);
    buffer.put_u32(u32::from(flags) << 24 | length as u32);
}

fn pair(buffer: &mut BytesMut, kind: u16, first: u32, second: u32) {
    control(buffer, kind, 0, 8);
    buffer.put_u32(first);
    buffer.put_u32(second);
}
