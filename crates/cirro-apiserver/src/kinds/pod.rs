//! core/v1 Pod: defaults of pod specs (templates share them), what a pod may change.

use cirro_seams::api::DeleteOptions;
use serde_json::{Value, json};

use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::validate;

/// Returns the kind.
pub(crate) fn kind() -> Kind {
    Kind::namespaced("", "v1", "Pod", "pods")
        .short(&["po"])
        .category("all")
        .schema("io.k8s.api.core.v1.Pod")
        .subresources(&[
            Subresource::Status,
            Subresource::Log,
            Subresource::Exec,
            Subresource::Attach,
            Subresource::PortForward,
            Subresource::Proxy("PodProxyOptions"),
            Subresource::Binding,
            Subresource::Eviction,
            Subresource::EphemeralContainers,
            Subresource::Resize,
        ])
        .selectable(&[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ])
        .columns(crate::table::pod::columns())
        .strategy(&Pod)
}

struct Pod;

impl Strategy for Pod {
    fn defaults(&self, pod: &mut Value) {
        pod_spec_defaults(&mut pod["spec"]);
        // Limits are requests that were not made; templates do not get this, as upstream.
        for list in ["containers", "initContainers"] {
            for container in json::elements_mut(&mut pod["spec"], list) {
                requests_from_limits(container);
            }
        }
    }

    fn prepare_create(&self, pod: &mut Value) {
        // What the Priority admission of upstream sets when no class is named.
        let spec = json::object_mut(pod, "spec");
        spec.entry("priority").or_insert(0.into());
        spec.entry("preemptionPolicy").or_insert("PreemptLowerPriority".into());
        let class = quality_of_service(&pod["spec"]);
        pod["status"] = json!({"phase": "Pending", "qosClass": class});
    }

    fn prepare_update(&self, pod: &mut Value, old: &Value) {
        for member in ["priority", "preemptionPolicy", "nodeName"] {
            if pod["spec"].get(member).is_none()
                && let Some(value) = old["spec"].get(member)
            {
                pod["spec"][member] = value.clone();
            }
        }
    }

    fn validate(&self, pod: &Value, causes: &mut Causes) {
        validate::pod::spec("spec", &pod["spec"], causes);
        if !json::array(pod, "spec.ephemeralContainers").is_empty() {
            causes.forbidden("spec.ephemeralContainers", "cannot be set on create");
        }
    }

    fn validate_change(&self, pod: &Value, old: &Value, causes: &mut Causes) {
        validate::pod::spec("spec", &pod["spec"], causes);
        self.validate_update(pod, old, causes);
    }

    fn with_part(&self, part: Subresource, new: &Value, old: &Value) -> Value {
        match part {
            Subresource::EphemeralContainers => validate::pod::ephemeral::with(new, old),
            Subresource::Resize => validate::pod::resize::with(new, old),
            _ => old.clone(),
        }
    }

    fn validate_part(&self, part: Subresource, pod: &Value, old: &Value, causes: &mut Causes) {
        validate::pod::spec("spec", &pod["spec"], causes);
        match part {
            Subresource::EphemeralContainers => validate::pod::ephemeral::update(pod, old, causes),
            Subresource::Resize => validate::pod::resize::update(pod, old, causes),
            _ => self.validate_update(pod, old, causes),
        }
    }

    fn validate_update(&self, pod: &Value, old: &Value, causes: &mut Causes) {
        validate::pod::update(pod, old, causes);
    }

    fn grace(&self, pod: &Value, options: &DeleteOptions) -> Option<i64> {
        super::core::pod_grace(pod, options)
    }
}

/// Fills in a pod's spec.
///
/// Source: `pkg/apis/core/v1/defaults.go`.
pub(super) fn pod_spec_defaults(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "securityContext", json!({}));
    if spec["enableServiceLinks"].is_null() {
        spec["enableServiceLinks"] = true.into();
    }
    let host_network = spec["hostNetwork"] == true;
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in json::elements_mut(spec, list) {
            container_defaults(container, host_network);
        }
    }
    json::elements_mut(spec, "volumes").for_each(volume_defaults);
}

fn container_defaults(container: &mut Value, host_network: bool) {
    let policy = if image_is_latest(json::text(container, "image")) { "Always" } else { "IfNotPresent" };
    set_default(container, "imagePullPolicy", policy);
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", json!({}));
    for port in json::elements_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
        if host_network && json::number(port, "hostPort").unwrap_or(0) == 0 {
            port["hostPort"] = port["containerPort"].clone();
        }
    }
    for variable in json::elements_mut(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            set_default(field, "apiVersion", "v1");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|probe| probe.is_object()) {
            probe_defaults(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            http_get_defaults(get);
        }
    }
}

/// Whether an image's tag is `latest` or absent (and no digest pins it).
fn image_is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn probe_defaults(probe: &mut Value) {
    for (member, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        if json::number(probe, member).unwrap_or(0) == 0 {
            probe[member] = value.into();
        }
    }
    if let Some(get) = probe.get_mut("httpGet") {
        http_get_defaults(get);
    }
    if let Some(grpc) = probe.get_mut("grpc") {
        set_default(grpc, "service", "");
    }
}

fn http_get_defaults(get: &mut Value) {
    set_default(get, "path", "/");
    set_default(get, "scheme", "HTTP");
}

fn volume_defaults(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |volume| volume.keys().filter(|key| *key != "name").count());
    if sources == 0 && volume.is_object() {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).filter(|source| source.is_object()) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(host) = volume.get_mut("hostPath").filter(|host| host.is_object()) {
        set_default(host, "type", "");
    }
    let items = ["/downwardAPI/items", "/projected/sources"];
    for list in items.iter().filter_map(|path| volume.pointer(path).map(|_| *path)).collect::<Vec<_>>() {
        for item in volume.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(field) = item.get_mut("fieldRef") {
                set_default(field, "apiVersion", "v1");
            }
            if let Some(token) = item.get_mut("serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = json::object(container, "resources.limits").cloned() else { return };
    let requests = json::object_mut(&mut container["resources"], "requests");
    for (resource, limit) in limits {
        requests.entry(resource).or_insert(limit);
    }
}

/// Returns the class that decides who is evicted first.
pub(crate) fn quality_of_service(spec: &Value) -> &'static str {
    let containers = || json::array(spec, "containers").iter().chain(json::array(spec, "initContainers"));
    let of = |container: &Value, list: &str, resource: &str| {
        json::at(container, "resources").and_then(|all| all.get(list)?.get(resource).cloned())
    };
    let computed = ["cpu", "memory"];
    let any = containers().any(|one| {
        computed
            .iter()
            .any(|resource| of(one, "requests", resource).or_else(|| of(one, "limits", resource)).is_some())
    });
    if !any {
        return "BestEffort";
    }
    let guaranteed = containers().all(|one| {
        computed.iter().all(|resource| {
            let limit = of(one, "limits", resource);
            limit.is_some() && limit == of(one, "requests", resource)
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_gets_upstreams_defaults() {
        let mut pod = json!({"spec": {"containers": [{"name": "web", "image": "helloworld",
            "ports": [{"containerPort": 80}], "readinessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "50m"}}}], "volumes": [{"name": "tmp"}]}});
        Pod.defaults(&mut pod);
        let container = &pod["spec"]["containers"][0];
        assert_eq!(container["imagePullPolicy"], "Always");
        assert_eq!(container["ports"][0]["protocol"], "TCP");
        assert_eq!(container["readinessProbe"]["periodSeconds"], 10);
        assert_eq!(container["readinessProbe"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(container["resources"]["requests"]["cpu"], "50m");
        assert_eq!(pod["spec"]["restartPolicy"], "Always");
        assert_eq!(pod["spec"]["volumes"][0]["emptyDir"], json!({}));
        let once = pod.clone();
        Pod.defaults(&mut pod);
        assert_eq!(pod, once);
    }

    #[test]
    fn only_unpinned_images_are_always_pulled() {
        for (image, latest) in [
            ("a", true),
            ("a:latest", true),
            ("host:5000/a", true),
            ("a:1", false),
            ("host:5000/a:1", false),
            ("a@sha256:0", false),
        ] {
            assert_eq!(image_is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let class = |resources: Value| quality_of_service(&json!({"containers": [{"resources": resources}]}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(json!({"requests": all, "limits": all})), "Guaranteed");
    }
}
