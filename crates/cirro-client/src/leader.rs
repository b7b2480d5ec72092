//! One of several does the work: a lease in the API, as client-go's leader election has it.
//!
//! ```text
//! candidate ──(no holder, or one that was silent for a lease)──▶ leader ──(not renewed in time)──▶ candidate
//! ```
//! Who holds the lease writes the time into it every two seconds. A candidate counts by its own clock from when it
//! saw the lease change last, so clocks need not agree. A leader that cannot renew ends its work before anybody else
//! may begin; one that is asked to stop gives the lease back, and the next one need not wait.

use std::sync::Arc;
use std::time::Duration;

use cirro_seams::api::{Api, ApiError, ObjectKey, Resource};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::object::text;

/// How long a silent holder keeps the lease; these three are upstream's.
const LEASE: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it stops being one.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
/// How long the work may take to end after it was told to; it is dropped then.
const WIND_DOWN: Duration = Duration::from_secs(3);
const NAMESPACE: &str = "kube-system";

/// A candidate for one lease.
pub struct Candidate {
    api: Arc<dyn Api>,
    key: ObjectKey,
    identity: String,
    observed: Option<Observed>,
}

/// The lease as it was when it changed last, and when that was seen.
struct Observed {
    version: String,
    at: Instant,
}

impl Candidate {
    /// A candidate for the lease `name` in `kube-system`; `identity` is nobody else's.
    pub fn new(api: Arc<dyn Api>, name: &str, identity: &str) -> Self {
        let resource = Resource::new("coordination.k8s.io", "leases");
        let key = ObjectKey { resource, namespace: NAMESPACE.into(), name: name.into() };
        Self { api, key, identity: identity.into(), observed: None }
    }

    /// Does the work whenever, and as long as, it leads; until `stop` is cancelled. The work gets a token that is
    /// cancelled when it must end.
    pub async fn run<W: Future<Output = ()>>(
        mut self,
        stop: CancellationToken,
        work: impl Fn(CancellationToken) -> W,
    ) {
        loop {
            tokio::select! {
                () = self.acquire() => {}
                () = stop.cancelled() => return,
            }
            info!(lease = self.key.name, identity = self.identity, "leads");
            let end = stop.child_token();
            let working = work(end.clone());
            tokio::pin!(working);
            let ended = tokio::select! {
                () = &mut working => true,
                () = self.renew() => false,
                () = stop.cancelled() => false,
            };
            end.cancel();
            if !ended && timeout(WIND_DOWN, working).await.is_err() {
                warn!(lease = self.key.name, "the work did not end in time");
            }
            if ended || stop.is_cancelled() {
                self.release().await;
            }
            if stop.is_cancelled() {
                return;
            }
            warn!(lease = self.key.name, "does not lead any more");
        }
    }

    /// Returns when the lease is ours.
    async fn acquire(&mut self) {
        loop {
            match self.try_take().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => debug!(lease = self.key.name, %error, "cannot take the lease"),
            }
            sleep(RETRY).await;
        }
    }

    /// Keeps the lease; returns when it is lost.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            match timeout(left, self.try_take()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) if renewed.elapsed() < RENEW_DEADLINE => {
                    debug!(lease = self.key.name, %error, "cannot renew the lease");
                }
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    /// Takes or renews the lease unless somebody else has it.
    async fn try_take(&mut self) -> Result<bool, ApiError> {
        let present = match self.api.get(&self.key).await {
            Ok(present) => present,
            Err(error) if error.is_not_found() => return self.create().await,
            Err(error) => return Err(error),
        };
        let version = text(&present, "/metadata/resourceVersion");
        if self.observed.as_ref().is_none_or(|observed| observed.version != version) {
            self.observed = Some(Observed { version: version.into(), at: Instant::now() });
        }
        let holder = text(&present, "/spec/holderIdentity");
        let silent = self.observed.as_ref().map_or(Duration::ZERO, |observed| observed.at.elapsed());
        if !holder.is_empty() && holder != self.identity && silent < lasts(&present) {
            return Ok(false);
        }
        self.write(&present, &self.identity).await
    }

    async fn create(&mut self) -> Result<bool, ApiError> {
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": self.key.name, "namespace": self.key.namespace},
            "spec": spec(&self.identity, now(), 0),
        });
        match self.api.create(&self.key.resource, lease).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a holder into the lease as it was seen; `false` if somebody was quicker.
    async fn write(&self, present: &Value, holder: &str) -> Result<bool, ApiError> {
        let transitions = present.pointer("/spec/leaseTransitions").and_then(Value::as_i64).unwrap_or(0);
        let mut lease = present.clone();
        lease["spec"] = if text(present, "/spec/holderIdentity") == self.identity {
            let since = text(present, "/spec/acquireTime").to_owned();
            spec(holder, if since.is_empty() { now() } else { since }, transitions)
        } else {
            spec(holder, now(), transitions + 1)
        };
        match self.api.update(&self.key.resource, lease).await {
            Ok(_) => Ok(true),
            Err(error) if error.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Gives the lease back, if it is still ours.
    async fn release(&self) {
        let giving = async {
            let present = self.api.get(&self.key).await?;
            match text(&present, "/spec/holderIdentity") == self.identity {
                true => self.write(&present, "").await,
                false => Ok(false),
            }
        };
        if let Ok(Err(error)) = timeout(WIND_DOWN, giving).await {
            debug!(lease = self.key.name, %error, "cannot give the lease back");
        }
    }
}

fn lasts(lease: &Value) -> Duration {
    let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64);
    seconds.map_or(LEASE, Duration::from_secs)
}

fn spec(holder: &str, acquired: String, transitions: i64) -> Value {
    json!({
        "holderIdentity": holder,
        "leaseDurationSeconds": LEASE.as_secs(),
        "acquireTime": acquired,
        "renewTime": now(),
        "leaseTransitions": transitions,
    })
}

/// Now as Kubernetes' `MicroTime`.
fn now() -> String {
    Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}
