//! Debian's etcd-server as the peer of the API's store; it ends when dropped.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use cirro_store::{Endpoint, EtcdClient};

use super::{end, said};

/// Connections that the clients share.
const CONNECTIONS: usize = 8;

pub(super) struct Etcd {
    /// `etcd 3.4.23`.
    pub(super) version: String,
    address: SocketAddr,
    child: Child,
    _directory: tempfile::TempDir,
}

impl Etcd {
    /// Starts one with an empty directory, on the disk that our clouds are on.
    pub(super) fn start() -> anyhow::Result<Self> {
        let version = said(Command::new("etcd").arg("--version"))
            .context("Debian's etcd-server is needed as the peer")?;
        let version = version.lines().next().unwrap_or_default().trim_start_matches("etcd Version: ");
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let (address, peer) = (free()?, free()?);
        let directory = tempfile::tempdir()?;
        let (client_url, peer_url) = (format!("http://{address}"), format!("http://{peer}"));
        let child = Command::new("etcd")
            .args(["--name", "bench", "--logger", "zap", "--log-level", "error"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("bench={peer_url}")])
            .arg("--data-dir")
            .arg(directory.path().join("etcd"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(directory.path().join("log"))?)
            .spawn()
            .context("start etcd")?;
        Ok(Self { version: format!("etcd {version}"), address, child, _directory: directory })
    }

    /// Waits until it takes a write; returns clients for it.
    pub(super) async fn clients(&self) -> anyhow::Result<Vec<Arc<EtcdClient>>> {
        let endpoint = Endpoint { host: "127.0.0.1".into(), address: self.address };
        let client = || Arc::new(EtcdClient::new(vec![endpoint.clone()], None));
        let clients: Vec<_> = (0..CONNECTIONS).map(|_| client()).collect();
        let deadline = Instant::now() + Duration::from_secs(30);
        for client in &clients {
            while let Err(why) = client.put("first", "".into()).await {
                if Instant::now() > deadline {
                    bail!("etcd does not answer: {why}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(clients)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}
