//! What every component that follows the API needs: a cache fed by list and watch, and a queue of keys.
//!
//! ```text
//! Api::list, Api::watch ─▶ Cache ─▶ handlers ─▶ WorkQueue ─▶ run(): one reconcile per key at a time
//! ```
//! A reconciler takes a key, looks at its caches, makes one safe step, and says when to come again.

mod cache;
mod events;
mod leader;
mod object;
mod queue;
mod seen;

pub use cache::Cache;
pub use events::{EventRecorder, Severity, seconds};
pub use leader::Candidate;
pub use object::{
    controller_uid, key_of, labels, matches_labels, name, namespace, namespaced_name, text, uid,
};
pub use queue::{Claim, Next, WorkQueue, run};
pub use seen::Object;
