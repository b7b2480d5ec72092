//! The runtime of our own: the same view from inside as with libcontainer, and what only it can do.

#[path = "native/hostile.rs"]
mod hostile;
#[path = "native/inside.rs"]
mod inside;
#[path = "native/peers.rs"]
mod peers;

use cirro_container::{ContainerError, CreateContainer};
use serde_json::Value;

use crate::cloud::{Cloud, changed_spec, within};

/// A container that runs a script in a root with all of busybox, under a changed document.
fn container(cloud: &Cloud, id: &str, script: &str, change: impl FnOnce(&mut Value)) -> CreateContainer {
    let mut request = cloud.container(id, &["sh", "-c", script]);
    request.spec = changed_spec(&["sh", "-c", script], change);
    request
}

/// Runs it and returns what it said.
async fn said(cloud: &mut Cloud, request: CreateContainer) -> String {
    let id = request.id.clone();
    cloud.start_container(request).await;
    let code = cloud.exit(&id).await.code;
    let text = cloud.text(&id).await;
    assert_eq!(code, Some(0), "{id}: {text}");
    text
}

/// Asks for it and returns why it was refused.
async fn refused(cloud: &Cloud, request: CreateContainer) -> ContainerError {
    let id = request.id.clone();
    let error = within(cloud.supervisor.create(request)).await.expect_err(&id);
    assert_eq!(cloud.supervisor.list().await.expect("list"), [], "{id} is left");
    error
}

fn by_libcontainer(spec: &mut Value) {
    spec["annotations"] = serde_json::json!({"cirro.runtime": "libcontainer"});
}
