//! The lines of watches: made once for all who get the same, and bounded for each reader in number and bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Gone;

/// Lines that wait for a slow reader before the store's own limit begins to count.
const BUFFER: usize = 64;
/// Their bytes; a longer line goes alone.
const BUFFER_BYTES: usize = 64 * 1024;
/// Lines that are kept for watchers that come to the same change a little later.
const SHARED: usize = 64;
/// Their bytes.
const SHARED_BYTES: usize = 1024 * 1024;

/// Makes the way of lines to one reader.
pub(super) fn channel() -> (Sender, mpsc::Receiver<Line>) {
    let (lines, body) = mpsc::channel(BUFFER);
    (Sender { lines, room: Arc::new(Semaphore::new(BUFFER_BYTES)) }, body)
}

/// A line, with the room that it takes until it is read.
pub(super) struct Line {
    pub(super) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

/// The writer's end.
#[derive(Clone)]
pub(super) struct Sender {
    lines: mpsc::Sender<Line>,
    room: Arc<Semaphore>,
}

impl Sender {
    /// Waits for room and sends a line.
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        let room = self.room.clone().acquire_many_owned(room_for(&bytes)).await.map_err(|_| Gone)?;
        self.lines.send(Line { bytes, _room: room }).await.map_err(|_| Gone)
    }

    /// Sends a line if there is room.
    pub(super) fn try_send(&self, bytes: Bytes) {
        if let Ok(room) = self.room.clone().try_acquire_many_owned(room_for(&bytes)) {
            let _ = self.lines.try_send(Line { bytes, _room: room });
        }
    }

    /// Resolves when the reader has gone.
    pub(super) async fn closed(&self) {
        self.lines.closed().await;
    }
}

fn room_for(bytes: &Bytes) -> u32 {
    u32::try_from(bytes.len().min(BUFFER_BYTES)).expect("the limit fits")
}

/// The lines of the last changes, as those who want plain JSON get them.
#[derive(Default)]
pub(crate) struct SharedLines(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    lines: VecDeque<(Name, Bytes)>,
    bytes: usize,
}

/// What a line tells: one object at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) event: &'static str,
    pub(super) revision: u64,
    pub(super) key: Arc<str>,
}

impl SharedLines {
    /// Returns the line of this name, made by `make` unless another watcher had it made.
    pub(super) fn get(&self, name: Name, make: impl FnOnce() -> Vec<u8>) -> Bytes {
        let recent = &mut *self.0.lock().expect("no panic while it is held");
        if let Some((_, line)) = recent.lines.iter().rev().find(|(one, _)| *one == name) {
            return line.clone();
        }
        let line = Bytes::from(make());
        recent.bytes += line.len();
        recent.lines.push_back((name, line.clone()));
        while recent.lines.len() > SHARED || recent.bytes > SHARED_BYTES {
            let Some((_, oldest)) = recent.lines.pop_front() else { break };
            recent.bytes -= oldest.len();
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_made_once_and_few_are_kept() {
        let lines = SharedLines::default();
        let name = |revision| Name { event: "ADDED", revision, key: "/a".into() };
        let made = lines.get(name(1), || vec![b'x'; 100_000]);
        let again = lines.get(name(1), || panic!("it is there"));
        assert_eq!(made.as_ptr(), again.as_ptr());
        for revision in 2..100 {
            lines.get(name(revision), || vec![b'x'; 100_000]);
        }
        let recent = lines.0.lock().unwrap();
        assert_eq!((recent.lines.len(), recent.bytes), (10, 1_000_000));
    }

    #[tokio::test]
    async fn a_reader_that_stops_holds_few_bytes() {
        let (sender, mut body) = channel();
        sender.send(vec![0; 3 * BUFFER_BYTES].into()).await.unwrap();
        sender.try_send(vec![0; 1].into());
        let mut second = std::pin::pin!(sender.send(vec![0; BUFFER_BYTES / 2].into()));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert_eq!(body.recv().await.unwrap().bytes.len(), 3 * BUFFER_BYTES);
        assert!(second.await.is_ok());
        assert_eq!(body.recv().await.unwrap().bytes.len(), BUFFER_BYTES / 2);
        drop(body);
        assert!(sender.send(vec![0].into()).await.is_err());
    }
}
