//! Writes a service's backends: EndpointSlices, and the older Endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_client::{
    Cache, Next, Object, WorkQueue, key_of, matches_labels, name, namespace, namespaced_name, text, uid,
};
use cirro_seams::api::{ApiError, Resource};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::Context;
use crate::pods::{is_deleting, is_ready};
use crate::slices::{MANAGED_LABEL, SERVICE_LABEL, Writer, delete, same};

const MANAGER: &str = "endpointslice-controller.k8s.io";
/// The API's limit of endpoints in one slice.
const MOST_IN_SLICE: usize = 1000;

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
    controller.listen(&queue);
    let controller = Arc::new(controller);
    let stop = controller.context.stop.clone();
    cirro_client::run("endpoints", queue, 2, stop, move |key| {
        let controller = controller.clone();
        async move { controller.reconcile(key).await }
    })
    .await;
}

impl Controller {
    fn listen(&self, queue: &Arc<WorkQueue<Key>>) {
        let own = queue.clone();
        self.services.on_change(move |old, new| {
            if let Some(service) = new.or(old) {
                own.add(service.place());
            }
        });
        let (pods, services) = (queue.clone(), self.services.clone());
        self.context.pods.on_change(move |old, new| {
            let Some(of) = new.or(old).map(|pod| &pod.head().namespace) else { return };
            let mut concerned = services.in_namespace(of);
            concerned.retain(|service| {
                [old, new].into_iter().flatten().any(|pod| selects_labels(service, &pod.head().labels()))
            });
            // Decoded only when somebody cares.
            if !concerned.is_empty() && old.map(|pod| essence(pod)) != new.map(|pod| essence(pod)) {
                concerned.iter().for_each(|service| pods.add(namespaced_name(service)));
            }
        });
        // Somebody else may change or delete what is written here.
        let slices = queue.clone();
        self.slices.on_change(move |old, new| {
            let Some(head) = new.or(old).map(Object::head) else { return };
            let labels = head.labels();
            if labels.get(MANAGED_LABEL) == Some(&MANAGER) {
                let service = labels.get(SERVICE_LABEL).copied().unwrap_or_default();
                slices.add((head.namespace.to_string(), service.to_owned()));
            }
        });
    }

    async fn reconcile(&self, (of, name): Key) -> Result<Next, ApiError> {
        let service = self.services.get(&of, &name);
        let wanted = match &service {
            Some(service) if has_selector(service) && !is_deleting(service) => {
                let pods = self.context.pods.select(&of, |pod| selects_labels(service, &pod.labels()));
                let groups = group(service, &pods);
                self.write_endpoints(service, &groups).await?;
                slices(service, &groups)
            }
            // Without a selector the slices are somebody else's.
            Some(service) if !is_deleting(service) => return Ok(Next::Wait),
            _ => {
                self.delete_endpoints(&of, &name).await?;
                Vec::new()
            }
        };
        self.write_slices(&of, &name, &wanted).await?;
        Ok(Next::Wait)
    }

    async fn write_slices(&self, of: &str, service: &str, wanted: &[Value]) -> Result<(), ApiError> {
        let (api, slices) = (&*self.context.api, &self.slices);
        Writer { api, slices, manager: MANAGER, parts: &["/endpoints", "/ports"] }
            .write(of, service, wanted)
            .await
    }

    async fn write_endpoints(&self, service: &Value, groups: &Groups) -> Result<(), ApiError> {
        let resource = Resource::new("", "endpoints");
        let wanted = endpoints(service, groups);
        match self.endpoints.get(namespace(service), name(service)) {
            Some(existing) if same(&existing, &wanted, &["/subsets"]) => {}
            Some(existing) => {
                let mut updated = (*existing).clone();
                updated["subsets"] = wanted["subsets"].clone();
                self.context.api.update(&resource, updated).await?;
            }
            None => {
                self.context.api.create(&resource, wanted).await?;
            }
        }
        Ok(())
    }

    async fn delete_endpoints(&self, of: &str, name: &str) -> Result<(), ApiError> {
        match self.endpoints.get(of, name) {
            Some(existing) => {
                let key = key_of(&Resource::new("", "endpoints"), &existing);
                delete(&*self.context.api, &key, uid(&existing)).await
            }
            None => Ok(()),
        }
    }
}

/// Backends by the ports that they resolve the service's to.
type Groups = BTreeMap<Vec<ResolvedPort>, Vec<Value>>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ResolvedPort {
    name: String,
    port: i64,
    protocol: String,
}

/// What of a pod its services care about.
fn essence(pod: &Value) -> (String, bool, bool, bool, Value) {
    let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    (
        text(pod, "/status/podIP").into(),
        is_ready(pod),
        is_deleting(pod),
        ended,
        pod["metadata"]["labels"].clone(),
    )
}

fn has_selector(service: &Value) -> bool {
    service["spec"]["selector"].as_object().is_some_and(|selector| !selector.is_empty())
        && text(service, "/spec/type") != "ExternalName"
}

fn selects_labels(service: &Value, labels: &BTreeMap<&str, &str>) -> bool {
    has_selector(service) && matches_labels(&service["spec"]["selector"], labels)
}

fn group(service: &Value, pods: &[Arc<Value>]) -> Groups {
    let publish_unready = service["spec"]["publishNotReadyAddresses"] == true;
    let mut groups = Groups::new();
    for pod in pods {
        let address = text(pod, "/status/podIP");
        if address.is_empty() || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            continue;
        }
        let (ready, deleting) = (is_ready(pod), is_deleting(pod));
        let mut endpoint = json!({
            "addresses": [address],
            "conditions": {"ready": publish_unready || (ready && !deleting), "serving": ready, "terminating": deleting},
            "targetRef": {"kind": "Pod", "namespace": namespace(pod), "name": name(pod), "uid": uid(pod)},
            "nodeName": pod["spec"]["nodeName"],
        });
        let (hostname, subdomain) = (text(pod, "/spec/hostname"), text(pod, "/spec/subdomain"));
        if !hostname.is_empty() && subdomain == name(service) {
            endpoint["hostname"] = hostname.into();
        }
        groups.entry(resolve(service, pod)).or_default().push(endpoint);
    }
    groups
}

/// Looks a service's target ports up in a pod; ports that the pod does not have are left out.
fn resolve(service: &Value, pod: &Value) -> Vec<ResolvedPort> {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    ports
        .filter_map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let target = match &port["targetPort"] {
                Value::Number(number) => {
                    number.as_i64().filter(|number| *number > 0).or_else(|| port["port"].as_i64())
                }
                Value::String(wanted) => named_port(pod, wanted, protocol),
                _ => port["port"].as_i64(),
            };
            Some(ResolvedPort { name: text(port, "/name").into(), port: target?, protocol: protocol.into() })
        })
        .collect()
}

fn named_port(pod: &Value, wanted: &str, protocol: &str) -> Option<i64> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let mut ports = containers.filter_map(|container| container["ports"].as_array()).flatten();
    let fits =
        |port: &&Value| port["name"] == wanted && port["protocol"].as_str().unwrap_or("TCP") == protocol;
    ports.find(fits)?["containerPort"].as_i64()
}

fn port_values(ports: &[ResolvedPort]) -> Vec<Value> {
    ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.port, "protocol": port.protocol}))
        .collect()
}

fn slices(service: &Value, groups: &Groups) -> Vec<Value> {
    let mut slices = Vec::new();
    let parts = groups
        .iter()
        .flat_map(|(ports, endpoints)| endpoints.chunks(MOST_IN_SLICE).map(move |part| (ports, part)));
    for (index, (ports, part)) in parts.enumerate() {
        slices.push(slice(service, index, port_values(ports), part.to_vec()));
    }
    // A service without backends has an empty slice, so that its watchers know.
    if slices.is_empty() {
        slices.push(slice(service, 0, Vec::new(), Vec::new()));
    }
    slices
}

fn slice(service: &Value, index: usize, ports: Vec<Value>, endpoints: Vec<Value>) -> Value {
    let digest = hex::encode(Sha256::digest(format!("{}/{index}", uid(service))));
    let mut labels = service["metadata"]["labels"].as_object().cloned().unwrap_or_default();
    labels.insert(SERVICE_LABEL.into(), name(service).into());
    labels.insert(MANAGED_LABEL.into(), MANAGER.into());
    if text(service, "/spec/clusterIP") == "None" {
        labels.insert("service.kubernetes.io/headless".into(), "".into());
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}", name(service), &digest[..5]),
            "namespace": namespace(service),
            "labels": labels,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Service", "name": name(service), "uid": uid(service),
                "controller": true, "blockOwnerDeletion": true}],
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    })
}

fn endpoints(service: &Value, groups: &Groups) -> Value {
    let subsets: Vec<Value> = groups
        .iter()
        .filter_map(|(ports, endpoints)| {
            let addresses = |ready: bool| -> Vec<Value> {
                let fitting = endpoints.iter().filter(|endpoint| endpoint["conditions"]["ready"] == ready);
                // What is going is in neither list.
                let staying = fitting.filter(|endpoint| endpoint["conditions"]["terminating"] != true);
                staying
                    .map(|endpoint| {
                        json!({"ip": endpoint["addresses"][0], "nodeName": endpoint["nodeName"],
                            "targetRef": endpoint["targetRef"]})
                    })
                    .collect()
            };
            let (ready, unready) = (addresses(true), addresses(false));
            if ready.is_empty() && unready.is_empty() {
                return None;
            }
            let mut subset = json!({"ports": port_values(ports)});
            for (member, list) in [("addresses", ready), ("notReadyAddresses", unready)] {
                if !list.is_empty() {
                    subset[member] = list.into();
                }
            }
            Some(subset)
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": name(service),
            "namespace": namespace(service),
            "labels": service["metadata"]["labels"],
        },
        "subsets": subsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Value {
        json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": {"selector": {"app": "x"},
            "ports": [{"name": "http", "port": 80, "targetPort": "main", "protocol": "TCP"}, {"port": 9, "targetPort": 9}]}})
    }

    fn pod(name: &str, address: &str, ready: bool, port: i64) -> Arc<Value> {
        let status = if ready { "True" } else { "False" };
        Arc::new(json!({"metadata": {"name": name, "namespace": "ns", "labels": {"app": "x"}},
            "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "main", "containerPort": port}]}]},
            "status": {"podIP": address, "phase": "Running", "conditions": [{"type": "Ready", "status": status}]}}))
    }

    #[test]
    fn backends_are_grouped_by_the_ports_that_they_have() {
        let pods = [
            pod("a", "10.0.0.1", true, 8080),
            pod("b", "10.0.0.2", false, 8080),
            pod("c", "10.0.0.3", true, 90),
        ];
        let groups = group(&service(), &pods);
        let made = slices(&service(), &groups);
        assert_eq!(made.len(), 2);
        assert_eq!(made[0]["ports"][0]["port"], 90);
        assert_eq!(made[1]["endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(made[1]["endpoints"][1]["conditions"]["ready"], false);
        assert_ne!(made[0]["metadata"]["name"], made[1]["metadata"]["name"]);
        let older = endpoints(&service(), &groups);
        assert_eq!(older["subsets"][1]["addresses"][0]["ip"], "10.0.0.1");
        assert_eq!(older["subsets"][1]["notReadyAddresses"][0]["ip"], "10.0.0.2");
    }

    #[test]
    fn a_pod_that_is_going_serves_but_is_not_ready() {
        let mut going = (*pod("a", "10.0.0.1", true, 80)).clone();
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let groups = group(&service(), &[Arc::new(going)]);
        let made = slices(&service(), &groups);
        let conditions = &made[0]["endpoints"][0]["conditions"];
        assert_eq!(*conditions, json!({"ready": false, "serving": true, "terminating": true}));
        assert_eq!(endpoints(&service(), &groups)["subsets"], json!([]));
    }
}
