//! What is measured runs in the background: a signal that ends us ends it first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};

use anyhow::Context;

type Cleanup = Box<dyn FnOnce() + Send>;

static CLEANUPS: Mutex<BTreeMap<u64, Cleanup>> = Mutex::new(BTreeMap::new());

/// Takes the clean-up back when dropped: its owner does it.
pub(crate) struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        CLEANUPS.lock().expect("no panic while it is held").remove(&self.0);
    }
}

/// Has something done if a signal ends us from now on.
pub(crate) fn on_signal(cleanup: impl FnOnce() + Send + 'static) -> anyhow::Result<Guard> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static LISTEN: Once = Once::new();
    let mut listening = Ok(());
    LISTEN.call_once(|| listening = listen());
    listening?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    CLEANUPS.lock().expect("no panic while it is held").insert(number, Box::new(cleanup));
    Ok(Guard(number))
}

/// Handlers, not a blocked mask: programs that we start would inherit that.
fn listen() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let enter = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).context("listen to signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to signals")?;
    let mut hang_up = signal(SignalKind::hangup()).context("listen to signals")?;
    drop(enter);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {}, _ = hang_up.recv() => {} }
        });
        let cleanups = std::mem::take(&mut *CLEANUPS.lock().expect("no panic while it is held"));
        // The last one first.
        cleanups.into_values().rev().for_each(|cleanup| cleanup());
        #[allow(
            clippy::disallowed_methods,
            reason = "the main thread waits for a measurement that is void now"
        )]
        std::process::exit(130);
    });
    Ok(())
}
