//! Mirrors Endpoints that somebody writes for a service without a selector into EndpointSlices, which the proxy reads.
//!
//! Source: `pkg/controller/endpointslicemirroring`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cirro_client::{Cache, Next, Object, WorkQueue, labels, name, namespace, text, uid};
use cirro_seams::api::ApiError;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Context;
use crate::pods::is_deleting;
use crate::slices::{MANAGED_LABEL, SERVICE_LABEL, Writer};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints alone.
const OWN_ANNOTATIONS: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];
/// What of a slice follows the Endpoints.
const PARTS: [&str; 4] = ["/endpoints", "/ports", "/metadata/labels", "/metadata/annotations"];
/// So many addresses of a subset are mirrored.
const MOST_OF_SUBSET: usize = 1000;

type Key = (String, String);

struct Controller {
    context: Arc<Context>,
    services: Cache,
    slices: Cache,
    endpoints: Cache,
}

/// Runs the controller until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let queue: Arc<WorkQueue<Key>> = WorkQueue::new();
    let controller = Controller {
        services: context.cache("", "services"),
        slices: context.cache("discovery.k8s.io", "endpointslices"),
        endpoints: context.cache("", "endpoints"),
        context,
    };
    for cache in [&controller.services, &controller.slices, &controller.endpoints] {
        cache.synced().await;
    }
    for cache in [&controller.services, &controller.endpoints] {
        let own = queue.clone();
        cache.on_change(move |old, new| {
            if let Some(object) = new.or(old) {
                own.add(object.place());
            }
        });
    }
    let slices = queue.clone();
    controller.slices.on_change(move |old, new| {
        let Some(head) = new.or(old).map(Object::head) else { return };
        let labels = head.labels();
        if labels.get(MANAGED_LABEL) == Some(&MANAGER) {
            let service = labels.get(SERVICE_LABEL).copied().unwrap_or_default();
            slices.add((head.namespace.to_string(), service.to_owned()));
        }
    });
    let controller = Arc::new(controller);
    let stop = controller.context.stop.clone();
    cirro_client::run("mirroring", queue, 1, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
    .await;
}

impl Controller {
    async fn reconcile(&self, (of, called): Key) -> Result<Next, ApiError> {
        let service = self.services.get(&of, &called);
        let endpoints = self.endpoints.get(&of, &called).filter(|endpoints| is_mirrored(endpoints));
        let wanted = match (&service, &endpoints) {
            (Some(service), Some(endpoints)) if !has_selector(service) => mirrored(endpoints),
            _ => Vec::new(),
        };
        let (api, slices) = (&*self.context.api, &self.slices);
        Writer { api, slices, manager: MANAGER, parts: &PARTS }.write(&of, &called, &wanted).await?;
        Ok(Next::Wait)
    }
}

fn has_selector(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty())
}

fn is_mirrored(endpoints: &Value) -> bool {
    let leads = endpoints["metadata"]["annotations"].get(LEADER_ANNOTATION).is_some();
    !is_deleting(endpoints) && !leads && labels(endpoints).get(SKIP_LABEL) != Some(&"true")
}

/// Returns the slices of Endpoints: one for each subset and family of addresses.
fn mirrored(endpoints: &Value) -> Vec<Value> {
    let mut slices = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let mut families: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        let lists = [("addresses", true), ("notReadyAddresses", false)];
        let all = lists.iter().flat_map(|(list, ready)| {
            subset[*list].as_array().into_iter().flatten().map(move |address| (address, *ready))
        });
        for (address, ready) in all.take(MOST_OF_SUBSET) {
            let family = match text(address, "/ip").parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => "IPv4",
                Ok(IpAddr::V6(_)) => "IPv6",
                Err(_) => continue,
            };
            families.entry(family).or_default().push(endpoint(address, ready));
        }
        for (family, list) in families {
            slices.push(slice(endpoints, slices.len(), family, &subset["ports"], list));
        }
    }
    slices
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
    for member in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = address.get(member).filter(|value| !value.is_null()) {
            endpoint[member] = value.clone();
        }
    }
    endpoint
}

fn slice(endpoints: &Value, index: usize, family: &str, ports: &Value, list: Vec<Value>) -> Value {
    let digest = hex::encode(Sha256::digest(format!("{}/{index}", uid(endpoints))));
    let metadata = &endpoints["metadata"];
    let mut labels = metadata["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name(endpoints).into());
    labels.insert(MANAGED_LABEL.into(), MANAGER.into());
    let mut annotations = metadata["annotations"].as_object().cloned().unwrap_or_default();
    annotations.retain(|key, _| !OWN_ANNOTATIONS.contains(&key.as_str()));
    // Endpoints name a port when there are several; slices always do.
    let mut ports = ports.as_array().cloned().unwrap_or_default();
    ports.iter_mut().filter(|port| port["name"].is_null()).for_each(|port| port["name"] = "".into());
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}", name(endpoints), &digest[..5]),
            "namespace": namespace(endpoints),
            "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Endpoints", "name": name(endpoints), "uid": uid(endpoints),
                "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": family,
        "endpoints": list,
        "ports": ports,
    });
    if !annotations.is_empty() {
        slice["metadata"]["annotations"] = annotations.into();
    }
    slice
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::same;

    fn endpoints() -> Value {
        json!({"metadata": {"name": "db", "namespace": "ns", "uid": "u", "labels": {"a": "b"},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "note": "x"}},
            "subsets": [{"addresses": [{"ip": "192.0.2.1", "nodeName": "n"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 5432, "protocol": "TCP"}]}]})
    }

    #[test]
    fn each_family_of_a_subset_is_a_slice() {
        let made = mirrored(&endpoints());
        assert_eq!(
            (made.len(), &made[0]["addressType"], &made[1]["addressType"]),
            (2, &json!("IPv4"), &json!("IPv6"))
        );
        assert_eq!(
            made[0]["endpoints"][0],
            json!({"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "nodeName": "n"})
        );
        assert_eq!(made[0]["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(made[0]["ports"], json!([{"name": "", "port": 5432, "protocol": "TCP"}]));
        assert_eq!(
            made[0]["metadata"]["labels"],
            json!({"a": "b", SERVICE_LABEL: "db", MANAGED_LABEL: MANAGER})
        );
        assert_eq!(made[0]["metadata"]["annotations"], json!({"note": "x"}));
        assert_ne!(made[0]["metadata"]["name"], made[1]["metadata"]["name"]);
        assert!(same(&made[0], &made[0].clone(), &PARTS) && !same(&made[0], &made[1], &PARTS));
    }

    #[test]
    fn some_are_not_mirrored() {
        assert!(is_mirrored(&endpoints()));
        let mut skipped = endpoints();
        skipped["metadata"]["labels"][SKIP_LABEL] = "true".into();
        assert!(!is_mirrored(&skipped));
        let mut leads = endpoints();
        leads["metadata"]["annotations"][LEADER_ANNOTATION] = "{}".into();
        assert!(!is_mirrored(&leads));
        assert!(
            has_selector(&json!({"spec": {"selector": {"a": "b"}}})) && !has_selector(&json!({"spec": {}}))
        );
    }
}
