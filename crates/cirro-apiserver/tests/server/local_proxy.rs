//! `kubectl proxy`: the API on a port or a socket of the client's own host.

use std::process::Stdio;

use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{TcpStream, UnixStream};

use crate::kubectl::Cluster;

/// Starts a proxy and returns where it says that it serves.
async fn start(cluster: &Cluster, line: &str) -> (tokio::process::Child, String) {
    let mut child = cluster.command(line).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines.next_line().await.unwrap().expect("it says where it serves");
    let place = said.strip_prefix("Starting to serve on ").unwrap_or_else(|| panic!("{said}")).to_owned();
    // Somebody must read what it says later.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, place)
}

async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    stream.write_all(b"GET /api/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn kubectl_serves_the_api_on_a_port_and_on_a_socket() {
    let Some(cluster) = Cluster::start().await else { return };
    let (mut child, place) = start(&cluster, "proxy --port=0").await;
    let answer = ask(TcpStream::connect(&place).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"APIVersions\""), "{answer}");
    child.kill().await.unwrap();

    let socket = cluster.home.path().join("proxy.sock");
    let (mut child, place) = start(&cluster, &format!("proxy --unix-socket={}", socket.display())).await;
    assert_eq!(place, socket.display().to_string());
    let answer = ask(UnixStream::connect(&socket).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"APIVersions\""), "{answer}");
    child.kill().await.unwrap();
}
