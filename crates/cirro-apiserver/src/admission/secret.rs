//! Fills secrets of type `kubernetes.io/service-account-token` in the write that makes them.
//!
//! Upstream's token controller does this a moment later.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cirro_seams::api::ApiError;
use serde_json::Value;

use crate::json;
use crate::storage::Storage;

const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// Gives a secret for an account's token what it lacks.
pub(super) async fn admit(storage: &Storage, namespace: &str, secret: &mut Value) -> Result<(), ApiError> {
    let annotation = |secret: &Value, name: &str| {
        secret["metadata"]["annotations"].get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let named = annotation(secret, NAME);
    if secret["type"] != TYPE || named.is_empty() {
        return Ok(());
    }
    let account = match storage.get(storage.core_place("serviceaccounts", namespace, &named)).await {
        Ok(account) => account,
        // Without its account the secret stays empty, and no token is good.
        Err(refusal) if refusal.is_not_found() => return Ok(()),
        Err(refusal) => return Err(refusal),
    };
    let uid = json::text(&account, "metadata.uid");
    let asked = annotation(secret, UID);
    if !asked.is_empty() && asked != uid {
        return Ok(());
    }
    secret["metadata"]["annotations"][UID] = uid.into();
    let token = storage.legacy_token(secret, &account);
    let data = json::object_mut(secret, "data");
    data.entry("namespace").or_insert_with(|| STANDARD.encode(namespace).into());
    if let Some(pki) = &storage.pki {
        data.entry("ca.crt").or_insert_with(|| STANDARD.encode(pki.ca()).into());
    }
    data.entry("token").or_insert_with(|| STANDARD.encode(token).into());
    Ok(())
}
