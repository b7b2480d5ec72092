//! The ConfigMap by which aggregated servers know our users and us: kube-system/extension-apiserver-authentication.
//!
//! Source: `pkg/controlplane/controller/clusterauthenticationtrust`.

use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use crate::error;
use crate::json;
use crate::pki::FrontProxy;
use crate::storage::{Place, Storage, Target};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// Longest bundle; more authorities than that were not of servers that live.
const MAX_BUNDLE: usize = 64 * 1024;

/// Writes the ConfigMap, or puts our authorities to those that other servers on the same store wrote.
pub(super) async fn publish(storage: &Storage, ca: &str, proxy: &FrontProxy) -> Result<(), ApiError> {
    let kind = storage.registry.kind("", "configmaps").expect("ConfigMaps are built in");
    let place = Place { kind, namespace: NAMESPACE, name: NAME };
    match storage.get(place).await {
        Ok(present) if data(&present["data"], ca, proxy.ca()) == present["data"] => return Ok(()),
        Err(refusal) if !refusal.is_not_found() => return Err(refusal),
        Ok(_) => {}
        Err(_) => {
            let data = data(&Value::Null, ca, proxy.ca());
            let object = json!({"metadata": {"name": NAME, "namespace": NAMESPACE}, "data": data});
            match storage.create(kind, NAMESPACE, object, false).await {
                Err(refusal) if refusal.is_already_exists() => {}
                made => return made.map(drop),
            }
        }
    }
    let change = |present: &Value| {
        let mut next = present.clone();
        next["data"] = data(&present["data"], ca, proxy.ca());
        if json::text(&next, "data.client-ca-file").len() > MAX_BUNDLE {
            return Err(error::internal(format!("{NAME} has too many authorities")));
        }
        Ok(next)
    };
    storage.modify(place, Target::Object, false, change).await.map(drop)
}

fn data(present: &Value, ca: &str, proxy_ca: &str) -> Value {
    let bundle = |member: &str, own: &str| match json::text(present, member) {
        // Not by a path: the names have no dots.
        "" => own.to_owned(),
        kept if kept.contains(own.trim()) => kept.to_owned(),
        kept => format!("{}\n{own}", kept.trim_end()),
    };
    let list = |one: &str| json!([one]).to_string();
    let mut data = present.as_object().cloned().unwrap_or_default();
    data.insert("client-ca-file".into(), bundle("client-ca-file", ca).into());
    data.insert(
        "requestheader-client-ca-file".into(),
        bundle("requestheader-client-ca-file", proxy_ca).into(),
    );
    data.insert("requestheader-allowed-names".into(), list(FrontProxy::NAME).into());
    data.insert("requestheader-username-headers".into(), list("X-Remote-User").into());
    data.insert("requestheader-uid-headers".into(), list("X-Remote-Uid").into());
    data.insert("requestheader-group-headers".into(), list("X-Remote-Group").into());
    data.insert("requestheader-extra-headers-prefix".into(), list("X-Remote-Extra-").into());
    data.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_other_servers_wrote_stays() {
        let first = data(&Value::Null, "one\n", "front\n");
        assert_eq!(first["requestheader-allowed-names"], "[\"front-proxy-client\"]");
        assert_eq!(first["client-ca-file"], "one\n");
        let both = data(&first, "two\n", "front\n");
        assert_eq!(both["client-ca-file"], "one\ntwo\n");
        assert_eq!(both["requestheader-client-ca-file"], "front\n");
        assert_eq!(data(&both, "two\n", "front\n"), both);
    }
}
