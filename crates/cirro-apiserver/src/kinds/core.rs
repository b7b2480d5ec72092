//! core/v1, pods and services apart.

use cirro_seams::api::DeleteOptions;
use serde_json::{Value, json};

use super::{event, pod, service};
use crate::error::Causes;
use crate::json;
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::core as columns;
use crate::validate::{self, NameRule, names};

/// Largest sum of the values of a ConfigMap or a Secret.
const MAX_DATA: usize = 1024 * 1024;

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster("", "v1", "Namespace", "namespaces")
            .short(&["ns"])
            .schema("io.k8s.api.core.v1.Namespace")
            .subresources(&[Subresource::Status, Subresource::Finalize])
            .selectable(&["status.phase"])
            .columns(columns::namespace())
            .strategy(&Namespace),
        Kind::cluster("", "v1", "Node", "nodes")
            .short(&["no"])
            .schema("io.k8s.api.core.v1.Node")
            .subresources(&[Subresource::Status, Subresource::Proxy("NodeProxyOptions")])
            .selectable(&["spec.unschedulable"])
            .columns(columns::node())
            .strategy(&Node),
        pod::kind(),
        service::kind(),
        Kind::namespaced("", "v1", "Endpoints", "endpoints")
            .short(&["ep"])
            .schema("io.k8s.api.core.v1.Endpoints")
            .columns(columns::endpoints())
            .strategy(&Endpoints),
        Kind::namespaced("", "v1", "ConfigMap", "configmaps")
            .short(&["cm"])
            .schema("io.k8s.api.core.v1.ConfigMap")
            .columns(columns::config_map())
            .strategy(&ConfigMap),
        Kind::namespaced("", "v1", "Secret", "secrets")
            .schema("io.k8s.api.core.v1.Secret")
            .selectable(&["type"])
            .columns(columns::secret())
            .strategy(&Secret),
        Kind::namespaced("", "v1", "ServiceAccount", "serviceaccounts")
            .short(&["sa"])
            .schema("io.k8s.api.core.v1.ServiceAccount")
            .subresources(&[Subresource::Token])
            .columns(columns::service_account()),
        event::kind(),
    ]
}

struct Namespace;

impl Strategy for Namespace {
    fn is_immortal(&self, name: &str) -> bool {
        matches!(name, "default" | "kube-system" | "kube-public")
    }

    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn defaults(&self, object: &mut Value) {
        let name = json::name(object).to_owned();
        let metadata = json::object_mut(object, "metadata");
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if !name.is_empty() {
            labels["kubernetes.io/metadata.name"] = name.into();
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        crate::admission::check_labels(object, causes);
    }

    fn prepare_create(&self, object: &mut Value) {
        let spec = json::object_mut(object, "spec");
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(finalizers) = finalizers.as_array_mut()
            && !finalizers.iter().any(|one| one == "kubernetes")
        {
            finalizers.push("kubernetes".into());
        }
        object["status"] = json!({"phase": "Active"});
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        object["spec"] = old["spec"].clone();
    }

    fn begin_deletion(&self, object: &mut Value) {
        object["status"]["phase"] = "Terminating".into();
    }

    fn kept_by(&self, object: &Value) -> bool {
        !json::array(object, "spec.finalizers").is_empty()
    }
}

struct Node;

impl Strategy for Node {
    fn keeps_status_at_creation(&self) -> bool {
        true
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        for field in ["spec.podCIDR", "spec.providerID"] {
            if json::at(old, field).is_some() && json::at(object, field) != json::at(old, field) {
                causes.forbidden(field, "node updates may not change this field once it is set");
            }
        }
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn defaults(&self, object: &mut Value) {
        for subset in json::elements_mut(object, "subsets") {
            for port in json::elements_mut(subset, "ports") {
                json::set_default(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        for (at, subset) in json::array(object, "subsets").iter().enumerate() {
            for list in ["addresses", "notReadyAddresses"] {
                for (index, address) in json::array(subset, list).iter().enumerate() {
                    let ip = json::text(address, "ip");
                    if ip.parse::<std::net::IpAddr>().is_err() {
                        let field = format!("subsets[{at}].{list}[{index}].ip");
                        causes.invalid(
                            &field,
                            &ip.into(),
                            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                        );
                    }
                }
            }
            for (index, port) in json::array(subset, "ports").iter().enumerate() {
                if let Err(why) = names::port(json::number(port, "port").unwrap_or(0)) {
                    causes.invalid(&format!("subsets[{at}].ports[{index}].port"), &port["port"], &why);
                }
            }
        }
    }
}

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, object: &Value, causes: &mut Causes) {
        check_keys(object, &["data", "binaryData"], causes);
        for key in json::object(object, "binaryData").into_iter().flatten().map(|(key, _)| key) {
            if json::object(object, "data").is_some_and(|data| data.contains_key(key)) {
                let detail = "duplicate of key present in data";
                causes.invalid(&format!("binaryData[{key}]"), &key.as_str().into(), detail);
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        check_immutable(object, old, &["data", "binaryData"], causes);
    }
}

fn check_keys(object: &Value, members: &[&str], causes: &mut Causes) {
    let mut size = 0;
    for member in members {
        for (key, value) in json::object(object, member).into_iter().flatten() {
            size += value.as_str().map_or(0, str::len);
            if let Err(why) = names::config_key(key) {
                causes.invalid(&format!("{member}[{key}]"), &key.as_str().into(), &why);
            }
        }
    }
    if size > MAX_DATA {
        causes.too_long(members[0], &format!("may not be more than {MAX_DATA} bytes"));
    }
}

fn check_immutable(object: &Value, old: &Value, members: &[&str], causes: &mut Causes) {
    if old["immutable"] != true {
        return;
    }
    if object["immutable"] != true {
        causes.forbidden("immutable", "field is immutable when `immutable` is set");
    }
    for member in members.iter().filter(|member| object.get(**member) != old.get(**member)) {
        causes.forbidden(member, "field is immutable when `immutable` is set");
    }
}

struct Secret;

impl Strategy for Secret {
    fn defaults(&self, object: &mut Value) {
        use base64::Engine as _;
        json::set_default(object, "type", "Opaque");
        let plain = object.as_object_mut().and_then(|object| object.remove("stringData"));
        if let Some(Value::Object(plain)) = plain {
            let data = json::object_mut(object, "data");
            for (key, value) in plain {
                let text = value.as_str().unwrap_or_default();
                data.insert(key, base64::engine::general_purpose::STANDARD.encode(text).into());
            }
        }
    }

    fn prepare_update(&self, object: &mut Value, old: &Value) {
        if json::text(object, "type").is_empty() {
            object["type"] = old["type"].clone();
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        use base64::Engine as _;
        check_keys(object, &["data"], causes);
        for (key, value) in json::object(object, "data").into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            if base64::engine::general_purpose::STANDARD.decode(text).is_err() {
                causes.invalid(&format!("data[{key}]"), &"<secret>".into(), "must be base64");
            }
        }
        let kind = json::text(object, "type");
        let account = "kubernetes.io/service-account.name";
        if kind == "kubernetes.io/service-account-token"
            && object["metadata"]["annotations"].get(account).is_none_or(|name| name == "")
        {
            causes.required(&format!("metadata.annotations[{account}]"), "");
        }
        let needed: &[&str] = match kind {
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in needed {
            if json::object(object, "data").is_none_or(|data| !data.contains_key(*key)) {
                causes.required(&format!("data[{key}]"), "");
            }
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        validate::immutable("type", object, old, causes);
        check_immutable(object, old, &["data"], causes);
    }
}

/// Grace of pods: what the client asks, else the pod's own; none for a pod that no node has.
pub(super) fn pod_grace(pod: &Value, options: &DeleteOptions) -> Option<i64> {
    let phase = json::text(pod, "status.phase");
    if json::text(pod, "spec.nodeName").is_empty() || phase == "Failed" || phase == "Succeeded" {
        return None;
    }
    options.grace_period_seconds.or_else(|| json::number(pod, "spec.terminationGracePeriodSeconds"))
}
