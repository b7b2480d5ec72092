//! Two channels of a websocket for each port: data on the even one, errors on the odd one.
//!
//! Every message begins with its channel; the first one on each carries its port, the low byte first.

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, Bytes, BytesMut};
use cirro_seams::api::ApiError;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Client, Gone, Target, carry};
use crate::error;

pub(super) const BINARY: &str = "v4.channel.k8s.io";
pub(super) const BASE64: &str = "v4.base64.channel.k8s.io";
/// Two channels for each have to have numbers of one digit in base 64's form.
const MAX_PORTS: usize = 5;
/// Messages that wait in each direction.
const QUEUE: usize = 16;

/// Reads the ports that a request names.
pub(super) fn ports(values: &[String]) -> Result<Vec<u16>, ApiError> {
    let words = values.iter().flat_map(|value| value.split(','));
    let read = |word: &str| match word.trim().parse::<u16>() {
        Ok(0) => Err(error::bad_request(format!("port {word:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(error::bad_request(format!("unable to parse {word:?} as a port"))),
    };
    let ports = words.map(read).collect::<Result<Vec<u16>, _>>()?;
    match ports.len() {
        0 => Err(error::bad_request("query parameter \"ports\" is required")),
        1..=MAX_PORTS => Ok(ports),
        _ => Err(error::bad_request(format!("at most {MAX_PORTS} ports can be forwarded by one connection"))),
    }
}

/// Serves the ports until all of them, or the client, are done.
pub(super) async fn serve(socket: WebSocket, target: Target, ports: Vec<u16>, base64: bool) {
    let (mut sink, stream) = socket.split();
    let (messages, mut queue) = mpsc::channel::<(u8, Bytes)>(QUEUE);
    let mut inputs = Vec::new();
    let mut running = JoinSet::new();
    for (index, port) in ports.into_iter().enumerate() {
        let (input, client) = mpsc::channel(QUEUE);
        inputs.push(Some(input));
        let channel = u8::try_from(index * 2).expect("there are few ports");
        running.spawn(forward(target.clone(), port, channel, client, messages.clone()));
    }
    drop(messages);
    let write = async {
        while let Some((channel, bytes)) = queue.recv().await {
            if sink.send(message(channel, &bytes, base64)).await.is_err() {
                return;
            }
        }
        let end = CloseFrame { code: axum::extract::ws::close_code::NORMAL, reason: "".into() };
        let _ = sink.send(Message::Close(Some(end))).await;
    };
    // The end of either is the end of all: dropping the tasks closes their connections.
    tokio::select! {
        () = write => {}
        () = read(stream, inputs, base64) => {}
    }
    running.shutdown().await;
}

fn message(channel: u8, bytes: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::Text(format!("{channel}{}", STANDARD.encode(bytes)).into());
    }
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

async fn forward(
    target: Target,
    port: u16,
    channel: u8,
    client: mpsc::Receiver<Bytes>,
    messages: mpsc::Sender<(u8, Bytes)>,
) {
    let name = Bytes::copy_from_slice(&port.to_le_bytes());
    for channel in [channel, channel + 1] {
        let _ = messages.send((channel, name.clone())).await;
    }
    match target.connect(port).await {
        Err(why) => drop(messages.send((channel + 1, why.into())).await),
        Ok(connection) => {
            let input = futures_util::stream::unfold(client, |mut client| async {
                let bytes = client.recv().await?;
                Some((bytes, client))
            });
            carry(connection, std::pin::pin!(input), Channel { number: channel, messages }).await;
        }
    }
}

/// A channel to the client; that it ends cannot be said.
struct Channel {
    number: u8,
    messages: mpsc::Sender<(u8, Bytes)>,
}

impl Client for Channel {
    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        self.messages.send((self.number, bytes)).await.map_err(|_| Gone)
    }

    async fn finish(&self) {}
}

/// Takes what the client sends, until it goes.
async fn read(
    mut stream: SplitStream<WebSocket>,
    mut inputs: Vec<Option<mpsc::Sender<Bytes>>>,
    base64: bool,
) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Some((channel, bytes)) = split(bytes, base64) else { continue };
        // Nothing is said on the channels for errors.
        if channel % 2 == 1 {
            continue;
        }
        let Some(input) = inputs.get_mut(usize::from(channel / 2)) else { continue };
        let gone = match input {
            Some(sender) => sender.send(bytes).await.is_err(),
            None => false,
        };
        if gone {
            *input = None;
        }
    }
}

fn split(bytes: Bytes, base64: bool) -> Option<(u8, Bytes)> {
    let first = *bytes.first()?;
    let rest = bytes.slice(1..);
    if base64 {
        return Some((first.checked_sub(b'0')?, STANDARD.decode(rest).ok()?.into()));
    }
    Some((first, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_either_form() {
        let read = |values: &[&str]| {
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            ports(&values).map_err(|refusal| refusal.message)
        };
        assert_eq!(read(&["80,443", "53"]), Ok(vec![80, 443, 53]));
        assert_eq!(read(&[]).unwrap_err(), "query parameter \"ports\" is required");
        assert_eq!(read(&["x"]).unwrap_err(), "unable to parse \"x\" as a port");
        assert_eq!(read(&["0"]).unwrap_err(), "port \"0\" must be > 0");
        assert_eq!(read(&["1,2,3,4,5,6"]).unwrap_err(), "at most 5 ports can be forwarded by one connection");
    }

    #[test]
    fn messages_have_their_channel_first() {
        assert_eq!(split(Bytes::from_static(b"\x02hi"), false), Some((2, "hi".into())));
        assert_eq!(split(Bytes::from_static(b"2aGk="), true), Some((2, "hi".into())));
        assert_eq!(split(Bytes::from_static(b"2!"), true), None);
        assert_eq!(message(2, b"hi", true), Message::Text("2aGk=".into()));
    }
}
