//! Priority and fairness: who floods waits behind himself.
//!
//! ```text
//! request ─▶ FlowSchema (first that fits) ─▶ flow ─▶ PriorityLevelConfiguration: seats, queues ─▶ Seat
//! ```
//! `config` says which requests belong together and what a level may take, as the objects in the store have it;
//! `defaults` makes upstream's objects; `levels` hands out seats. A seat is held until an answer begins: watches, logs
//! and commands hold none while they run.
//!
//! Source: apiserver `pkg/util/flowcontrol`, `pkg/server/filters/priority-and-fairness.go`.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use cirro_seams::api::ApiError;
use cirro_store::{ObjectStore, StoreError, WatchItem};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{Mutex, mpsc};

use crate::auth::User;
use crate::error;
use crate::rbac::Access;

mod config;
pub(crate) mod defaults;
mod levels;

use config::Config;
use levels::{Levels, Seat};

/// The API group.
pub(crate) const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const PREFIX: &str = "/registry/flowcontrol.apiserver.k8s.io/";
/// Requests of all limited levels that run at a time: upstream's 400 that read and 200 that write.
const SEATS: u32 = 600;
/// Longest wait for a seat: a quarter of a request's minute.
const PATIENCE: Duration = Duration::from_secs(15);

/// The seats of a server.
pub(crate) struct Fairness {
    store: Arc<dyn ObjectStore>,
    levels: Arc<Levels>,
    followed: Mutex<Option<Followed>>,
}

struct Followed {
    config: Arc<Config>,
    changes: mpsc::Receiver<WatchItem>,
}

/// Requests that are one to fairness.
pub(crate) struct Flow {
    /// Uids of the FlowSchema and of the PriorityLevelConfiguration, for the answer's head.
    schema_uid: String,
    level_uid: String,
    level: String,
    hash: u64,
}

impl Flow {
    /// Says in an answer's head which flow it was.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [
            ("x-kubernetes-pf-flowschema-uid", &self.schema_uid),
            ("x-kubernetes-pf-prioritylevel-uid", &self.level_uid),
        ] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

impl Fairness {
    /// Hands out the seats that the objects of a store say.
    pub(crate) fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, levels: Levels::new(SEATS), followed: Mutex::new(None) }
    }

    /// Finds the flow of a request.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn flow(&self, user: &User, access: &Access) -> Result<Flow, ApiError> {
        Ok(self.config().await?.flow(user, access))
    }

    /// Waits for a seat.
    ///
    /// # Errors
    /// 429 when too many requests of the flow wait already, or when it waited too long.
    pub(crate) async fn seat(&self, flow: &Flow) -> Result<Seat, ApiError> {
        let seat = self.levels.seat(&flow.level, flow.hash).ok_or_else(error::too_many_requests)?;
        match tokio::time::timeout(PATIENCE, seat).await {
            Ok(seat) => Ok(seat),
            Err(_) => Err(error::too_many_requests()),
        }
    }

    async fn config(&self) -> Result<Arc<Config>, ApiError> {
        let mut followed = self.followed.lock().await;
        if let Some(present) = followed.as_mut()
            && present.is_current()
        {
            return Ok(present.config.clone());
        }
        *followed = None;
        let loaded = self.load().await.map_err(|source| error::store(source, self.store.revision()))?;
        self.levels.configure(&loaded.config);
        Ok(followed.insert(loaded).config.clone())
    }

    async fn load(&self) -> Result<Followed, StoreError> {
        let listing = self.store.list(PREFIX, None, 0, 0).await?;
        let changes = self.store.watch(PREFIX, listing.revision).await?;
        Ok(Followed { config: Arc::new(Config::read(&listing.records)), changes })
    }
}

impl Followed {
    /// Whether nothing happened; the status of an object counts as something, and is rare.
    fn is_current(&mut self) -> bool {
        loop {
            match self.changes.try_recv() {
                Ok(WatchItem::Progress(_)) => {}
                Err(TryRecvError::Empty) => return true,
                Ok(_) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }
}
