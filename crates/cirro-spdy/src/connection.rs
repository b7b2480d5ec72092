//! The side of a connection that accepts streams.
//!
//! Two tasks: one reads frames and gives bytes to the streams' queues, one writes the frames that streams and the
//! first task have queued. The first never waits for the second, so that a peer that does not read cannot keep
//! us from reading; what it would have said (pings' answers, opened windows) is left out while the queue is full.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::block::Headers;
use crate::frame::{Decoder, Encoder, Frame};
use crate::stream::{Entry, Refusal, Shared, Stream};

/// Streams at a time.
const MAX_STREAMS: usize = 1024;
/// Streams that wait to be taken.
const BACKLOG: usize = 64;
/// Pieces of data that wait for a stream's reader.
const QUEUE: usize = 16;
/// Frames that wait to be written.
const FRAMES: usize = 32;
/// Bytes that are read at once, and so the largest piece of data.
const READ: usize = 32 * 1024;
/// Bytes that are gathered into one write.
const GATHER: usize = 64 * 1024;
/// Bytes of a stream after which its window is opened again.
const WINDOW_STEP: u32 = 32 * 1024;
/// A connection without a frame for so long ends; kubelet's `streamingConnectionIdleTimeout`.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a peer gets to close a connection that is over.
const LINGER: Duration = Duration::from_secs(5);

const PROTOCOL_ERROR: u32 = 1;
const INVALID_STREAM: u32 = 2;
const REFUSED_STREAM: u32 = 3;

/// A connection that a peer begins streams on. Dropped, it is cut.
pub struct Connection {
    streams: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
    ended: CancellationToken,
    reading: AbortOnDropHandle<()>,
    writing: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ended.cancel();
        self.shared.forget_all();
        self.writing.abort();
    }
}

impl Connection {
    /// Serves a connection whose peer has just switched to SPDY.
    pub fn accept<S: AsyncRead + AsyncWrite + Send + 'static>(io: S) -> Self {
        let (read, write) = tokio::io::split(io);
        let (frames, queue) = mpsc::channel(FRAMES);
        let (offered, streams) = mpsc::channel(BACKLOG);
        let shared = Shared::new(frames);
        let ended = CancellationToken::new();
        let written = Arc::new(AtomicU64::new(0));
        let reading = Reading {
            decoder: Decoder::default(),
            shared: shared.clone(),
            offered,
            ended: ended.clone(),
            last: 0,
            taken: HashMap::new(),
        };
        let end = ended.clone();
        let reading = tokio::spawn({
            let (written, streams) = (written.clone(), shared.clone());
            async move {
                if let Err(why) = reading.run(read, &written).await {
                    tracing::debug!(%why, "SPDY connection ended");
                }
                end.cancel();
                streams.forget_all();
            }
        });
        let writing = tokio::spawn(write_frames(write, queue, written));
        Self { streams, shared, ended, reading: AbortOnDropHandle::new(reading), writing }
    }

    /// Returns the next stream that the peer begins; `None` when it is gone.
    pub async fn next(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Resolves when the peer is gone.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.ended.clone().cancelled_owned()
    }

    /// Says that no further stream is accepted and gives the peer a while to take what was sent and to close.
    ///
    /// The end of the bytes is not for us to send first: spdystream throws away what it has not passed on by then.
    pub async fn finish(mut self) {
        self.streams.close();
        let last = self.shared.frames.send(Frame::GoAway { last: 0, status: 0 });
        let over = async {
            let _ = last.await;
            let _ = (&mut self.reading).await;
        };
        let _ = tokio::time::timeout(LINGER, over).await;
    }
}

/// The state of the task that reads.
struct Reading {
    decoder: Decoder,
    shared: Arc<Shared>,
    offered: mpsc::Sender<Stream>,
    ended: CancellationToken,
    /// The newest stream's id.
    last: u32,
    /// Bytes taken from the peer that its windows were not opened for; stream 0 is all of them.
    taken: HashMap<u32, u32>,
}

impl Reading {
    async fn run<S: AsyncRead>(mut self, mut io: ReadHalf<S>, written: &AtomicU64) -> io::Result<()> {
        let mut buffer = BytesMut::with_capacity(READ);
        loop {
            while let Some(frame) = self.decoder.decode(&mut buffer).map_err(io::Error::other)? {
                self.frame(frame).await?;
            }
            buffer.reserve(READ);
            let before = written.load(Ordering::Relaxed);
            match tokio::time::timeout(IDLE, io.read_buf(&mut buffer)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(read) => drop(read?),
                Err(_) if written.load(Ordering::Relaxed) != before => {}
                Err(late) => return Err(late.into()),
            }
        }
    }

    async fn frame(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::SynStream { id, fin, headers, .. } => self.begin(id, fin, headers),
            Frame::Data { id, fin, bytes } => self.data(id, fin, bytes).await,
            Frame::Headers { id, fin: true, .. } => self.remote_finished(id),
            Frame::Reset { id, .. } => self.shared.remove(id),
            // A peer's pings are odd, as its streams.
            Frame::Ping(id) if id % 2 == 1 => self.say(Frame::Ping(id)),
            Frame::Ping(_)
            | Frame::Headers { .. }
            | Frame::SynReply { .. }
            | Frame::GoAway { .. }
            | Frame::WindowUpdate { .. }
            | Frame::Other(_) => {}
        }
        Ok(())
    }

    /// Queues a frame, unless the queue is full.
    fn say(&self, frame: Frame) {
        let _ = self.shared.frames.try_send(frame);
    }

    fn begin(&mut self, id: u32, fin: bool, headers: Headers) {
        if id.is_multiple_of(2) || id <= self.last {
            self.shared.remove(id);
            return self.say(Frame::Reset { id, status: PROTOCOL_ERROR });
        }
        self.last = id;
        if self.shared.table().len() >= MAX_STREAMS {
            return self.say(Frame::Reset { id, status: REFUSED_STREAM });
        }
        let (sender, input) = mpsc::channel(QUEUE);
        let closed = self.ended.child_token();
        let entry = Entry { input: (!fin).then_some(sender), finished: false, closed: closed.clone() };
        self.shared.table().insert(id, entry);
        let shared = self.shared.clone();
        let refusal = Refusal(Some((id, shared.clone())));
        // One that finds no place is dropped, and so refused.
        let _ = self.offered.try_send(Stream { id, headers, input, shared, closed, refusal });
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) {
        let found = self.shared.table().get(&id).map(|entry| (entry.input.clone(), entry.closed.clone()));
        let length = bytes.len() as u32;
        match found {
            Some((Some(input), closed)) if !bytes.is_empty() => {
                // A reader that is gone has bytes thrown away, as if it had read them.
                tokio::select! {
                    _ = input.send(bytes) => {}
                    () = closed.cancelled() => {}
                }
            }
            Some((None, _)) => {
                self.shared.remove(id);
                self.say(Frame::Reset { id, status: PROTOCOL_ERROR });
            }
            None if id > self.last => self.say(Frame::Reset { id, status: INVALID_STREAM }),
            Some(_) | None => {}
        }
        self.open_window(0, length);
        if fin {
            self.taken.remove(&id);
            self.remote_finished(id);
        } else if self.shared.table().contains_key(&id) {
            self.open_window(id, length);
        } else {
            self.taken.remove(&id);
        }
    }

    fn remote_finished(&mut self, id: u32) {
        if let Some(entry) = self.shared.table().get_mut(&id) {
            entry.input = None;
        }
        self.shared.settle(id);
    }

    /// Counts bytes that were taken, and opens the window by them when they are many.
    fn open_window(&mut self, id: u32, length: u32) {
        let taken = self.taken.entry(id).or_default();
        *taken = taken.saturating_add(length);
        if *taken >= WINDOW_STEP {
            let update = Frame::WindowUpdate { id, delta: *taken };
            if self.shared.frames.try_send(update).is_ok() {
                *taken = 0;
            }
        }
    }
}

/// Writes what is queued until the peer does not take it.
async fn write_frames<S: AsyncWrite>(
    mut io: WriteHalf<S>,
    mut queue: mpsc::Receiver<Frame>,
    written: Arc<AtomicU64>,
) {
    let mut encoder = Encoder::default();
    let mut buffer = BytesMut::with_capacity(READ);
    while let Some(frame) = queue.recv().await {
        encoder.encode(&frame, &mut buffer);
        while buffer.len() < GATHER {
            let Ok(frame) = queue.try_recv() else { break };
            encoder.encode(&frame, &mut buffer);
        }
        if io.write_all(&buffer).await.is_err() || io.flush().await.is_err() {
            return;
        }
        buffer.clear();
        written.fetch_add(1, Ordering::Relaxed);
    }
}
