//! Connections to a pod's ports.
//!
//! ```text
//! kubectl 1.30 and later: websocket ─▶ SPDY ─▶ pairs of streams ─┐
//! older kubectl:                        SPDY ─▶ pairs of streams ─┼─▶ the pod's loopback
//! other clients: websocket ─▶ two channels for each port ─────────┘
//! ```
//! Source: KEP-4006; kubelet's `pkg/kubelet/server/portforward` in its cri-streaming form.

mod channels;
mod pairs;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use axum::response::IntoResponse as _;
use bytes::{Bytes, BytesMut};
use cirro_seams::api::ApiError;
use cirro_seams::node::{Connection, NodeStreams};
use futures_util::{Stream, StreamExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;

use super::upgrade::{self, Spdy, Upgrade};
use super::{Call, tunnel};
use crate::error;
use crate::json;

/// The protocol of the streams.
const PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What a websocket may carry; without a protocol it carries channels too.
const WEBSOCKETS: &[&str] = &[TUNNEL, channels::BINARY, channels::BASE64, ""];
/// Largest message of a client.
const MAX_MESSAGE: usize = 1024 * 1024;
/// Bytes that are read from a pod at once.
const PIECE: usize = 32 * 1024;
/// How long a pod that has sent its last byte waits for the client's.
const GRACE: Duration = Duration::from_secs(1);

/// Where a pod's bytes go.
trait Client: Send + Sync {
    /// Passes bytes on.
    fn send(&self, bytes: Bytes) -> impl Future<Output = Result<(), Gone>> + Send;
    /// Says that there are no more.
    fn finish(&self) -> impl Future<Output = ()> + Send;
}

/// The client is gone.
struct Gone;

/// The pod that connections go to.
#[derive(Clone)]
struct Target {
    streams: Arc<dyn NodeStreams>,
    uid: String,
    /// As errors name it.
    pod: String,
}

impl Call {
    /// Carries connections between the client and a pod's ports.
    pub(super) async fn port_forward(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let pod = self.server.storage.get(self.place()).await?;
        if json::text(&pod, "spec.nodeName").is_empty() {
            let name = json::name(&pod);
            return Err(error::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let target = self.port_target(&pod)?;
        match upgrade::asked(request.headers())? {
            Upgrade::Spdy => Ok(match Spdy::negotiate(request, &[PROTOCOL])? {
                Ok(spdy) => spdy.on_upgrade(|connection| pairs::serve(connection, target)),
                Err(refusal) => refusal,
            }),
            Upgrade::WebSocket => self.over_websocket(request, target).await,
        }
    }

    fn port_target(&self, pod: &Value) -> Result<Target, ApiError> {
        let name = format!("{}_{}", json::name(pod), self.namespace());
        let uid = json::text(pod, "metadata.uid").to_owned();
        Ok(Target { streams: self.server.node_streams()?, uid, pod: name })
    }

    async fn over_websocket(
        &self,
        request: Request<Body>,
        target: Target,
    ) -> Result<Response<Body>, ApiError> {
        let socket = upgrade::websocket(request, WEBSOCKETS).await?.max_message_size(MAX_MESSAGE);
        let protocol = socket.selected_protocol().and_then(|name| name.to_str().ok()).unwrap_or_default();
        if protocol == TUNNEL {
            let tunnelled = socket.on_upgrade(|socket| async move {
                pairs::serve(cirro_spdy::Connection::accept(tunnel::bytes_of(socket)), target).await;
            });
            return Ok(tunnelled.into_response());
        }
        let ports = channels::ports(&self.query.all("ports"))?;
        let base64 = protocol == channels::BASE64;
        let channels = socket.on_upgrade(move |socket| channels::serve(socket, target, ports, base64));
        Ok(channels.into_response())
    }
}

impl Target {
    /// Connects to a port, or says why not as a client is told.
    async fn connect(&self, port: u16) -> Result<Connection, String> {
        let connecting = self.streams.connect_pod(&self.uid, port).await;
        let (pod, uid) = (&self.pod, &self.uid);
        connecting.map_err(|why| format!("error forwarding port {port} to pod {pod}, uid {uid}: {why}"))
    }
}

/// Carries bytes until the pod has sent its last one and the client too, or one of them is gone.
///
/// A client that has sent its last byte may wait for the answer as long as it likes. A pod that has sent its last
/// one waits for the client's only briefly: kubectl closes its side when the whole is over, not before.
async fn carry(connection: Connection, mut input: impl Stream<Item = Bytes> + Unpin, client: impl Client) {
    let (mut read, mut write) = tokio::io::split(connection);
    let over = Notify::new();
    let to_pod = async {
        while let Some(bytes) = input.next().await {
            if write.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    };
    let to_pod = async {
        let late = async {
            over.notified().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! { () = to_pod => {}, () = late => {} }
    };
    let to_client = async {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(PIECE);
            match read.read_buf(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
            if client.send(buffer.split().freeze()).await.is_err() {
                break;
            }
        }
        client.finish().await;
        over.notify_one();
    };
    tokio::join!(to_pod, to_client);
}
