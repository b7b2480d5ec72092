//! Streams of pods with kubectl of several releases: over websockets, over SPDY, and over SPDY in websockets.

use std::process::Stdio;
use std::sync::Arc;

use cirro_seams::api::{ObjectKey, Resource};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::fixture::EchoNode;
use crate::kubectl::Cluster;

const NO_WEBSOCKETS: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];
const WEBSOCKETS: [(&str, &str); 2] =
    [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "true"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "true")];

/// A release of kubectl, and what its environment says of websockets.
type Flavour = (&'static str, [(&'static str, &'static str); 2]);

const FLAVOURS: [Flavour; 5] = [
    ("1.27", NO_WEBSOCKETS),
    ("1.29", NO_WEBSOCKETS),
    ("1.30", WEBSOCKETS),
    ("1.33", NO_WEBSOCKETS),
    ("1.33", WEBSOCKETS),
];

pub(crate) async fn running_pod(cluster: &Cluster) {
    cluster.bound_pod().await;
    cluster.server.set_node_streams(Arc::new(EchoNode::default()));
    let key =
        ObjectKey { resource: Resource::new("", "pods"), namespace: "default".into(), name: "p".into() };
    let status = json!({"status": {"phase": "Running"}});
    cluster.server.client().merge_patch(&key, true, status).await.unwrap();
}

fn command(cluster: &Cluster, (_, environment): Flavour, line: &str) -> Command {
    let mut command = cluster.command(line);
    command.envs(environment).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[tokio::test]
async fn commands_and_attaching_go_over_spdy_too() {
    let Some(mut cluster) = Cluster::start().await else { return };
    running_pod(&cluster).await;
    for flavour in FLAVOURS {
        if !cluster.with_kubectl(flavour.0) {
            continue;
        }
        let exec = command(&cluster, flavour, "exec p -- 0 sh").output().await.unwrap();
        assert_eq!(String::from_utf8_lossy(&exec.stdout), "hello\n", "{flavour:?}");
        assert_eq!(String::from_utf8_lossy(&exec.stderr), "done\n", "{flavour:?}");
        let failed = command(&cluster, flavour, "exec p -- 3").output().await.unwrap();
        assert_eq!(failed.status.code(), Some(3), "{flavour:?}");
        for line in ["exec -i p -- 0", "attach -i p"] {
            let mut child = command(&cluster, flavour, line).stdin(Stdio::piped()).spawn().unwrap();
            child.stdin.take().unwrap().write_all(b"some input\n").await.unwrap();
            let output = child.wait_with_output().await.unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains("hello\nsome input\n"), "{flavour:?} {line}: {output:?}");
        }
        let refused = command(&cluster, flavour, "exec p -c nope -- ls").output().await.unwrap();
        let text = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(text.contains("container nope is not valid for pod p"), "{flavour:?}: {text}");
    }
}

/// Starts to forward and returns the port on this host.
async fn forward(cluster: &Cluster, flavour: Flavour, port: u16) -> (Child, u16) {
    let mut child = command(cluster, flavour, &format!("port-forward pod/p :{port}")).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap();
    let Some(line) = line else {
        let output = child.wait_with_output().await.unwrap();
        panic!("{flavour:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let local = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next());
    let local = local.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
    // kubectl goes on writing: somebody must read.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, local)
}

async fn talk(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn ports_are_forwarded_by_every_kubectl() {
    let Some(mut cluster) = Cluster::start().await else { return };
    running_pod(&cluster).await;
    for flavour in FLAVOURS {
        if !cluster.with_kubectl(flavour.0) {
            continue;
        }
        let (mut child, port) = forward(&cluster, flavour, 80).await;
        let long = "x".repeat(300_000);
        // Several at a time, each longer than any queue on the way.
        let talks = (0..4).map(|_| talk(port, &long));
        for answer in futures_util::future::join_all(talks).await {
            assert_eq!(answer.len(), "hello\n".len() + long.len(), "{flavour:?}");
        }
        assert_eq!(talk(port, "again").await, "hello\nagain", "{flavour:?}");
        child.kill().await.unwrap();
        let (mut child, port) = forward(&cluster, flavour, 81).await;
        assert_eq!(talk(port, "").await, "", "{flavour:?}");
        let mut complaints = BufReader::new(child.stderr.take().unwrap()).lines();
        let complaint = complaints.next_line().await.unwrap().unwrap_or_default();
        let expected = "dial tcp 127.0.0.1:81: connection refused";
        assert!(
            complaint.contains("error forwarding port 81 to pod p_default") && complaint.contains(expected),
            "{complaint}"
        );
        child.kill().await.unwrap();
    }
}
