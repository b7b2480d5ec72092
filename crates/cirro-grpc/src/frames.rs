//! Messages as they are on a stream.

use std::future::poll_fn;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::HeaderMap;
use prost::Message;

use crate::status::{Code, Status};

/// Length of what goes before each message.
const HEAD: usize = 5;

/// Puts a message into its frame.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(HEAD + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("what is sent is bounded far below 4 GiB"));
    message.encode(&mut frame).expect("a BytesMut grows");
    frame.freeze()
}

/// Takes the first message off what has come; `None` if it is not all here.
fn split(buffer: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Status> {
    let Some(head) = buffer.first_chunk::<HEAD>() else { return Ok(None) };
    let [flag, length @ ..] = *head;
    let length = u32::from_be_bytes(length) as usize;
    if flag != 0 {
        return Err(Status::unsupported("a compressed message"));
    }
    if length > limit {
        let text = format!("a message of {length} bytes, more than {limit}");
        return Err(Status::new(Code::ResourceExhausted, text));
    }
    if buffer.len() < HEAD + length {
        return Ok(None);
    }
    buffer.advance(HEAD);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// The messages that come in.
pub struct Messages {
    body: RecvStream,
    buffer: BytesMut,
    /// Bytes of one message.
    limit: usize,
}

impl Messages {
    pub(crate) fn new(body: RecvStream, limit: usize) -> Self {
        Self { body, buffer: BytesMut::new(), limit }
    }

    /// Returns the next message; `None` when there are no more.
    ///
    /// # Errors
    /// If the stream breaks off, or a message is too long or malformed.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Status> {
        let Some(bytes) = self.next_bytes().await? else { return Ok(None) };
        let message = M::decode(bytes).map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        Ok(Some(message))
    }

    async fn next_bytes(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = split(&mut self.buffer, self.limit)? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                Some(Ok(piece)) => {
                    // The buffer is bounded by the longest message, so the window can be opened at once.
                    self.body.flow_control().release_capacity(piece.len()).map_err(Status::broken)?;
                    self.buffer.extend_from_slice(&piece);
                }
                Some(Err(error)) => return Err(Status::broken(error)),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::broken("in the middle of a message")),
            }
        }
    }

    pub(crate) async fn trailers(&mut self) -> Result<Option<HeaderMap>, Status> {
        self.body.trailers().await.map_err(Status::broken)
    }
}

/// Sends bytes as the other side takes them.
pub(crate) async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Result<(), Status> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let capacity = match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(capacity) => capacity.map_err(Status::broken)?,
            None => return Err(Status::broken("the stream was closed")),
        };
        let piece = bytes.split_to(capacity.min(bytes.len()));
        if !piece.is_empty() {
            stream.send_data(piece, false).map_err(Status::broken)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_split_wherever_the_network_cut_them() {
        let whole = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x01d";
        for cut in 0..whole.len() {
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut messages = Vec::new();
            for rest in [&whole[cut..], &[]] {
                while let Some(message) = split(&mut buffer, 3).unwrap() {
                    messages.push(message);
                }
                buffer.extend_from_slice(rest);
            }
            assert_eq!(messages, ["abc", "", "d"], "cut at {cut}");
        }
        let refused = |bytes: &[u8]| split(&mut BytesMut::from(bytes), 3).unwrap_err().code;
        assert_eq!(refused(b"\0\0\0\0\x04"), Code::ResourceExhausted as i32);
        assert_eq!(refused(b"\x01\0\0\0\0"), Code::Unimplemented as i32);
    }
}
