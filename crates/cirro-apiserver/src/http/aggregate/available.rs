//! Whether a remote one can be used: its condition `Available`, with upstream's reasons.
//!
//! Source: kube-aggregator `pkg/controllers/status/remote/remote_available_controller.go`.

use std::sync::{Arc, Weak};
use std::time::Duration;

use cirro_seams::api::ApiError;
use cirro_store::{Change, Record, WatchItem};
use serde_json::Value;
use tokio::sync::mpsc;

use super::{Remote, ServiceReference, Shared, service_kind};
use crate::custom::set_condition;
use crate::json;
use crate::selector::Selector;
use crate::storage::{ListOptions, Place, Storage, Target};

/// How long a look at the server itself may take.
const PATIENCE: Duration = Duration::from_secs(6);
/// Between two looks while it is not well: the first pause, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Largest discovery that is read to the end.
const MAX_DISCOVERY: usize = 4 * 1024 * 1024;
/// The label that says whose endpoints a slice has.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// What a condition says when it does not hold.
type Fault = (&'static str, String);

/// Watches over a remote one until it is replaced.
pub(super) async fn watch_over(storage: Weak<Storage>, shared: Arc<Shared>, remote: Arc<Remote>) {
    let mut pause = FIRST_PAUSE;
    while let Some(now) = storage.upgrade() {
        let mut neighbours = match Neighbours::watch(&now, &remote.service).await {
            Ok(neighbours) => neighbours,
            Err(refusal) => {
                tracing::warn!(%refusal, service = remote.name, "the service of an API cannot be watched");
                drop(now);
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        let fault = look(&now, &shared, &remote).await;
        let (holds, reason, message) = match &fault {
            None => ("True", "Passed", "all checks passed"),
            Some((reason, message)) => ("False", *reason, message.as_str()),
        };
        if let Err(refusal) = write(&now, &remote.name, holds, reason, message).await {
            tracing::warn!(%refusal, service = remote.name, "the condition of an API cannot be written");
        }
        drop(now);
        tokio::select! {
            () = neighbours.changed(&remote.service) => pause = FIRST_PAUSE,
            () = remote.look.notified() => tokio::time::sleep(FIRST_PAUSE).await,
            () = tokio::time::sleep(pause), if fault.is_some() => pause = (pause * 2).min(LONGEST_PAUSE),
        }
    }
}

/// Writes the condition of an APIService, unless it says so already.
pub(super) async fn write(
    storage: &Storage,
    name: &str,
    holds: &str,
    reason: &str,
    message: &str,
) -> Result<(), ApiError> {
    let place = Place { kind: service_kind(storage), namespace: "", name };
    let next = |present: &Value| {
        let mut next = present.clone();
        set_condition(&mut next["status"], "Available", holds, reason, message);
        next
    };
    let present = match storage.get(place).await {
        Err(refusal) if refusal.is_not_found() => return Ok(()),
        present => present?,
    };
    if says(&present, holds, reason, message) {
        return Ok(());
    }
    match storage.modify(place, Target::Status, false, |present| Ok(next(present))).await {
        Err(refusal) if !refusal.is_not_found() => Err(refusal),
        _ => Ok(()),
    }
}

/// Whether an APIService's condition says so.
pub(super) fn says(object: &Value, holds: &str, reason: &str, message: &str) -> bool {
    json::array(object, "status.conditions").iter().any(|one| {
        one["type"] == "Available"
            && one["status"] == holds
            && one["reason"] == reason
            && one["message"] == message
    })
}

/// Looks at the service, its endpoints and the server behind them.
async fn look(storage: &Storage, shared: &Shared, remote: &Remote) -> Option<Fault> {
    let reference = &remote.service;
    let cannot = |refusal: ApiError| {
        let (name, namespace) = (&reference.name, &reference.namespace);
        let message =
            format!("service/{name} in {namespace:?} cannot be checked due to: {}", refusal.message);
        Some(("ServiceAccessError", message))
    };
    let kind = storage.registry.kind("", "services").expect("services are built in");
    let place = Place { kind, namespace: &reference.namespace, name: &reference.name };
    let service = match storage.get(place).await {
        Ok(service) => Some(service),
        Err(refusal) if refusal.is_not_found() => None,
        Err(refusal) => return cannot(refusal),
    };
    let slices = match slices(storage, reference).await {
        Ok(slices) => slices,
        Err(refusal) => return cannot(refusal),
    };
    if let Some(fault) = fault(reference, service.as_deref(), &slices) {
        return Some(fault);
    }
    let path = remote.path();
    let asked = shared.get(storage, remote, &path, MAX_DISCOVERY);
    let url = format!("https://{}:{}{path}", reference.host(), reference.port);
    let why = match tokio::time::timeout(PATIENCE, asked).await {
        Err(_) => format!("timed out waiting for {url}"),
        Ok(Ok((status, _))) if status.is_success() => return None,
        Ok(Ok((status, _))) => {
            format!("failing or missing response from {url}: bad status from {url}: {}", status.as_u16())
        }
        Ok(Err(why)) => format!("failing or missing response from {url}: Get {url:?}: {why}"),
    };
    Some(("FailedDiscoveryCheck", why))
}

async fn slices(storage: &Storage, service: &ServiceReference) -> Result<Vec<Arc<Value>>, ApiError> {
    let kind = storage.registry.kind("discovery.k8s.io", "endpointslices").expect("slices are built in");
    let selector = Selector::parse(kind, &format!("{SERVICE_LABEL}={}", service.name), "")?;
    let options = ListOptions { selector, ..ListOptions::default() };
    let page = storage.list(kind, Some(&service.namespace), &options).await?;
    page.records.iter().map(|record| storage.decoded.decode(record)).collect()
}

/// Finds what the objects alone say against it.
fn fault(reference: &ServiceReference, service: Option<&Value>, slices: &[Arc<Value>]) -> Option<Fault> {
    let ServiceReference { namespace, name, port } = reference;
    let Some(service) = service else {
        return Some(("ServiceNotFound", format!("service/{name} in {namespace:?} is not present")));
    };
    if json::text(service, "spec.type") != "ClusterIP" {
        return None;
    }
    let ports = json::array(service, "spec.ports");
    let Some(found) = ports.iter().find(|one| json::number(one, "port") == Some(*port)) else {
        let message = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(("EndpointsNotFound", message));
    }
    let port_name = json::text(found, "name");
    if !slices.iter().any(|slice| leads_to(slice, port_name)) {
        let message = format!(
            "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
        );
        return Some(("MissingEndpoints", message));
    }
    None
}

fn leads_to(slice: &Value, port_name: &str) -> bool {
    let ready = |one: &Value| one["conditions"]["ready"] != false;
    json::array(slice, "endpoints").iter().any(ready)
        && json::array(slice, "ports")
            .iter()
            .any(|port| json::text(port, "name") == port_name && json::number(port, "port").is_some())
}

/// The changes of what a remote one depends on.
struct Neighbours {
    services: mpsc::Receiver<WatchItem>,
    slices: mpsc::Receiver<WatchItem>,
}

impl Neighbours {
    async fn watch(storage: &Storage, service: &ServiceReference) -> Result<Self, ApiError> {
        let revision = storage.newest_revision().await?;
        let watch = async |group, plural| {
            let kind = storage.registry.kind(group, plural).expect("both are built in");
            storage.watch(kind, Some(&service.namespace), revision).await
        };
        Ok(Self {
            services: watch("", "services").await?,
            slices: watch("discovery.k8s.io", "endpointslices").await?,
        })
    }

    /// Resolves when the service or its endpoints changed, or when that cannot be known.
    async fn changed(&mut self, service: &ServiceReference) {
        let ending = format!("/{}", service.name);
        let of_service = |record: &Record| record.key.ends_with(&ending);
        let of_slice = |record: &Record| {
            let slice: Value = serde_json::from_slice(&record.value).unwrap_or_default();
            slice["metadata"]["labels"][SERVICE_LABEL] == service.name
        };
        tokio::select! {
            () = seen(&mut self.services, of_service) => {}
            () = seen(&mut self.slices, of_slice) => {}
        }
    }
}

async fn seen(changes: &mut mpsc::Receiver<WatchItem>, is_meant: impl Fn(&Record) -> bool) {
    loop {
        match changes.recv().await {
            None | Some(WatchItem::Lost) => return,
            Some(WatchItem::Progress(_)) => {}
            Some(WatchItem::Changes(_, changes)) => {
                let meant = changes.iter().any(|change| match change {
                    Change::Put(now, before) => is_meant(now) || before.as_ref().is_some_and(&is_meant),
                    Change::Delete(_, last) => is_meant(last),
                });
                if meant {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn faults_have_upstreams_reasons_and_texts() {
        let reference = ServiceReference { namespace: "n".into(), name: "s".into(), port: 443 };
        let service =
            |port: i64| json!({"spec": {"type": "ClusterIP", "ports": [{"name": "https", "port": port}]}});
        let slice = |ready: bool, port: &str| {
            Arc::new(json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}],
                "ports": [{"name": port, "port": 8443}]}))
        };
        let told = |service: Option<&Value>, slices: &[Arc<Value>]| fault(&reference, service, slices);
        let expect = |reason, message: &str| Some((reason, message.to_owned()));
        assert_eq!(told(None, &[]), expect("ServiceNotFound", "service/s in \"n\" is not present"));
        let other = service(80);
        let expected = expect("ServicePortError", "service/s in \"n\" is not listening on port 443");
        assert_eq!(told(Some(&other), &[]), expected);
        let service = service(443);
        let expected = expect("EndpointsNotFound", "cannot find endpointslices for service/s in \"n\"");
        assert_eq!(told(Some(&service), &[]), expected);
        let missing = "endpointslices for service/s in \"n\" have no addresses with port name \"https\"";
        for slice in [slice(false, "https"), slice(true, "http")] {
            assert_eq!(told(Some(&service), &[slice]), expect("MissingEndpoints", missing));
        }
        assert_eq!(told(Some(&service), &[slice(false, "https"), slice(true, "https")]), None);
        let external = json!({"spec": {"type": "ExternalName"}});
        assert_eq!(told(Some(&external), &[]), None);
    }
}
