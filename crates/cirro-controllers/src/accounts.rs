//! Keeps in every namespace what pods need to talk to the API: the account `default` and the authority's
//! certificate; and takes away the tokens in secrets whose account is gone.
//!
//! New namespaces have both from the start; this brings back what is deleted or changed.

use std::sync::Arc;

use cirro_client::{Cache, Next, Object, WorkQueue, key_of, name, namespace, text, uid};
use cirro_seams::api::{Api, ApiError, DeleteOptions, ObjectKey, Resource};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::pods::is_deleting;

const ACCOUNT_UID: &str = "/metadata/annotations/kubernetes.io~1service-account.uid";

/// Keeps the account `default` in every namespace until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let namespaces = context.cache("", "namespaces");
    let accounts = context.cache("", "serviceaccounts");
    let api = context.api.clone();
    let key = |namespace: &str| ObjectKey {
        resource: Resource::new("", "serviceaccounts"),
        namespace: namespace.into(),
        name: "default".into(),
    };
    let wanted = move |namespace: &str| (key(namespace), json!({}));
    tokio::join!(
        forget_tokens(&context, &accounts),
        keep(api, namespaces, accounts.clone(), wanted, context.stop.clone()),
    );
}

/// Keeps the ConfigMap with the authority's certificate in every namespace until `stop`.
pub async fn publish_root_ca(api: Arc<dyn Api>, certificate: String, stop: CancellationToken) {
    let cache = |plural| Cache::start(api.clone(), Resource::new("", plural), stop.clone());
    let (namespaces, config_maps) = (cache("namespaces"), cache("configmaps"));
    let wanted = move |namespace: &str| {
        let resource = Resource::new("", "configmaps");
        let key = ObjectKey { resource, namespace: namespace.into(), name: "kube-root-ca.crt".into() };
        (key, json!({"data": {"ca.crt": certificate}}))
    };
    keep(api, namespaces, config_maps, wanted, stop).await;
}

/// Keeps one object of `objects` in every namespace, with the members that `wanted` names.
async fn keep(
    api: Arc<dyn Api>,
    namespaces: Cache,
    objects: Cache,
    wanted: impl Fn(&str) -> (ObjectKey, Value) + Clone + Send + Sync + 'static,
    stop: CancellationToken,
) {
    namespaces.synced().await;
    objects.synced().await;
    let queue: Arc<WorkQueue<String>> = WorkQueue::new();
    let own = queue.clone();
    namespaces.on_change(move |_, new| {
        if let Some(namespace) = new.map(Object::head).filter(|namespace| !namespace.deleting) {
            own.add(namespace.name.to_string());
        }
    });
    let (own, watched) = (queue.clone(), wanted("").0.name);
    objects.on_change(move |old, new| {
        if let Some(head) = new.or(old).map(Object::head).filter(|head| *head.name == *watched) {
            own.add(head.namespace.to_string());
        }
    });
    cirro_client::run("namespace content", queue, 1, stop, move |namespace| {
        let (api, namespaces, objects, wanted) =
            (api.clone(), namespaces.clone(), objects.clone(), wanted.clone());
        async move {
            let alive = namespaces.get("", &namespace).is_some_and(|found| !is_deleting(&found));
            let (key, members) = wanted(&namespace);
            if alive {
                ensure(api.as_ref(), &key, objects.get(&namespace, &key.name).as_deref(), members).await?;
            }
            Ok::<_, ApiError>(Next::Wait)
        }
    })
    .await;
}

async fn ensure(
    api: &dyn Api,
    key: &ObjectKey,
    present: Option<&Value>,
    members: Value,
) -> Result<(), ApiError> {
    let result = match present {
        None => {
            let mut object = members;
            object["metadata"] = json!({"name": key.name, "namespace": key.namespace});
            api.create(&key.resource, object).await
        }
        Some(present) => {
            let differs = |(member, value): (&String, &Value)| present.get(member) != Some(value);
            if !members.as_object().into_iter().flatten().any(differs) {
                return Ok(());
            }
            api.merge_patch(key, false, members).await
        }
    };
    match result {
        // The namespace may be going, or another one was faster.
        Err(error) if !matches!(error.code, 403 | 404 | 409) => Err(error),
        _ => Ok(()),
    }
}

/// Deletes the secrets that hold tokens of accounts that are gone.
async fn forget_tokens(context: &Context, accounts: &Cache) {
    let secrets = context.cache("", "secrets");
    secrets.synced().await;
    accounts.synced().await;
    let queue: Arc<WorkQueue<(String, String)>> = WorkQueue::new();
    let (own, all) = (queue.clone(), secrets.clone());
    accounts.on_change(move |old, new| {
        let Some(gone) = old.filter(|old| new.is_none_or(|new| uid(new) != uid(old))) else { return };
        for secret in all.in_namespace(namespace(gone)) {
            if text(&secret, ACCOUNT_UID) == uid(gone) {
                own.add((namespace(gone).to_owned(), name(&secret).to_owned()));
            }
        }
    });
    let (api, accounts) = (context.api.clone(), accounts.clone());
    cirro_client::run("token secrets", queue, 1, context.stop.clone(), move |(namespace, name)| {
        let (api, accounts, secrets) = (api.clone(), accounts.clone(), secrets.clone());
        async move {
            let Some(secret) = secrets.get(&namespace, &name) else { return Ok(Next::Wait) };
            if accounts.by_uid(text(&secret, ACCOUNT_UID)).is_some() {
                return Ok(Next::Wait);
            }
            let key = key_of(&Resource::new("", "secrets"), &secret);
            let options = DeleteOptions { uid: Some(uid(&secret).to_owned()), ..DeleteOptions::default() };
            match api.delete(&key, options).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Wait),
            }
        }
    })
    .await;
}
