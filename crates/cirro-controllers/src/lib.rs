//! One reconciler per kind: deployments, replica sets, endpoints and their mirrors, protection of storage, garbage, namespaces, accounts,
//! aggregated roles, disruption budgets, what ends by itself.
//!
//! Each follows the caches of the kinds that it reads, takes one key at a time, compares desired and actual, and
//! makes one safe step. Decisions of some weight are pure functions (`deployment::plan`).

mod accounts;
mod caches;
mod cluster_roles;
mod deployment;
mod disruption;
mod endpoints;
mod expiry;
mod garbage;
mod mirroring;
mod namespace;
mod ownership;
mod pods;
mod protection;
mod replicaset;
mod slices;

pub use accounts::publish_root_ca;

use std::sync::Arc;

use cirro_client::{Cache, EventRecorder};
use cirro_seams::api::{Api, Resource, ResourceInfo};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use caches::Caches;

/// What all controllers share.
struct Context {
    api: Arc<dyn Api>,
    stop: CancellationToken,
    caches: Caches,
    deployments: Cache,
    replica_sets: Cache,
    pods: Cache,
}

impl Context {
    fn cache(&self, group: &str, plural: &str) -> Cache {
        self.caches.get(&Resource::new(group, plural))
    }

    fn events(&self, component: &str) -> EventRecorder {
        EventRecorder::start(self.api.clone(), component, None)
    }
}

/// Runs every controller until `stop` is cancelled. `kinds` are those that the API serves, as they change.
pub async fn run(api: Arc<dyn Api>, kinds: watch::Receiver<Vec<ResourceInfo>>, stop: CancellationToken) {
    let caches = Caches::new(api.clone(), stop.clone());
    let cache = |group, plural| caches.get(&Resource::new(group, plural));
    let context = Arc::new(Context {
        deployments: cache("apps", "deployments"),
        replica_sets: cache("apps", "replicasets"),
        pods: cache("", "pods"),
        api: api.clone(),
        stop: stop.clone(),
        caches,
    });
    for cache in [&context.deployments, &context.replica_sets, &context.pods] {
        cache.synced().await;
    }
    let mut controllers = tokio::task::JoinSet::new();
    controllers.spawn(deployment::run(context.clone()));
    controllers.spawn(replicaset::run(context.clone()));
    controllers.spawn(endpoints::run(context.clone()));
    controllers.spawn(mirroring::run(context.clone()));
    controllers.spawn(protection::run(context.clone()));
    controllers.spawn(disruption::run(context.clone()));
    controllers.spawn(garbage::run(context.clone(), kinds.clone()));
    controllers.spawn(expiry::run(context.clone()));
    controllers.spawn(accounts::run(context.clone()));
    controllers.spawn(cluster_roles::run(context.clone()));
    controllers.spawn(namespace::run(context, kinds));
    while controllers.join_next().await.is_some() {}
}
