//! Deletes what is not needed any more, in a thread of its own.
//!
//! Deleting a large tree takes seconds, and nobody should wait for that: not who removes a container, not the
//! daemon's start. A directory is first moved to `trash`, from where it has no effect, then deleted.
//! The queue has no bound since a removal must not wait; it holds a path for each directory. When the library
//! is closed the thread stops between two files, and the next start goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::confine::{Interrupted, remove_tree_while};
use crate::error::{Context, ImageError};

/// The directory of what is being deleted, and the thread that does it.
pub(crate) struct Trash {
    dir: PathBuf,
    names: AtomicU64,
    closing: Arc<AtomicBool>,
    queue: Option<Sender<PathBuf>>,
    thread: Option<JoinHandle<()>>,
}

impl Trash {
    /// Opens the trash in a directory that is there; what an earlier process left in it is deleted too.
    pub(crate) fn open(dir: PathBuf) -> Result<Self, ImageError> {
        let (queue, incoming) = channel();
        let closing = Arc::new(AtomicBool::new(false));
        let mut next = 0;
        for entry in fs::read_dir(&dir).context(|| format!("list `{}`", dir.display()))? {
            let path = entry.context(|| format!("list `{}`", dir.display()))?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            next = next.max(number.map_or(0, |number| number + 1));
            queue.send(path).expect("the receiver is there");
        }
        let stop = Arc::clone(&closing);
        let thread = std::thread::Builder::new()
            .name("image-trash".into())
            .spawn(move || delete_all(&incoming, &stop))
            .context(|| "start the thread that deletes".into())?;
        let (queue, thread) = (Some(queue), Some(thread));
        Ok(Self { dir, names: AtomicU64::new(next), closing, queue, thread })
    }

    /// Takes a directory away; it is gone from its place when this returns. A missing one is no error.
    pub(crate) fn discard(&self, path: &Path) {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let aside = self.dir.join(number.to_string());
        match fs::rename(path, &aside) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot move away what is not needed");
                return;
            }
        }
        if let Some(queue) = &self.queue {
            // Without its thread the next start deletes it.
            let _ = queue.send(aside);
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that deletes panicked");
        }
    }
}

fn delete_all(incoming: &Receiver<PathBuf>, closing: &AtomicBool) {
    for path in incoming {
        match remove_tree_while(&path, &|| !closing.load(Ordering::Relaxed)) {
            Ok(()) => {}
            Err(Interrupted::Stopped) => return,
            Err(Interrupted::Failed(error)) => {
                tracing::warn!(path = %path.display(), %error, "cannot delete");
            }
        }
    }
}
