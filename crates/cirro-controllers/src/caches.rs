//! One cache for each kind, however many controllers follow it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cirro_client::Cache;
use cirro_seams::api::{Api, Resource};
use tokio_util::sync::CancellationToken;

/// The caches of all controllers.
pub(crate) struct Caches {
    api: Arc<dyn Api>,
    stop: CancellationToken,
    started: Mutex<HashMap<Resource, (Cache, CancellationToken)>>,
}

impl Caches {
    /// Begins with none; those that are started end with `stop`.
    pub(crate) fn new(api: Arc<dyn Api>, stop: CancellationToken) -> Self {
        Self { api, stop, started: Mutex::default() }
    }

    /// Returns the cache of a kind, started if it is not.
    pub(crate) fn get(&self, resource: &Resource) -> Cache {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        let (cache, _) = started.entry(resource.clone()).or_insert_with(|| {
            let stop = self.stop.child_token();
            (Cache::start(self.api.clone(), resource.clone(), stop.clone()), stop)
        });
        cache.clone()
    }

    /// Ends the cache of a kind that is served no more.
    pub(crate) fn end(&self, resource: &Resource) {
        let ended = self.started.lock().unwrap_or_else(PoisonError::into_inner).remove(resource);
        if let Some((_, stop)) = ended {
            stop.cancel();
        }
    }
}
