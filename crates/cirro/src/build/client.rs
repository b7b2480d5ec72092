//! The request of a build, and its answer line by line.

use std::io;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::context::{self, Source};
use super::order::{MAX_ORDER, Order, Told};
use crate::control::is_absent;

/// Bytes of a line of the answer, and of an error.
const MAX_LINE: usize = 4 << 20;

/// What the daemon tells of a build. Dropping it ends the build.
pub(super) struct Telling {
    body: Incoming,
    rest: BytesMut,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Asks the daemon to build; returns when it has the context.
pub(super) async fn build(socket: &Path, order: &Order, source: Source) -> anyhow::Result<Telling> {
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        Err(error) if is_absent(&error) => bail!("the daemon is not running; start it with `cirro up`"),
        Err(error) => return Err(error).with_context(|| format!("connect to {}", socket.display())),
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let document = serde_json::to_vec(order)?;
    ensure!(document.len() <= MAX_ORDER, "Dockerfile and secrets are larger than {MAX_ORDER} bytes");
    let head = [&u32::try_from(document.len())?.to_be_bytes()[..], &document].concat();
    let pieces = context::read(source, order.dockerfile.clone(), order.ignore_text.clone());
    // Why the context ended early is known here, and not to the daemon.
    let (broken, why) = std::sync::mpsc::channel();
    let pieces =
        futures_util::stream::unfold(pieces, |mut pieces| async { Some((pieces.recv().await?, pieces)) });
    let frames =
        futures_util::stream::once(async { Ok(Bytes::from(head)) }).chain(pieces).map(move |piece| {
            piece.map(Frame::data).inspect_err(|error: &io::Error| drop(broken.send(error.to_string())))
        });
    let body = StreamBody::new(Box::pin(frames));
    let request = http::Request::post("/build").header("host", "cirro").body(body)?;
    let response = match sender.send_request(request).await {
        Ok(response) => response,
        Err(error) => match why.try_recv() {
            Ok(why) => bail!("{why}"),
            Err(_) => return Err(error).context("ask the daemon"),
        },
    };
    let status = response.status();
    let body = response.into_body();
    if status.is_success() {
        return Ok(Telling { body, rest: BytesMut::new(), connection });
    }
    let said = Limited::new(body, MAX_LINE).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    bail!("{}", String::from_utf8_lossy(&said));
}

impl Telling {
    /// Returns what is told next; `None` at the end.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Told>> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line = self.rest.split_to(end + 1);
                return Ok(Some(serde_json::from_slice(&line).context("read what the daemon tells")?));
            }
            ensure!(self.rest.len() < MAX_LINE, "the daemon tells more than {MAX_LINE} bytes in a line");
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.context("the daemon ended before the build did")?;
                    if let Ok(bytes) = frame.into_data() {
                        self.rest.extend_from_slice(&bytes);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}
