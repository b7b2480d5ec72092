//! Debian's etcd-server, one per test, on free ports; it ends when dropped.

#![allow(dead_code, reason = "every test binary uses a part of it")]

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirro_store::{Endpoint, EtcdOptions, EtcdStore, StoreError};

const PATIENCE: Duration = Duration::from_secs(60);
/// Attempts to find ports that nobody takes meanwhile.
const ATTEMPTS: usize = 5;

/// Files by which etcd and its clients know each other.
#[derive(Clone)]
pub(crate) struct TlsFiles {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

pub(crate) struct EtcdServer {
    child: Option<Child>,
    directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    peer: SocketAddr,
    tls: Option<TlsFiles>,
}

/// What these servers write needs no disk.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl EtcdServer {
    pub(crate) fn start() -> Self {
        Self::start_with(None)
    }

    pub(crate) fn start_with(tls: Option<TlsFiles>) -> Self {
        for _ in 0..ATTEMPTS {
            let mut server = Self {
                child: None,
                directory: in_memory(),
                address: free_address(),
                peer: free_address(),
                tls: tls.clone(),
            };
            if server.run() {
                return server;
            }
        }
        panic!("etcd (Debian's etcd-server) does not start");
    }

    /// Starts it, also again after [`Self::kill`]; whether it accepts connections.
    pub(crate) fn run(&mut self) -> bool {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let client = format!("{scheme}://{}", self.address);
        let peer = format!("http://{}", self.peer);
        let mut command = Command::new("etcd");
        command
            .args(["--name", "one", "--log-level", "error", "--logger", "zap"])
            .args(["--heartbeat-interval", "20", "--election-timeout", "200"])
            // For objects of full size: etcd counts the whole request.
            .args(["--max-request-bytes", "2097152"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("one={peer}")])
            .arg("--data-dir")
            .arg(self.directory.path().join("etcd"));
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(&tls.certificate).arg("--key-file").arg(&tls.key);
            command.arg("--trusted-ca-file").arg(&tls.ca).arg("--client-cert-auth");
        }
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = self.child.insert(child.expect("Debian's etcd-server is installed"));
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.address).is_err() {
            if child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn endpoints(&self) -> Vec<Endpoint> {
        vec![Endpoint { host: "127.0.0.1".into(), address: self.address }]
    }

    pub(crate) fn options(&self, prefix: &str) -> EtcdOptions {
        EtcdOptions { endpoints: self.endpoints(), tls: None, prefix: prefix.into(), first_revision: Some(1) }
    }

    /// Opens a store whose revisions begin at 1, as soon as etcd has a leader.
    pub(crate) async fn store(&self, prefix: &str) -> EtcdStore {
        open(self.options(prefix)).await
    }
}

pub(crate) async fn open(options: EtcdOptions) -> EtcdStore {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match EtcdStore::open(options.clone()).await {
            Ok(store) => return store,
            Err(StoreError::Unavailable(_)) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) async fn shared(options: EtcdOptions) -> Arc<EtcdStore> {
    Arc::new(open(options).await)
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
