//! The audit log: who asked for what, and what came of it, as a policy wants it told.
//!
//! ```text
//! request ─▶ policy (first rule that fits) ─▶ Trail: RequestReceived ─▶ … ─▶ ResponseComplete ─▶ Log: JSON lines, rotated
//! ```
//! Without a policy there is no trail, and a request costs nothing more. A request waits when the log cannot be
//! written as fast as it is asked for: nothing is lost, as upstream's mode `blocking`.
//!
//! Source: apiserver `pkg/audit`, `pkg/endpoints/filters/audit.go`.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body;
use axum::http::Request;

use crate::authenticate::Authenticated;
use crate::rbac::{Access, Target};

mod log;
mod policy;
mod trail;

use log::Log;
pub(crate) use policy::{Level, Policy, PolicyError};
pub(crate) use trail::{Peer, Trail};

/// Where events go, and which.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// The policy: YAML or JSON of `audit.k8s.io/v1`.
    pub policy: PathBuf,
    /// The log.
    pub log: PathBuf,
    /// Bytes at which the log is rotated.
    pub max_size_bytes: u64,
    /// Rotated logs that are kept.
    pub max_backups: usize,
    /// Days after which rotated logs are deleted; 0 keeps them.
    pub max_age_days: u64,
}

/// The open audit log.
pub(crate) struct Audit {
    policy: Policy,
    log: Log,
}

impl Audit {
    /// Reads the policy and opens the log. Blocks.
    pub(crate) fn open(options: &AuditOptions) -> Result<Self, PolicyError> {
        let policy = Policy::load(&options.policy)?;
        let log =
            Log::open(options).map_err(|source| PolicyError::Log { path: options.log.clone(), source })?;
        Ok(Self { policy, log })
    }

    /// Begins the trail of a request; nothing when the policy does not want it told.
    pub(crate) fn begin(
        self: &Arc<Self>,
        who: &Authenticated,
        access: &Access,
        version: &str,
        request: &Request<Body>,
    ) -> Option<Trail> {
        let asker = who.impersonator.as_ref().unwrap_or(&who.user);
        let decision = self.policy.decide(asker, access);
        if decision.level == Level::None {
            return None;
        }
        let long = is_long_running(access, request);
        Some(Trail::new(self.clone(), decision, who, access, version, request, long))
    }
}

/// Whether an answer goes on for as long as the client wants.
fn is_long_running(access: &Access, request: &Request<Body>) -> bool {
    let Target::Resource { subresource, .. } = &access.target else { return false };
    access.verb == "watch"
        || ["attach", "exec", "portforward", "proxy"].contains(&subresource.as_str())
        || (subresource == "log" && request.uri().query().is_some_and(|query| query.contains("follow=")))
}
