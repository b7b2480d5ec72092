//! Brings one blob into a growing file: checked, resumed where it broke, with patience that grows.

use std::time::Duration;

use bytes::Bytes;
use cirro_types::Digest;
use http::StatusCode;
use tokio::sync::mpsc;

use super::error::RegistryError;
use super::growing::Filling;
use super::http::Answer;
use super::progress::{Meter, ProgressSink};
use super::session::Session;
use crate::document::Descriptor;
use crate::error::Context as _;
use crate::hash::Hasher;

/// Attempts in a row that bring nothing.
pub(super) const ATTEMPTS: u32 = 5;
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// Pieces on their way to the disk.
const PIECES: usize = 32;

/// Fetches a blob whole or fails; the file's other side learns which.
pub(super) async fn download(
    session: &Session,
    blob: &Descriptor,
    filling: Filling,
    id: &str,
    progress: &ProgressSink,
) -> Result<(), RegistryError> {
    let (sender, pieces) = mpsc::channel(PIECES);
    let (digest, size) = (blob.digest, blob.size);
    let meter = Meter::new(progress, id, "Downloading", size);
    let writer = tokio::task::spawn_blocking(move || write(filling, pieces, digest, size));
    let fetched = fetch(session, blob, &sender, &meter, id, progress).await;
    drop(sender);
    let written = writer.await.map_err(|_| RegistryError::Cancelled)?;
    match fetched {
        // The writer went first, and says why.
        Err(RegistryError::Cancelled) => written?,
        other => other.and(written)?,
    }
    progress.layer(id, "Download complete");
    Ok(())
}

/// Writes and hashes what comes.
fn write(
    mut filling: Filling,
    mut pieces: mpsc::Receiver<Bytes>,
    expected: Digest,
    size: u64,
) -> Result<(), RegistryError> {
    let mut hasher = Hasher::new();
    let mut length = 0;
    while let Some(piece) = pieces.blocking_recv() {
        hasher.update(&piece);
        length += piece.len() as u64;
        filling.append(&piece).context(|| "write blob".into())?;
    }
    if length != size {
        return Err(RegistryError::Protocol(format!(
            "blob {expected} has {length} bytes, its descriptor says {size}: unexpected EOF"
        )));
    }
    let found = hasher.finish();
    if found != expected {
        return Err(RegistryError::Digest { expected, found });
    }
    filling.finish();
    Ok(())
}

async fn fetch(
    session: &Session,
    blob: &Descriptor,
    out: &mpsc::Sender<Bytes>,
    meter: &Meter,
    id: &str,
    progress: &ProgressSink,
) -> Result<(), RegistryError> {
    let (mut have, mut failures) = (0, 0);
    loop {
        let before = have;
        let error = match fetch_from(session, blob, &mut have, out, meter).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        failures = if have > before { 0 } else { failures + 1 };
        if !error.is_transient() || failures >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(blob = %blob.digest, have, %error, "download broke off");
        wait(failures, id, progress).await;
    }
}

/// Waits before another attempt: longer each time, and not everybody at the same moment.
pub(super) async fn wait(failures: u32, id: &str, progress: &ProgressSink) {
    let delay = FIRST_DELAY.saturating_mul(1 << failures.min(10)).min(LONGEST_DELAY);
    let noise = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let noise = noise.map_or(0, |now| now.subsec_nanos() % 500);
    if delay >= Duration::from_secs(1) {
        let seconds = delay.as_secs();
        let plural = if seconds == 1 { "" } else { "s" };
        progress.layer(id, &format!("Retrying in {seconds} second{plural}"));
    }
    tokio::time::sleep(delay + Duration::from_millis(noise.into())).await;
}

/// Returns how much of an answer that was to begin at `have` is here already: who does not know ranges begins again.
pub(super) fn begun(answer: &Answer, digest: &Digest, have: u64) -> Result<u64, RegistryError> {
    if answer.status != StatusCode::PARTIAL_CONTENT {
        return Ok(have);
    }
    let begins = answer
        .header("content-range")
        .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok());
    if begins == Some(have) {
        return Ok(0);
    }
    Err(RegistryError::Protocol(format!("blob {digest}: another range came than was asked for")))
}

async fn fetch_from(
    session: &Session,
    blob: &Descriptor,
    have: &mut u64,
    out: &mpsc::Sender<Bytes>,
    meter: &Meter,
) -> Result<(), RegistryError> {
    if *have == blob.size {
        return Ok(());
    }
    let mut answer = session.blob(&blob.digest, *have).await?;
    let mut skip = begun(&answer, &blob.digest, *have)?;
    while let Some(mut piece) = answer.piece().await? {
        let passed = skip.min(piece.len() as u64);
        skip -= passed;
        drop(piece.split_to(passed as usize));
        if *have + piece.len() as u64 > blob.size {
            return Err(RegistryError::Protocol(format!(
                "blob {} is larger than the {} bytes that its descriptor says",
                blob.digest, blob.size
            )));
        }
        if piece.is_empty() {
            continue;
        }
        *have += piece.len() as u64;
        meter.at(*have);
        // The writer is gone when the disk failed; it says why.
        out.send(piece).await.map_err(|_| RegistryError::Cancelled)?;
    }
    if *have < blob.size {
        return Err(RegistryError::Transport {
            verb: "Get",
            url: super::http::shown(&answer.url),
            reason: "unexpected EOF".into(),
        });
    }
    meter.end();
    Ok(())
}
