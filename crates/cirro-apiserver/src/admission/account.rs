//! ServiceAccount admission: every pod has an account, and its token unless somebody says no.
//!
//! Source: `plugin/pkg/admission/serviceaccount/admission.go`.

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use crate::error;
use crate::identity;
use crate::json;
use crate::registry::Kind;
use crate::storage::Storage;

/// Where containers find the token.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Seconds that a pod's token is good for; upstream's odd number, a few seconds above an hour.
const EXPIRATION: i64 = 3607;

/// Gives a new pod its account, the account's pull secrets and its token.
pub(super) async fn admit(
    storage: &Storage,
    kind: &Kind,
    namespace: &str,
    pod: &mut Value,
) -> Result<(), ApiError> {
    let refuse = |what: String| error::forbidden(kind, json::name(pod), &what);
    if pod["metadata"]["annotations"].get(MIRROR).is_some() {
        if !json::text(pod, "spec.serviceAccountName").is_empty() {
            return Err(refuse("a mirror pod may not reference service accounts".into()));
        }
        return Ok(());
    }
    let named = match (json::text(pod, "spec.serviceAccountName"), json::text(pod, "spec.serviceAccount")) {
        ("", "") => "default",
        ("", old) => old,
        (name, _) => name,
    };
    let named = named.to_owned();
    let account = storage.get(storage.core_place("serviceaccounts", namespace, &named)).await;
    let account = account.map_err(|why| match why.is_not_found() {
        true => refuse(format!(
            "error looking up service account {namespace}/{named}: serviceaccount {named:?} not found"
        )),
        false => why,
    })?;
    let spec = &mut pod["spec"];
    spec["serviceAccountName"] = named.clone().into();
    spec["serviceAccount"] = named.into();
    if json::array(spec, "imagePullSecrets").is_empty()
        && !json::array(&account, "imagePullSecrets").is_empty()
    {
        spec["imagePullSecrets"] = account["imagePullSecrets"].clone();
    }
    let wanted = [&spec["automountServiceAccountToken"], &account["automountServiceAccountToken"]];
    if wanted.into_iter().find_map(Value::as_bool).unwrap_or(true) {
        mount(spec, storage.pki.is_some());
    }
    Ok(())
}

/// Mounts the token into every container that has nothing else there.
fn mount(spec: &mut Value, with_authority: bool) {
    let present = json::array(spec, "volumes").iter();
    let present =
        present.map(|volume| json::text(volume, "name")).find(|name| name.starts_with(VOLUME_PREFIX));
    let (name, new) = match present {
        Some(name) => (name.to_owned(), false),
        None => (format!("{VOLUME_PREFIX}{}", identity::suffix()), true),
    };
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in json::elements_mut(spec, list) {
            let mounts = json::array(container, "volumeMounts");
            if mounts.iter().any(|mount| json::text(mount, "mountPath") == MOUNT_PATH) {
                continue;
            }
            let mut mounts = mounts.to_vec();
            mounts.push(json!({"name": name, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = mounts.into();
            needed = true;
        }
    }
    if needed && new {
        let mut volumes = json::array(spec, "volumes").to_vec();
        volumes.push(
            json!({"name": name, "projected": {"defaultMode": 0o644, "sources": sources(with_authority)}}),
        );
        spec["volumes"] = volumes.into();
    }
}

fn sources(with_authority: bool) -> Value {
    let mut sources =
        vec![json!({"serviceAccountToken": {"expirationSeconds": EXPIRATION, "path": "token"}})];
    if with_authority {
        sources.push(
            json!({"configMap": {"name": super::ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}}),
        );
    }
    sources.push(json!({"downwardAPI": {"items": [
        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}));
    sources.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_mounted_once_and_not_over_something_else() {
        let other = json!([{"name": "own", "mountPath": MOUNT_PATH}]);
        let mut spec = json!({"containers": [{"name": "a"}, {"name": "b", "volumeMounts": other}]});
        mount(&mut spec, true);
        let name = spec["volumes"][0]["name"].as_str().unwrap().to_owned();
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], name.as_str());
        assert_eq!(spec["containers"][1]["volumeMounts"], other);
        let before = spec.clone();
        mount(&mut spec, true);
        assert_eq!(spec, before);
        assert_eq!(spec["volumes"][0]["projected"]["sources"].as_array().unwrap().len(), 3);
    }
}
