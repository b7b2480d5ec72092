//! What a pull or push tells the person who waits, in docker's words.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cirro_types::Digest;
use tokio::sync::mpsc;

/// Numbers of one layer are told at most this often.
const INTERVAL: Duration = Duration::from_millis(100);
/// Places that are kept for changes of state when numbers fill the channel.
const RESERVE: usize = 1024;
/// Lines that may wait for the client.
pub const PROGRESS_LINES: usize = 4096;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A sentence, maybe of something that has an id.
    Status {
        /// The tag or digest that it is about.
        id: Option<String>,
        /// The sentence.
        status: String,
    },
    /// A layer's state.
    Layer {
        /// Twelve digits of its digest.
        id: String,
        /// `Pulling fs layer`, `Downloading`, `Pull complete`, …
        status: String,
        /// Bytes done, and in all when that is known.
        bytes: Option<(u64, u64)>,
    },
    /// A tag that was pushed.
    Pushed {
        /// The tag.
        tag: String,
        /// Digest of its manifest.
        digest: Digest,
        /// Length of its manifest.
        size: u64,
    },
}

/// Where lines go. Never blocks: a client that does not read misses numbers, and lines when it never reads.
#[derive(Clone, Default)]
pub struct ProgressSink(Option<mpsc::Sender<Progress>>);

impl ProgressSink {
    /// Sends lines to a channel of [`PROGRESS_LINES`] places.
    pub fn new(sender: mpsc::Sender<Progress>) -> Self {
        Self(Some(sender))
    }

    /// Forgets every line.
    pub fn nowhere() -> Self {
        Self(None)
    }

    /// Tells a sentence.
    pub fn status(&self, id: Option<&str>, status: impl Into<String>) {
        self.tell(Progress::Status { id: id.map(str::to_owned), status: status.into() });
    }

    /// Tells a layer's new state.
    pub(crate) fn layer(&self, id: &str, status: &str) {
        self.tell(Progress::Layer { id: id.to_owned(), status: status.to_owned(), bytes: None });
    }

    pub(crate) fn tell(&self, line: Progress) {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(line);
        }
    }

    /// Tells numbers, unless the channel is filling up.
    fn numbers(&self, id: &str, status: &str, bytes: (u64, u64)) {
        if let Some(sender) = &self.0
            && sender.capacity() > RESERVE
        {
            let (id, status) = (id.to_owned(), status.to_owned());
            let _ = sender.try_send(Progress::Layer { id, status, bytes: Some(bytes) });
        }
    }
}

/// Tells how far one layer is, now and then.
pub(crate) struct Meter {
    sink: ProgressSink,
    id: String,
    status: &'static str,
    total: u64,
    begun: Instant,
    /// Milliseconds since `begun` of the last line.
    told: AtomicU64,
}

impl Meter {
    pub(crate) fn new(sink: &ProgressSink, id: &str, status: &'static str, total: u64) -> Self {
        let (sink, id) = (sink.clone(), id.to_owned());
        Self { sink, id, status, total, begun: Instant::now(), told: AtomicU64::new(0) }
    }

    /// Notes how many bytes are done.
    pub(crate) fn at(&self, done: u64) {
        let now = self.begun.elapsed().as_millis() as u64;
        let last = self.told.load(Ordering::Relaxed);
        if now.saturating_sub(last) >= INTERVAL.as_millis() as u64 {
            self.told.store(now, Ordering::Relaxed);
            self.sink.numbers(&self.id, self.status, (done, self.total));
        }
    }

    /// Tells that all is done.
    pub(crate) fn end(&self) {
        self.sink.numbers(&self.id, self.status, (self.total, self.total));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn numbers_give_way_to_changes_of_state() {
        let (sender, mut receiver) = mpsc::channel(RESERVE + 2);
        let sink = ProgressSink::new(sender);
        for _ in 0..10 {
            sink.numbers("a", "Downloading", (1, 2));
        }
        sink.layer("a", "Download complete");
        let mut lines = Vec::new();
        while let Ok(line) = receiver.try_recv() {
            lines.push(line);
        }
        assert_eq!(lines.len(), 3);
        assert!(matches!(&lines[2], Progress::Layer { bytes: None, .. }));
    }
}
