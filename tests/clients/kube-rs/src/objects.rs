//! Objects made, read, listed, patched, applied and deleted; what is served.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::{Discovery, Scope, verbs};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::{eventually, refused};

/// The version and, by the aggregated documents as by the classic ones, every kind.
pub(crate) async fn discovery(client: &Client) -> Result<()> {
    ensure!(client.apiserver_version().await?.major == "1");
    let discovery = Discovery::new(client.clone()).run().await?;
    let aggregated = Discovery::new(client.clone()).run_aggregated().await?;
    let kinds = |discovery: &Discovery| {
        let mut kinds = Vec::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                let scope = capabilities.scope == Scope::Cluster;
                let listed = capabilities.supports_operation(verbs::LIST);
                kinds.push((resource.api_version, resource.kind, resource.plural, scope, listed));
            }
        }
        kinds.sort();
        kinds
    };
    let (classic, aggregated) = (kinds(&discovery), kinds(&aggregated));
    ensure!(classic == aggregated, "{classic:?}\n{aggregated:?}");
    ensure!(
        classic.iter().any(|kind| kind.1 == "Deployment" && kind.2 == "deployments" && !kind.3 && kind.4)
    );
    let (resource, _) =
        discovery.resolve_gvk(&kube::core::GroupVersionKind::gvk("", "v1", "Namespace")).expect("it");
    let spaces: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    ensure!(
        spaces.list(&ListParams::default()).await?.items.iter().any(|space| space.name_any() == "default")
    );
    Ok(())
}

fn map(name: &str, labels: serde_json::Value) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}, "data": {"a": "1"}}))?)
}

/// The verbs on one kind.
pub(crate) async fn objects(client: &Client) -> Result<()> {
    let spaces: Api<Namespace> = Api::all(client.clone());
    spaces
        .create(&PostParams::default(), &serde_json::from_value(json!({"metadata": {"name": "rs"}}))?)
        .await?;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "rs");
    eventually("the root certificates", async || Ok(maps.get_opt("kube-root-ca.crt").await?)).await?;
    for number in 0..7 {
        let labels = json!({"odd": (number % 2).to_string()});
        maps.create(&PostParams::default(), &map(&format!("map-{number}"), labels)?).await?;
    }
    let again = refused(maps.create(&PostParams::default(), &map("map-0", json!({}))?).await)?;
    ensure!(again.code == 409 && again.reason == "AlreadyExists", "{again:?}");
    ensure!(refused(maps.get("none").await)?.is_not_found() && maps.get_opt("none").await?.is_none());

    let mut names = Vec::new();
    let mut page = ListParams::default().limit(3);
    loop {
        let list = maps.list(&page).await?;
        names.extend(list.items.iter().map(kube::ResourceExt::name_any));
        match list.metadata.continue_ {
            Some(token) if !token.is_empty() => page = page.continue_token(&token),
            _ => break,
        }
    }
    names.retain(|name| name.starts_with("map-"));
    ensure!(names == (0..7).map(|number| format!("map-{number}")).collect::<Vec<_>>(), "{names:?}");
    ensure!(maps.list(&ListParams::default().labels("odd=1")).await?.items.len() == 3);
    ensure!(maps.list_metadata(&ListParams::default().fields("metadata.name=map-1")).await?.items.len() == 1);

    let mut one = maps.get("map-0").await?;
    one.data.get_or_insert_default().insert("b".to_owned(), "2".to_owned());
    maps.replace("map-0", &PostParams::default(), &one).await?;
    let stale = refused(maps.replace("map-0", &PostParams::default(), &one).await)?;
    ensure!(stale.code == 409 && stale.reason == "Conflict", "{stale:?}");
    let merge = json!({"data": {"a": null, "c": "3"}});
    let merged = maps.patch("map-0", &PatchParams::default(), &Patch::Merge(&merge)).await?;
    ensure!(merged.data.unwrap_or_default().into_keys().eq(["b", "c"]));

    let applied = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": value}});
    let ours = PatchParams::apply("ours");
    maps.patch("applied", &ours, &Patch::Apply(applied("1"))).await?;
    let conflict =
        refused(maps.patch("applied", &PatchParams::apply("theirs"), &Patch::Apply(applied("2"))).await)?;
    ensure!(
        conflict.code == 409 && conflict.message.contains("conflict with \"ours\": .data.a"),
        "{conflict:?}"
    );
    let forced =
        maps.patch("applied", &PatchParams::apply("theirs").force(), &Patch::Apply(applied("2"))).await?;
    ensure!(forced.managed_fields().iter().any(|entry| entry.manager.as_deref() == Some("theirs")));
    let trial = maps
        .patch(
            "tried",
            &ours.clone().dry_run(),
            &Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap"})),
        )
        .await?;
    ensure!(trial.name_any() == "tried" && maps.get_opt("tried").await?.is_none());

    let background = DeleteParams::background();
    ensure!(maps.delete("map-0", &background).await?.right().is_some(), "a deletion answers with a status");
    maps.delete_collection(&background, &ListParams::default().labels("odd")).await?;
    eventually("the end of all", async || {
        Ok(maps.list(&ListParams::default().labels("odd")).await?.items.is_empty().then_some(()))
    })
    .await
}
