//! The OCI distribution API: a registry served straight from the image library.
//!
//! ## Theory of operation
//! ```text
//! connection ─▶ server ─▶ path (which endpoint) ─▶ access (who may) ─▶ blobs, uploads, manifests, lists
//!                                                                       └─▶ mirror (what is not here) ─▶ upstream
//! keeper: collection once in a while
//! ```
//! Repositories are those that were pushed and, read only, those that the library's images make by their names. Everything
//! that blocks runs on the pool for blocking work; bodies are streamed in pieces of a bounded size both ways.
//!
//! Source: OCI distribution-spec v1.1; distribution's token authentication.

#![forbid(unsafe_code)]

mod access;
mod blobs;
mod config;
mod error;
mod grants;
mod keeper;
mod lists;
mod login;
mod manifests;
mod mirror;
mod path;
mod range;
mod request;
mod server;
mod stream;
mod token;
mod uploads;

use std::sync::Arc;

use cirro_image::distribution::Distribution;
use tokio::sync::Semaphore;

pub use crate::config::{Config, InvalidConfig, Mirror};
pub use crate::login::hash_password;
pub use crate::mirror::{Found, Upstream, UpstreamError};
pub use crate::server::{router, serve};

use crate::access::Access;
use crate::mirror::Mirrors;

/// Uploads that receive bytes at the same time; each has a thread that writes.
const MAX_RECEIVING: usize = 128;

/// A registry. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    distribution: Distribution,
    access: Access,
    mirrors: Mirrors,
    collect_every: std::time::Duration,
    receiving: Arc<Semaphore>,
}

impl Registry {
    /// Makes the face of a store. `upstreams` gives each mirror of the configuration its client.
    pub fn new(
        distribution: Distribution,
        config: &Config,
        upstreams: &dyn Fn(&config::Mirror) -> Arc<dyn Upstream>,
    ) -> Self {
        let shared = Shared {
            distribution,
            access: Access::new(config),
            mirrors: Mirrors::new(config, upstreams),
            collect_every: config.collect_every(),
            receiving: Arc::new(Semaphore::new(MAX_RECEIVING)),
        };
        Self { shared: Arc::new(shared) }
    }
}
