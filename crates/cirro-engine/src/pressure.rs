//! Keeps a full disk from harming anybody but who fills it.
//!
//! ## Theory of operation
//! ```text
//! free space   ████████████████████████████████████▓▓▓▓▓▓▒▒▒▒▒▒
//!              looked at every 30 s,               │     └ reserved file: given up so that the daemon goes on
//!              sooner the less there is            └ low-water mark: who wrote most is stopped
//! ```
//! One task looks at the free space, as often as a fast writer could come near the mark. When it has fallen by a part of what is above
//! the mark, what each running container has written is counted; at the mark, the one that grew most since then is stopped, if
//! it had a good share in the loss: nobody is stopped for what an image or another program took. The mark goes down to
//! half of what is left then, so that who writes a little beside is left alone, and goes back when there is room again.
//!
//! Records, logs and the store are small, but must be written when nothing else can be: for them a file is kept that
//! is removed when the space is nearly gone, and made again when there is room.

mod marks;
mod reserve;
mod stop;
mod watch;
mod written;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// How much of the disk is kept free; what is absent depends on the file system's size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// Free bytes below which the container that writes most is stopped; 0: none ever is.
    pub low_water: Option<u64>,
    /// Bytes of the file that is kept for the daemon; 0: none.
    pub reserve: Option<u64>,
}

/// What the watch of the disk shares with the rest of the engine.
#[derive(Default)]
pub(crate) struct Pressure {
    /// The low-water mark, while less is free.
    low: Mutex<Option<u64>>,
    /// Steps of builds that run: workload and the directory that they write to.
    steps: Mutex<BTreeMap<String, Step>>,
}

struct Step {
    upper: PathBuf,
    stopped: Option<String>,
}

/// A step of a build, while it runs.
pub(crate) struct RunningStep<'a> {
    pressure: &'a Pressure,
    id: String,
}

impl Pressure {
    /// Tells of a step of a build that may write much.
    pub(crate) fn run_step(&self, id: &str, upper: PathBuf) -> RunningStep<'_> {
        lock(&self.steps).insert(id.to_owned(), Step { upper, stopped: None });
        RunningStep { pressure: self, id: id.to_owned() }
    }

    /// Returns the low-water mark, while less is free.
    pub(crate) fn low(&self) -> Option<u64> {
        *lock(&self.low)
    }
}

impl RunningStep<'_> {
    /// Returns why it was stopped, if it was.
    pub(crate) fn stopped(&self) -> Option<String> {
        lock(&self.pressure.steps).get(&self.id)?.stopped.clone()
    }
}

impl Drop for RunningStep<'_> {
    fn drop(&mut self) {
        lock(&self.pressure.steps).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Plain values that are replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
