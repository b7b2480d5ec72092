//! Pairs of SPDY streams: for each connection one of data and one for what goes wrong.
//!
//! kubectl begins the second only when the first was accepted, so each is at once.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use cirro_spdy::{Connection, Reader, Stream, Writer};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Client, Gone, Target, carry};

/// A stream whose partner does not come is given up after so long.
const PARTNER_TIMEOUT: Duration = Duration::from_secs(30);

/// One half of a pair that waits for the other.
struct Half {
    port: u16,
    since: Instant,
    reader: Reader,
    writer: Writer,
}

/// Serves pairs until the client is gone.
pub(super) async fn serve(mut connection: Connection, target: Target) {
    let mut waiting: HashMap<(String, bool), Half> = HashMap::new();
    let mut running = JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connection.next() => stream,
            Some(_) = running.join_next() => continue,
        };
        let Some(stream) = stream else { break };
        waiting.retain(|_, half| half.since.elapsed() < PARTNER_TIMEOUT);
        // Refused when it is dropped.
        let Some((request, is_error, port)) = meaning(&stream) else { continue };
        let Ok((reader, writer)) = stream.accept().await else { break };
        let half = Half { port, since: Instant::now(), reader, writer };
        match waiting.remove(&(request.clone(), !is_error)) {
            None => drop(waiting.insert((request, is_error), half)),
            Some(other) if other.port != port => {}
            Some(other) => {
                let (data, error) = if is_error { (other, half) } else { (half, other) };
                running.spawn(forward(data, error.writer, target.clone()));
            }
        }
    }
    running.shutdown().await;
}

/// Reads a stream's request, whether it is the one for errors, and its port.
fn meaning(stream: &Stream) -> Option<(String, bool, u16)> {
    let headers = stream.headers();
    let is_error = match headers.get("streamtype") {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    let port = headers.get("port").parse().ok().filter(|port| *port > 0)?;
    Some((headers.get("requestid").to_owned(), is_error, port))
}

async fn forward(data: Half, error: Writer, target: Target) {
    let Half { port, reader, writer, .. } = data;
    match target.connect(port).await {
        Err(why) => {
            let _ = error.send(why.into()).await;
            error.finish().await;
            writer.finish().await;
        }
        Ok(connection) => {
            let reset = reader.closed();
            tokio::select! {
                () = copy(connection, reader, writer) => error.finish().await,
                () = reset => {}
            }
        }
    }
}

async fn copy(connection: cirro_seams::node::Connection, reader: Reader, writer: Writer) {
    let input = futures_util::stream::unfold(reader, |mut reader| async move {
        let bytes = reader.next().await?;
        Some((bytes, reader))
    });
    carry(connection, std::pin::pin!(input), writer).await;
}

impl Client for Writer {
    async fn send(&self, bytes: Bytes) -> Result<(), Gone> {
        Writer::send(self, bytes).await.map_err(|_| Gone)
    }

    async fn finish(&self) {
        Writer::finish(self).await;
    }
}
