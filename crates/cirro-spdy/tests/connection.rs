//! A connection as its peer sees it, and frames through the codec.

use bytes::{Bytes, BytesMut};
use cirro_spdy::{Connection, Decoder, Encoder, Frame, Headers};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// The other side, which begins streams.
struct Peer {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Peer {
    fn new(io: DuplexStream) -> Self {
        Self { io, encoder: Encoder::default(), decoder: Decoder::default(), buffer: BytesMut::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes);
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn begin(&mut self, id: u32, kind: &str) {
        let headers = Headers(vec![("streamtype".into(), kind.into())]);
        self.send(Frame::SynStream { id, fin: false, unidirectional: false, headers }).await;
    }

    async fn data(&mut self, id: u32, fin: bool, text: &'static str) {
        self.send(Frame::Data { id, fin, bytes: Bytes::from_static(text.as_bytes()) }).await;
    }

    /// Returns the next frame; `None` at the end of the connection.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }
}

fn connect() -> (Connection, Peer) {
    let (ours, theirs) = tokio::io::duplex(4096);
    (Connection::accept(ours), Peer::new(theirs))
}

#[tokio::test]
async fn a_stream_carries_bytes_both_ways_and_ends() {
    let (mut connection, mut peer) = connect();
    peer.begin(1, "data").await;
    peer.data(1, false, "hello").await;
    peer.data(1, true, " world").await;
    let stream = connection.next().await.unwrap();
    assert_eq!(stream.headers().get("streamtype"), "data");
    let (mut reader, writer) = stream.accept().await.unwrap();
    assert!(matches!(peer.next().await, Some(Frame::SynReply { id: 1, .. })));
    let mut got = Vec::new();
    while let Some(bytes) = reader.next().await {
        got.extend_from_slice(&bytes);
    }
    assert_eq!(got, b"hello world");
    writer.send(Bytes::from_static(b"answer")).await.unwrap();
    writer.finish().await;
    assert_eq!(peer.next().await, Some(Frame::Data { id: 1, fin: false, bytes: "answer".into() }));
    assert_eq!(peer.next().await, Some(Frame::Data { id: 1, fin: true, bytes: Bytes::new() }));
    let finish = tokio::spawn(connection.finish());
    assert_eq!(peer.next().await, Some(Frame::GoAway { last: 0, status: 0 }));
    drop(peer);
    finish.await.unwrap();
}

#[tokio::test]
async fn a_dropped_stream_is_refused_and_an_unfinished_one_is_reset() {
    let (mut connection, mut peer) = connect();
    peer.begin(1, "data").await;
    drop(connection.next().await.unwrap());
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 1, status: 3 }));
    peer.begin(3, "data").await;
    drop(connection.next().await.unwrap().accept().await.unwrap());
    assert!(matches!(peer.next().await, Some(Frame::SynReply { id: 3, .. })));
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 3, status: 5 }));
    // An id that was used before.
    peer.begin(3, "data").await;
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 3, status: 1 }));
}

#[tokio::test]
async fn a_reset_and_a_lost_peer_reach_both_directions() {
    let (mut connection, mut peer) = connect();
    peer.begin(1, "data").await;
    let (mut reader, writer) = connection.next().await.unwrap().accept().await.unwrap();
    peer.send(Frame::Reset { id: 1, status: 5 }).await;
    reader.closed().await;
    assert_eq!(reader.next().await, None);
    assert!(writer.send("x".into()).await.is_err());
    peer.begin(3, "data").await;
    let (mut reader, writer) = connection.next().await.unwrap().accept().await.unwrap();
    drop(peer);
    connection.ended().await;
    assert_eq!(reader.next().await, None);
    assert!(writer.send("x".into()).await.is_err());
    assert!(connection.next().await.is_none());
}

#[tokio::test]
async fn windows_are_opened_as_bytes_are_taken() {
    let (mut connection, mut peer) = connect();
    peer.begin(1, "data").await;
    let (mut reader, _writer) = connection.next().await.unwrap().accept().await.unwrap();
    assert!(matches!(peer.next().await, Some(Frame::SynReply { .. })));
    let reading = tokio::spawn(async move { while reader.next().await.is_some() {} });
    peer.send(Frame::Data { id: 1, fin: false, bytes: vec![7; 100_000].into() }).await;
    let mut opened = (0, 0);
    while opened.0 < 32_768 || opened.1 < 32_768 {
        match peer.next().await {
            Some(Frame::WindowUpdate { id: 0, delta }) => opened.0 += delta,
            Some(Frame::WindowUpdate { id: 1, delta }) => opened.1 += delta,
            other => panic!("{other:?}"),
        }
    }
    drop(peer);
    reading.await.unwrap();
}

#[tokio::test]
async fn pings_come_back_and_streams_have_a_limit() {
    let (connection, mut peer) = connect();
    peer.send(Frame::Ping(1)).await;
    assert_eq!(peer.next().await, Some(Frame::Ping(1)));
    // Nobody takes them: what does not fit the backlog is refused.
    for index in 0..65 {
        peer.begin(index * 2 + 1, "data").await;
    }
    assert_eq!(peer.next().await, Some(Frame::Reset { id: 129, status: 3 }));
    drop(connection);
}

#[tokio::test]
async fn a_slow_stream_holds_up_its_sender_and_not_the_memory() {
    let (mut connection, mut peer) = connect();
    peer.begin(1, "data").await;
    let (mut reader, _writer) = connection.next().await.unwrap().accept().await.unwrap();
    let sending = tokio::spawn(async move {
        for _ in 0..64 {
            peer.send(Frame::Data { id: 1, fin: false, bytes: vec![1; 32 * 1024].into() }).await;
        }
        peer.data(1, true, "").await;
        peer
    });
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    // What nobody has read does not fit any queue.
    assert!(!sending.is_finished());
    let mut read = 0;
    while let Some(bytes) = reader.next().await {
        read += bytes.len();
    }
    assert_eq!(read, 64 * 32 * 1024);
    drop(sending.await.unwrap());
}

#[test]
fn what_is_not_spdy_is_refused() {
    let refuse =
        |bytes: &[u8]| Decoder::default().decode(&mut BytesMut::from(bytes)).unwrap_err().to_string();
    assert_eq!(refuse(b"\x80\x02\x00\x01\x00\x00\x00\x00"), "frame of version 2, not 3");
    assert_eq!(refuse(b"\x80\x03\x00\x01\x00\xff\xff\xff"), "control frame of 16777215 bytes");
    assert_eq!(refuse(b"\x80\x03\x00\x06\x00\x00\x00\x01x"), "control frame of type 6 is too short");
    assert_eq!(refuse(b"\x00\x00\x00\x00\x00\x00\x00\x00"), "invalid stream id 0");
}

fn headers() -> impl Strategy<Value = Headers> {
    let pair = ("[a-z][a-z0-9-]{0,20}", "[ -~]{0,200}");
    proptest::collection::vec(pair, 0..8).prop_map(Headers)
}

fn frame() -> impl Strategy<Value = Frame> {
    let id = 1u32..0x7fff_ffff;
    prop_oneof![
        (id.clone(), any::<bool>(), any::<bool>(), headers()).prop_map(
            |(id, fin, unidirectional, headers)| Frame::SynStream { id, fin, unidirectional, headers }
        ),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::SynReply {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<bool>(), headers()).prop_map(|(id, fin, headers)| Frame::Headers {
            id,
            fin,
            headers
        }),
        (id.clone(), any::<u32>()).prop_map(|(id, status)| Frame::Reset { id, status }),
        any::<u32>().prop_map(Frame::Ping),
        (id.clone(), any::<u32>()).prop_map(|(last, status)| Frame::GoAway { last, status }),
        (id.clone(), 0u32..0x7fff_ffff).prop_map(|(id, delta)| Frame::WindowUpdate { id, delta }),
        (id, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..500))
            .prop_map(|(id, fin, bytes)| Frame::Data { id, fin, bytes: bytes.into() }),
    ]
}

/// Joins the pieces of data frames, however the bytes came.
fn join(frames: Vec<Frame>) -> Vec<Frame> {
    let mut joined: Vec<Frame> = Vec::new();
    let mut open = false;
    for frame in frames {
        match (joined.last_mut(), frame) {
            (Some(Frame::Data { fin: last, bytes: before, .. }), Frame::Data { fin, bytes, .. }) if open => {
                *before = [before.as_ref(), &bytes].concat().into();
                *last = fin;
                open = !fin;
            }
            (_, frame) => {
                open = matches!(frame, Frame::Data { fin: false, .. });
                joined.push(frame);
            }
        }
    }
    joined
}

proptest! {
    #[test]
    fn what_is_written_is_read_however_it_is_cut(
        frames in proptest::collection::vec(frame(), 1..12),
        cut in 1usize..64,
    ) {
        let mut encoder = Encoder::default();
        let mut wire = BytesMut::new();
        frames.iter().for_each(|frame| encoder.encode(frame, &mut wire));
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::new();
        let mut read = Vec::new();
        for piece in wire.chunks(cut) {
            buffer.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                read.push(frame);
            }
        }
        prop_assert!(buffer.is_empty());
        // Neighbouring pieces are joined on both sides, so that only the bytes and the ends count.
        prop_assert_eq!(join(read), join(frames));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut buffer = BytesMut::from(bytes.as_slice());
        let mut decoder = Decoder::default();
        while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
    }
}
