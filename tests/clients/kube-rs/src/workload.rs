//! A pod: until it runs, its log, commands in it, its ports, its eviction.

use anyhow::{Context as _, Result, ensure};
use futures::AsyncBufReadExt as _;
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, AttachParams, EvictParams, LogParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{PATIENCE, eventually};

/// Runs a pod, reads its log and runs commands in it.
pub(crate) async fn workload(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "rs");
    let script = "echo started; mkdir /www; echo page >/www/index.html; exec httpd -f -p 8080 -h /www";
    let pod = json!({"metadata": {"name": "web"}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
        {"name": "main", "image": "busybox", "imagePullPolicy": "Never", "command": ["sh", "-c", script]}]}});
    pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let running = await_condition(pods.clone(), "web", conditions::is_pod_running());
    tokio::time::timeout(PATIENCE, running).await??;

    let log = LogParams { follow: true, ..LogParams::default() };
    let mut lines = pods.log_stream("web", &log).await?.lines();
    ensure!(tokio::time::timeout(PATIENCE, lines.try_next()).await??.as_deref() == Some("started"));

    let words = ["sh", "-c", "read line; echo got $line; echo bad >&2; exit 3"];
    let mut command = pods.exec("web", words, &AttachParams::default().stdin(true)).await?;
    let mut stdin = command.stdin().context("no input")?;
    let (mut stdout, mut stderr) =
        (command.stdout().context("no output")?, command.stderr().context("no errors")?);
    let status = command.take_status().context("no status")?;
    stdin.write_all(b"line\n").await?;
    let (mut out, mut bad) = (String::new(), String::new());
    tokio::try_join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut bad))?;
    ensure!((&*out, &*bad) == ("got line\n", "bad\n"), "{out:?} {bad:?}");
    let status = status.await.context("it said nothing at its end")?;
    ensure!(status.reason.as_deref() == Some("NonZeroExitCode"), "{status:?}");
    command.join().await?;
    Ok(())
}

/// Asks for a page through a forwarded port.
pub(crate) async fn forwarding(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "rs");
    let mut forwarder = pods.portforward("web", &[8080]).await?;
    let mut stream = forwarder.take_stream(8080).context("no stream")?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await??;
    ensure!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("page\n"), "{answer:?}");
    drop(stream);
    forwarder.abort();
    Ok(())
}

/// Evicts the pod.
pub(crate) async fn evicting(client: &Client) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), "rs");
    pods.evict("web", &EvictParams::default()).await?;
    eventually("its end", async || Ok(pods.get_opt("web").await?.is_none().then_some(()))).await
}
