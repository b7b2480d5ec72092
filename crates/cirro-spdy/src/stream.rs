//! One stream of a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::block::Headers;
use crate::frame::Frame;

/// Largest piece of data that is sent in one frame.
const PIECE: usize = 32 * 1024;
/// Status of a reset: the stream is not wanted.
const REFUSED: u32 = 3;
/// Status of a reset: the stream is no longer needed.
const CANCEL: u32 = 5;

/// The stream or its connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is closed")]
pub struct Closed;

/// What a connection knows of a stream.
pub(crate) struct Entry {
    /// To the stream's reader; `None` after the peer's last byte.
    pub(crate) input: Option<mpsc::Sender<Bytes>>,
    /// Whether our last byte was sent.
    pub(crate) finished: bool,
    /// Cancelled by a reset.
    pub(crate) closed: CancellationToken,
}

/// What the streams of a connection share.
pub(crate) struct Shared {
    pub(crate) frames: mpsc::Sender<Frame>,
    table: Mutex<HashMap<u32, Entry>>,
}

impl Shared {
    pub(crate) fn new(frames: mpsc::Sender<Frame>) -> Arc<Self> {
        Arc::new(Self { frames, table: Mutex::default() })
    }

    pub(crate) fn table(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a stream when both sides have sent their last byte.
    pub(crate) fn settle(&self, id: u32) {
        let mut table = self.table();
        if table.get(&id).is_some_and(|entry| entry.finished && entry.input.is_none()) {
            table.remove(&id);
        }
    }

    /// Forgets every stream: their readers come to an end.
    pub(crate) fn forget_all(&self) {
        self.table().clear();
    }

    /// Forgets a stream and tells its users.
    pub(crate) fn remove(&self, id: u32) {
        if let Some(entry) = self.table().remove(&id) {
            entry.closed.cancel();
        }
    }
}

/// A stream that the peer began.
///
/// It is not the peer's to use before [`Stream::accept`]; dropped, it is refused.
pub struct Stream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) input: mpsc::Receiver<Bytes>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) closed: CancellationToken,
    pub(crate) refusal: Refusal,
}

/// Refuses a stream that nobody accepted.
pub(crate) struct Refusal(pub(crate) Option<(u32, Arc<Shared>)>);

impl Drop for Refusal {
    fn drop(&mut self) {
        if let Some((id, shared)) = self.0.take() {
            shared.remove(id);
            // A full queue is a peer that does not read: it will not miss the refusal.
            let _ = shared.frames.try_send(Frame::Reset { id, status: REFUSED });
        }
    }
}

impl Stream {
    /// Returns what the stream is for.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Tells the peer that the stream is used, and returns its two directions.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn accept(mut self) -> Result<(Reader, Writer), Closed> {
        let reply = Frame::SynReply { id: self.id, fin: false, headers: Headers::default() };
        self.shared.frames.send(reply).await.map_err(|_| Closed)?;
        self.refusal.0 = None;
        let writer = Writer {
            id: self.id,
            shared: self.shared,
            closed: self.closed.clone(),
            finished: AtomicBool::new(false),
        };
        Ok((Reader { input: self.input, closed: self.closed }, writer))
    }
}

/// What the peer sends on a stream.
pub struct Reader {
    input: mpsc::Receiver<Bytes>,
    closed: CancellationToken,
}

impl Reader {
    /// Returns the next bytes; `None` after the last ones and after a reset.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.input.recv().await
    }

    /// Resolves when the peer has reset the stream, or is gone.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.closed.clone().cancelled_owned()
    }
}

/// What is sent to the peer on a stream. Dropped, it resets the stream, unless it was finished.
pub struct Writer {
    id: u32,
    shared: Arc<Shared>,
    closed: CancellationToken,
    finished: AtomicBool,
}

impl Writer {
    /// Sends bytes; waits while the peer does not take what was sent before.
    ///
    /// # Errors
    /// When the peer has reset the stream, or is gone.
    pub async fn send(&self, mut bytes: Bytes) -> Result<(), Closed> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            self.frame(Frame::Data { id: self.id, fin: false, bytes: piece }).await?;
        }
        Ok(())
    }

    /// Says that nothing more comes, once.
    pub async fn finish(&self) {
        if self.finished.swap(true, Ordering::Relaxed) {
            return;
        }
        let sent = self.frame(Frame::Data { id: self.id, fin: true, bytes: Bytes::new() }).await;
        if sent.is_ok() {
            if let Some(entry) = self.shared.table().get_mut(&self.id) {
                entry.finished = true;
            }
            self.shared.settle(self.id);
        }
    }

    async fn frame(&self, frame: Frame) -> Result<(), Closed> {
        tokio::select! {
            biased;
            () = self.closed.cancelled() => Err(Closed),
            sent = self.shared.frames.send(frame) => sent.map_err(|_| Closed),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished.load(Ordering::Relaxed) && !self.closed.is_cancelled() {
            self.shared.remove(self.id);
            let _ = self.shared.frames.try_send(Frame::Reset { id: self.id, status: CANCEL });
        }
    }
}
