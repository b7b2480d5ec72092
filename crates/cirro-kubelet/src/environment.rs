//! A container's environment: services, literals, references to fields, config maps and secrets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cirro_client::{Cache, name, namespace, text};
use cirro_seams::node::Sandbox;
use cirro_types::Quantity;
use serde_json::Value;

use crate::Kubelet;

/// Why an environment cannot be put together; upstream's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnvironmentError {
    #[error("{kind} \"{name}\" not found")]
    NotFound { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {name}")]
    NoKey { kind: &'static str, name: String, key: String },
    #[error("environment variable `{0}`: this source is not supported yet")]
    NotSupported(String),
}

/// Returns the environment in order; a later variable of the same name wins.
pub(crate) fn of(
    kubelet: &Kubelet,
    pod: &Value,
    sandbox: &Sandbox,
    container: &Value,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let mut environment = Environment::default();
    let links = pod["spec"]["enableServiceLinks"] != false;
    for (name, value) in services(&kubelet.services, namespace(pod), links) {
        environment.set(name, value);
    }
    for source in container["envFrom"].as_array().into_iter().flatten() {
        for (name, value) in whole_source(kubelet, namespace(pod), source)? {
            environment.set(format!("{}{name}", text(source, "/prefix")), value);
        }
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = text(variable, "/name").to_owned();
        let value = match &variable["valueFrom"] {
            Value::Null => Some(expand(text(variable, "/value"), &environment.variables)),
            source => reference(kubelet, pod, sandbox, container, &name, source)?,
        };
        if let Some(value) = value {
            environment.set(name, value);
        }
    }
    let host = if environment.has("HOSTNAME") { None } else { Some(text(pod, "/spec/hostname")) };
    if let Some(host) = host {
        let host = if host.is_empty() { name(pod) } else { host };
        environment.set("HOSTNAME".into(), host.chars().take(63).collect());
    }
    Ok(environment.variables)
}

/// Replaces `$(NAME)` by a variable's value; `$$(NAME)` stays `$(NAME)`, unknown names stay as they are.
pub(crate) fn expand(text: &str, environment: &[(String, String)]) -> String {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(dollar) = rest.find('$') {
        expanded.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(escaped) = after.strip_prefix('$') {
            expanded.push('$');
            rest = escaped;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match environment.iter().find(|(known, _)| known == name) {
                Some((_, value)) => expanded.push_str(value),
                None => expanded.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            expanded.push('$');
            rest = after;
        }
    }
    expanded.push_str(rest);
    expanded
}

#[derive(Default)]
struct Environment {
    variables: Vec<(String, String)>,
}

impl Environment {
    fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, _)| known == name)
    }

    fn set(&mut self, name: String, value: String) {
        self.variables.retain(|(known, _)| *known != name);
        self.variables.push((name, value));
    }
}

/// Variables for the services of a namespace, and for the API's own.
fn services(cache: &Cache, of: &str, links: bool) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    let own = if links { cache.in_namespace(of) } else { Vec::new() };
    for service in own.into_iter().chain(cache.get("default", "kubernetes")) {
        let address = text(&service, "/spec/clusterIP");
        if address.is_empty() || address == "None" {
            continue;
        }
        let prefix = name(&service).to_uppercase().replace('-', "_");
        variables.push((format!("{prefix}_SERVICE_HOST"), address.to_owned()));
        for (index, port) in service["spec"]["ports"].as_array().into_iter().flatten().enumerate() {
            let number = port["port"].to_string();
            if index == 0 {
                variables.push((format!("{prefix}_SERVICE_PORT"), number.clone()));
                variables.push((format!("{prefix}_PORT"), format!("tcp://{address}:{number}")));
            }
            if !text(port, "/name").is_empty() {
                let port_name = text(port, "/name").to_uppercase().replace('-', "_");
                variables.push((format!("{prefix}_SERVICE_PORT_{port_name}"), number));
            }
        }
    }
    variables
}

fn whole_source(
    kubelet: &Kubelet,
    of: &str,
    source: &Value,
) -> Result<Vec<(String, String)>, EnvironmentError> {
    let (kind, cache, reference) = match (&source["configMapRef"], &source["secretRef"]) {
        (Value::Null, secret) => ("secret", &kubelet.secrets, secret),
        (config_map, _) => ("configmap", &kubelet.config_maps, config_map),
    };
    let Some(object) = cache.get(of, text(reference, "/name")) else {
        if reference["optional"] == true {
            return Ok(Vec::new());
        }
        return Err(EnvironmentError::NotFound { kind, name: text(reference, "/name").to_owned() });
    };
    let data = object["data"].as_object().into_iter().flatten();
    Ok(data.filter_map(|(key, value)| Some((key.clone(), plain(kind, value.as_str()?)?))).collect())
}

fn reference(
    kubelet: &Kubelet,
    pod: &Value,
    sandbox: &Sandbox,
    container: &Value,
    variable: &str,
    source: &Value,
) -> Result<Option<String>, EnvironmentError> {
    if let Some(field) = source.get("fieldRef") {
        let value = self::field(kubelet, pod, sandbox, text(field, "/fieldPath"));
        return value.map(Some).ok_or_else(|| EnvironmentError::NotSupported(variable.into()));
    }
    if let Some(field) = source.get("resourceFieldRef") {
        return resource(container, field)
            .map(Some)
            .ok_or_else(|| EnvironmentError::NotSupported(variable.into()));
    }
    let (kind, cache, reference) = match (source.get("configMapKeyRef"), source.get("secretKeyRef")) {
        (Some(reference), _) => ("configmap", &kubelet.config_maps, reference),
        (None, Some(reference)) => ("secret", &kubelet.secrets, reference),
        (None, None) => return Err(EnvironmentError::NotSupported(variable.into())),
    };
    let (wanted, key) = (text(reference, "/name"), text(reference, "/key"));
    let optional = reference["optional"] == true;
    let Some(object) = cache.get(namespace(pod), wanted) else {
        return if optional {
            Ok(None)
        } else {
            Err(EnvironmentError::NotFound { kind, name: wanted.into() })
        };
    };
    match object["data"][key].as_str().and_then(|value| plain(kind, value)) {
        None if !optional => Err(EnvironmentError::NoKey { kind, name: wanted.into(), key: key.into() }),
        value => Ok(value),
    }
}

/// Secrets are base64 in the API.
pub(crate) fn plain(kind: &str, value: &str) -> Option<String> {
    if kind == "secret" {
        String::from_utf8(STANDARD.decode(value).ok()?).ok()
    } else {
        Some(value.to_owned())
    }
}

/// Returns a field of a pod by its path.
pub(crate) fn field(kubelet: &Kubelet, pod: &Value, sandbox: &Sandbox, path: &str) -> Option<String> {
    Some(match path {
        "metadata.name" => name(pod).to_owned(),
        "metadata.namespace" => namespace(pod).to_owned(),
        "metadata.uid" => cirro_client::uid(pod).to_owned(),
        "spec.nodeName" => kubelet.options.node_name.clone(),
        "spec.serviceAccountName" => text(pod, "/spec/serviceAccountName").to_owned(),
        "status.podIP" | "status.podIPs" => sandbox.address.to_string(),
        "status.hostIP" | "status.hostIPs" => kubelet.options.address.to_string(),
        _ => {
            let (map, rest) = path.strip_prefix("metadata.")?.split_once("['")?;
            let key = rest.strip_suffix("']")?;
            pod["metadata"].get(map)?[key].as_str().unwrap_or_default().to_owned()
        }
    })
}

fn resource(container: &Value, field: &Value) -> Option<String> {
    let (kind, resource) = text(field, "/resource").split_once('.')?;
    let amount: Quantity = text(container, &format!("/resources/{kind}/{resource}")).parse().ok()?;
    let divisor: Quantity = text(field, "/divisor").parse().unwrap_or(Quantity::from_units(1));
    let divisor = if divisor.milli() == 0 { 1000 } else { divisor.milli() };
    // Rounded up, as upstream does.
    let quotient = amount.milli().div_euclid(divisor) + i64::from(amount.milli().rem_euclid(divisor) > 0);
    Some(quotient.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expansion_is_upstreams() {
        let environment = [("A".to_owned(), "x".to_owned())];
        for (given, wanted) in
            [("$(A)", "x"), ("-$(A)-$(B)-", "-x-$(B)-"), ("$$(A)", "$(A)"), ("$A $", "$A $"), ("$(A", "$(A")]
        {
            assert_eq!(expand(given, &environment), wanted, "{given}");
        }
    }

    #[test]
    fn resources_are_divided_and_rounded_up() {
        let container = json!({"resources": {"limits": {"cpu": "50m", "memory": "50Mi"}}});
        let ask = |resource: &str, divisor: &str| {
            super::resource(&container, &json!({"resource": resource, "divisor": divisor}))
        };
        assert_eq!(ask("limits.cpu", "1"), Some("1".into()));
        assert_eq!(ask("limits.cpu", "1m"), Some("50".into()));
        assert_eq!(ask("limits.memory", "1Mi"), Some("50".into()));
        assert_eq!(ask("nonsense", "1"), None);
    }
}
