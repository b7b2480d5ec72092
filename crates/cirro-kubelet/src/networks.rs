//! Tenants' networks: VPCs, subnets and security groups, handed to the engine whole.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Cache, EventRecorder, Severity, name, namespace};
use cirro_seams::api::Resource;
use cirro_seams::node::TenantNetworks;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::Kubelet;

const GATHER: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the engine's tenants' networks in step with the API.
pub(crate) async fn run(kubelet: Arc<Kubelet>, stop: CancellationToken) {
    let cache =
        |plural| Cache::start(kubelet.api.clone(), Resource::new("network.cirro.dev", plural), stop.clone());
    let caches = [cache("vpcs"), cache("subnets"), cache("securitygroups")];
    let changed = Arc::new(Notify::new());
    for cache in &caches {
        cache.synced().await;
        let changed = changed.clone();
        cache.on_change(move |_, _| changed.notify_one());
    }
    // Even an empty state is told once: what is left from earlier goes.
    changed.notify_one();
    let mut told = None;
    let mut retry = false;
    loop {
        let pause = async {
            if retry {
                tokio::time::sleep(RETRY).await;
            } else {
                changed.notified().await;
                tokio::time::sleep(GATHER).await;
            }
        };
        if stop.run_until_cancelled(pause).await.is_none() {
            return;
        }
        let networks = TenantNetworks {
            vpcs: specs(&kubelet.events, &caches[0]),
            subnets: specs(&kubelet.events, &caches[1]),
            groups: specs(&kubelet.events, &caches[2]),
        };
        if told.as_ref() == Some(&networks) {
            continue;
        }
        retry = match kubelet.engine.set_tenant_networks(networks.clone()).await {
            Ok(()) => {
                told = Some(networks);
                false
            }
            Err(error) => {
                warn!(%error, "cannot set the tenants' networks");
                true
            }
        };
    }
}

fn specs<T: DeserializeOwned>(events: &EventRecorder, cache: &Cache) -> BTreeMap<(String, String), T> {
    let each = cache.list().into_iter().filter_map(|object| {
        let key = (namespace(&object).to_owned(), name(&object).to_owned());
        match T::deserialize(object.get("spec").unwrap_or(&Value::Null)) {
            Ok(spec) => Some((key, spec)),
            Err(error) => {
                events.record(&object, Severity::Warning, "InvalidSpec", error.to_string());
                None
            }
        }
    });
    each.collect()
}
