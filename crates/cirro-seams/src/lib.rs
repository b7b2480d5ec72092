//! The traits between parts and rungs of the ladder, with the types in them; no I/O.
//!
//! A trait is cut for the one who needs it and is small enough to fake in a page (`cirro-sim` does).

use std::pin::Pin;

pub mod api;
pub mod build;
pub mod container;
pub mod network;
pub mod node;
pub mod usage;

/// A boxed future, so that the traits here can be used as `dyn`.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
