//! One registry by its address, as a mirror of it needs it: single documents and blobs, nothing of the library.

use std::sync::Arc;

use bytes::Bytes;
use cirro_types::Digest;
use tokio::sync::mpsc;

use super::connect::Connector;
use super::download::{ATTEMPTS, begun, wait};
use super::error::RegistryError;
use super::options::{Credentials, Endpoint};
use super::progress::ProgressSink;
use super::session::{Access, Session};
use super::{MAX_DOCUMENT, Registry};

/// A registry at an address.
#[derive(Clone)]
pub struct Origin {
    connector: Arc<Connector>,
    endpoint: Endpoint,
    credentials: Credentials,
}

impl Registry {
    /// Names a registry by its address, `http[s]://host[:port][/path]`; nothing is asked yet.
    ///
    /// # Errors
    /// The address cannot be meant.
    pub fn origin(&self, address: &str, credentials: Credentials) -> Result<Origin, RegistryError> {
        let endpoint = Endpoint { mirror: false, ..Endpoint::of_mirror(address, &self.options)? };
        Ok(Origin { connector: Arc::clone(&self.connector), endpoint, credentials })
    }
}

impl Origin {
    /// Fetches a manifest or index by tag or digest; returns its bytes and the type that it was sent as.
    ///
    /// # Errors
    /// Also when the bytes are not what a SHA-256 digest, asked for or stated, says.
    pub async fn manifest(
        &self,
        repository: &str,
        name: &str,
    ) -> Result<(Bytes, Option<String>), RegistryError> {
        let fetched = self.session(repository).manifest(name, MAX_DOCUMENT).await?;
        Ok((fetched.bytes, fetched.media_type))
    }

    /// Fetches a blob, going on where a connection broke off; its digest is for the receiver to check.
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        pieces: &mpsc::Sender<Bytes>,
    ) -> Result<(), RegistryError> {
        let session = self.session(repository);
        let (mut have, mut failures) = (0, 0);
        loop {
            let before = have;
            let error = match fetch(&session, digest, &mut have, pieces).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            failures = if have > before { 0 } else { failures + 1 };
            // Nothing yet: whoever asks is told soon that upstream does not answer.
            if have == 0 || !error.is_transient() || failures >= ATTEMPTS {
                return Err(error);
            }
            tracing::debug!(%digest, have, %error, "a mirror's download broke off");
            wait(failures, "", &ProgressSink::nowhere()).await;
        }
    }

    fn session(&self, repository: &str) -> Session {
        let name = (self.endpoint.host.as_str(), repository);
        let (connector, credentials) = (Arc::clone(&self.connector), self.credentials.clone());
        Session::new(connector, self.endpoint.clone(), name, credentials, Access::Pull, Vec::new())
    }
}

async fn fetch(
    session: &Session,
    digest: &Digest,
    have: &mut u64,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<(), RegistryError> {
    let mut answer = session.blob(digest, *have).await?;
    let mut skip = begun(&answer, digest, *have)?;
    while let Some(mut piece) = answer.piece().await? {
        let passed = skip.min(piece.len() as u64);
        skip -= passed;
        drop(piece.split_to(passed as usize));
        *have += piece.len() as u64;
        // The writer is gone when it has no place, or got more than it was told of; it says why.
        pieces.send(piece).await.map_err(|_| RegistryError::Cancelled)?;
    }
    Ok(())
}
