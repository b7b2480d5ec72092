//! The traces of one build while it runs: the last build's, read once when it is asked for, and this one's.

use std::sync::{Arc, Mutex, PoisonError};

use cirro_seams::build::BuildLibrary;
use cirro_types::Digest;
use tokio::sync::OnceCell;

use crate::BuildRequest;
use crate::trace::{BuildTrace, StepTrace};

/// What is remembered of the builds of one name.
pub(crate) struct Traces {
    slot: Digest,
    before: OnceCell<Option<BuildTrace>>,
    now: Mutex<Vec<StepTrace>>,
}

impl Traces {
    /// Finds the name of a build: its first tag, else where it comes from.
    pub(crate) fn of(request: &BuildRequest) -> Self {
        let name = match request.tags.first() {
            Some(tag) => format!("tag {tag}"),
            None => format!("origin {} {}", request.origin, request.dockerfile),
        };
        Self { slot: Digest::of(name.as_bytes()), before: OnceCell::new(), now: Mutex::default() }
    }

    /// Returns the trace of the last build of this name.
    pub(crate) async fn before(&self, library: &Arc<dyn BuildLibrary>) -> Option<&BuildTrace> {
        let load = async {
            let bytes = library.trace(self.slot).await?;
            // One of another version is as good as none.
            serde_json::from_slice(&bytes).ok()
        };
        self.before.get_or_init(|| load).await.as_ref()
    }

    /// Notes a step of this build.
    pub(crate) fn add(&self, step: StepTrace) {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).push(step);
    }

    /// Leaves this build's trace to the next, unless it is the same as the last one's.
    pub(crate) async fn keep(&self, library: &Arc<dyn BuildLibrary>) {
        let steps = std::mem::take(&mut *self.now.lock().unwrap_or_else(PoisonError::into_inner));
        let mut trace = BuildTrace::of(steps);
        let stamp = trace.stamp();
        if library.trace_stamp(self.slot).await == Some(stamp) {
            return;
        }
        if let Some(before) = self.before(library).await {
            trace.complete(before.clone());
        }
        if let Ok(bytes) = serde_json::to_vec(&trace) {
            library.keep_trace(self.slot, stamp, bytes).await;
        }
    }
}
