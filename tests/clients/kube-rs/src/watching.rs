//! The watcher in each way it can begin, and the reflector's store.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, pin_mut};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::{PartialObjectMeta, WatchEvent};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;

use crate::{PATIENCE, eventually};

fn map(name: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"seen": "yes"}}}))?)
}

/// Lists in pages, lists at any version and streamed lists all show what is there and then what comes.
pub(crate) async fn watching(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "rs");
    maps.create(&PostParams::default(), &map("before")?).await?;
    let config = watcher::Config::default().labels("seen=yes");
    let ways = [config.clone().page_size(1), config.clone().any_semantic(), config.clone().streaming_lists()];
    for (number, way) in ways.into_iter().enumerate() {
        let name = format!("after-{number}");
        let stream = watcher(maps.clone(), way);
        pin_mut!(stream);
        let mut said = Vec::new();
        tokio::time::timeout(PATIENCE, async {
            while said.last().is_none_or(|last| last != &format!("delete {name}")) {
                match stream.next().await.context("the watch ended")?? {
                    watcher::Event::Init => said.push("init".to_owned()),
                    watcher::Event::InitApply(map) => said.push(format!("there {}", map.name_any())),
                    watcher::Event::InitDone => {
                        said.push("done".to_owned());
                        maps.create(&PostParams::default(), &map(&name)?).await?;
                        maps.delete(&name, &DeleteParams::default()).await?;
                    }
                    watcher::Event::Apply(map) => said.push(format!("apply {}", map.name_any())),
                    watcher::Event::Delete(map) => said.push(format!("delete {}", map.name_any())),
                }
            }
            anyhow::Ok(())
        })
        .await
        .with_context(|| format!("way {number} said {said:?}"))??;
        ensure!(
            said == ["init", "there before", "done", &format!("apply {name}"), &format!("delete {name}")],
            "{said:?}"
        );
    }
    too_old(&maps).await
}

/// A version that the history has no more, or not yet, is said to be too old or too large.
async fn too_old(maps: &Api<ConfigMap>) -> Result<()> {
    let stream = maps.watch(&kube::api::WatchParams::default().timeout(5), "1").await?;
    pin_mut!(stream);
    match stream.try_next().await? {
        Some(WatchEvent::Error(status)) => {
            ensure!(status.code == 410 && status.reason == "Expired", "{status:?}")
        }
        // A young cloud still has all of its history.
        other => ensure!(other.is_some(), "nothing was said"),
    }
    Ok(())
}

/// A reflector's store follows what happens, with whole objects and with metadata alone.
pub(crate) async fn reflecting(client: &Client) -> Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "rs");
    let (store, writer) = reflector::store();
    let stream = reflector(writer, watcher(maps.clone(), watcher::Config::default().streaming_lists()));
    let follow = tokio::spawn(stream.default_backoff().applied_objects().try_for_each(async |_| Ok(())));
    tokio::time::timeout(PATIENCE, store.wait_until_ready()).await??;
    let before = reflector::ObjectRef::new("before").within("rs");
    ensure!(store.get(&before).is_some(), "the store lacks what was there");
    let change = json!({"data": {"now": "here"}});
    maps.patch("before", &PatchParams::default(), &Patch::Merge(&change)).await?;
    let changed = |map: &ConfigMap| map.data.as_ref().is_some_and(|data| data.contains_key("now"));
    eventually("the change", async || Ok(store.get(&before).filter(|map| changed(map)))).await?;

    let partial: Api<PartialObjectMeta<ConfigMap>> = Api::namespaced(client.clone(), "rs");
    let metadata = watcher(partial, watcher::Config::default().labels("seen=yes")).applied_objects();
    pin_mut!(metadata);
    let first = tokio::time::timeout(PATIENCE, metadata.try_next()).await??.context("no metadata")?;
    ensure!(
        first.name_any() == "before"
            && first.types.as_ref().is_some_and(|types| types.kind == "PartialObjectMetadata")
    );
    maps.delete("before", &DeleteParams::default()).await?;
    eventually("the end", async || Ok(store.get(&before).is_none().then_some(()))).await?;
    follow.abort();
    Ok(())
}
