//! Connections to what listens on a sandbox's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cirro_seams::node::Connection;
use cirro_sys::netns::Netns;
use tokio::net::{TcpSocket, TcpStream};

use crate::Engine;
use crate::error::EngineError;

/// A loopback answers at once, unless the listener's queue is full.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Connects to a port on the loopback of a sandbox: IPv4 first, then IPv6.
    pub(super) async fn connect_sandbox(&self, uid: &str, port: u16) -> Result<Connection, EngineError> {
        let (namespace, _) = self.sandbox_network(uid)?;
        let mut refusals = Vec::new();
        for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let address = SocketAddr::new(ip, port);
            match connect(namespace.clone(), address).await {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(why) => refusals.push(format!("dial tcp {address}: {why}")),
            }
        }
        let place = namespace.map_or("host".to_owned(), |path| path.display().to_string());
        Err(EngineError::Failed(format!(
            "failed to connect to localhost:{port} inside namespace {place:?}: {}",
            refusals.join(", ")
        )))
    }
}

/// Connects from inside a namespace; a socket stays in the one that it was made in.
async fn connect(namespace: Option<PathBuf>, address: SocketAddr) -> io::Result<TcpStream> {
    let make = move || match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    };
    let socket = match namespace {
        None => make()?,
        Some(path) => tokio::task::spawn_blocking(move || Netns::open(&path)?.run(make)?)
            .await
            .map_err(io::Error::other)??,
    };
    let stream = tokio::time::timeout(PATIENCE, socket.connect(address)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}
