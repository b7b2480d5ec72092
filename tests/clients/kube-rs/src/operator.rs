//! A derived custom kind, its controller with a finalizer and owned objects.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Client, CustomResource, CustomResourceExt as _, Resource as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{PATIENCE, eventually, refused};

#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "rs.example.com",
    version = "v1",
    kind = "Garden",
    namespaced,
    status = "GardenStatus",
    shortname = "gd"
)]
#[kube(scale(spec_replicas_path = ".spec.trees", status_replicas_path = ".status.trees"))]
#[kube(printcolumn(name = "Trees", type_ = "integer", json_path = ".spec.trees"))]
#[kube(validation = "self.spec.trees <= self.spec.room || self.spec.wild")]
struct GardenSpec {
    /// How many trees stand in it.
    #[schemars(range(min = 0, max = 100))]
    trees: i32,
    #[serde(default = "ten")]
    room: i32,
    #[serde(default)]
    wild: bool,
}

fn ten() -> i32 {
    10
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct GardenStatus {
    trees: i32,
}

const FINALIZER: &str = "rs.example.com/fence";

#[derive(Debug)]
struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

fn failed(error: impl std::fmt::Display) -> Failed {
    Failed(error.to_string())
}

/// Keeps a map with each garden's number of trees; leaves a note when a garden is removed.
async fn reconcile(garden: Arc<Garden>, client: Arc<Client>) -> Result<Action, Failed> {
    let space = garden.namespace().unwrap_or_default();
    let gardens: Api<Garden> = Api::namespaced((*client).clone(), &space);
    let maps: Api<ConfigMap> = Api::namespaced((*client).clone(), &space);
    let done = finalizer(&gardens, FINALIZER, garden, async |event| match event {
        Event::Apply(garden) => tend(&garden, &gardens, &maps).await,
        Event::Cleanup(garden) => leave(&garden, &maps).await,
    });
    done.await.map_err(failed)
}

async fn tend(garden: &Garden, gardens: &Api<Garden>, maps: &Api<ConfigMap>) -> Result<Action, Failed> {
    let name = garden.name_any();
    let owner = garden.controller_owner_ref(&());
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "ownerReferences": [owner]},
        "data": {"trees": garden.spec.trees.to_string()}});
    let apply = PatchParams::apply("gardener").force();
    maps.patch(&name, &apply, &Patch::Apply(map)).await.map_err(failed)?;
    let status =
        json!({"apiVersion": "rs.example.com/v1", "kind": "Garden", "status": {"trees": garden.spec.trees}});
    gardens.patch_status(&name, &apply, &Patch::Apply(status)).await.map_err(failed)?;
    Ok(Action::requeue(Duration::from_secs(300)))
}

async fn leave(garden: &Garden, maps: &Api<ConfigMap>) -> Result<Action, Failed> {
    let name = format!("{}-gone", garden.name_any());
    let note = serde_json::from_value(json!({"metadata": {"name": name}})).map_err(failed)?;
    maps.create(&PostParams::default(), &note).await.map_err(failed)?;
    Ok(Action::await_change())
}

async fn define(client: &Client) -> Result<()> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = "gardens.rs.example.com";
    definitions.patch(name, &PatchParams::apply("rs").force(), &Patch::Apply(Garden::crd())).await?;
    let established = await_condition(definitions, name, conditions::is_crd_established());
    tokio::time::timeout(PATIENCE, established).await??;
    Ok(())
}

/// The whole life of a garden under its controller.
pub(crate) async fn operator(client: &Client) -> Result<()> {
    define(client).await?;
    let gardens: Api<Garden> = Api::namespaced(client.clone(), "rs");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "rs");
    let running = Controller::new(gardens.clone(), watcher::Config::default())
        .owns(maps.clone(), watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(200)), Arc::new(client.clone()))
        .for_each(async |_| ());
    let running = tokio::spawn(running);
    let driven = drive(&gardens, &maps).await;
    running.abort();
    driven
}

async fn drive(gardens: &Api<Garden>, maps: &Api<ConfigMap>) -> Result<()> {
    let garden =
        |trees| Garden::new("one", serde_json::from_value(json!({"trees": trees})).expect("a specification"));
    let crowded = refused(gardens.create(&PostParams::default(), &garden(11)).await)?;
    ensure!(crowded.code == 422 && crowded.message.contains("failed rule"), "{crowded:?}");
    let out_of_range = refused(gardens.create(&PostParams::default(), &garden(101)).await)?;
    ensure!(out_of_range.message.contains("should be less than or equal to 100"), "{out_of_range:?}");
    let made = gardens.create(&PostParams::default(), &garden(3)).await?;
    ensure!(made.spec.room == 10, "the default is missing");

    let trees = async |wanted: &str| {
        eventually("the map", async || {
            let map = maps.get_opt("one").await?;
            Ok(map.filter(|map| map.data.as_ref().is_some_and(|data| data["trees"] == wanted)))
        })
        .await
    };
    let map = trees("3").await?;
    ensure!(map.owner_references()[0].controller == Some(true));
    eventually("the status", async || {
        Ok(gardens.get_status("one").await?.status.filter(|status| status.trees == 3))
    })
    .await?;
    ensure!(gardens.get("one").await?.finalizers() == [FINALIZER]);

    let scale = gardens
        .patch_scale("one", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 5}})))
        .await?;
    ensure!(scale.spec.and_then(|spec| spec.replicas) == Some(5));
    trees("5").await?;
    // What the controller owns comes back.
    let first = maps.get("one").await?.uid();
    maps.delete("one", &DeleteParams::default()).await?;
    eventually("a new map", async || Ok(maps.get_opt("one").await?.filter(|map| map.uid() != first))).await?;

    gardens.delete("one", &DeleteParams::default()).await?;
    eventually("the note", async || Ok(maps.get_opt("one-gone").await?)).await?;
    eventually("its end", async || Ok(gardens.get_opt("one").await?.is_none().then_some(()))).await?;
    eventually("the end of its map", async || Ok(maps.get_opt("one").await?.is_none().then_some(()))).await
}
