//! Binds pending pods and instances to nodes.
//!
//! ## Theory of operation
//! ```text
//! caches ─▶ Snapshot ─▶ place() ─▶ bind, or the condition PodScheduled=False with the reason
//! ```
//! [`place`] is a pure function over a snapshot. One task places one workload at a time, and what it has
//! bound is assumed in the next snapshot until the cache shows it; so no node is given away twice.

mod filter;
mod scheduler;
mod snapshot;

pub use filter::{Refusal, place};
pub use scheduler::run;
pub use snapshot::{HostPort, Node, Request, Snapshot, Taint, Toleration};
