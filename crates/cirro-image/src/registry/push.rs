//! Pushes an image: layers that are missing there, the configuration, and last the manifest.
//!
//! What was pulled is pushed with the manifest that it came with, byte for byte, as long as its blobs are here or
//! there. Anything else gets a manifest of Docker's schema 2; a layer without a blob is compressed once, and the
//! blob is kept, so that the next push finds it there.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cirro_types::{Digest, ImageReference};
use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::download::wait;
use super::error::RegistryError;
use super::http::{Answer, Ask, Payload, is_local};
use super::progress::{Meter, Progress, ProgressSink};
use super::pull::blocking;
use super::reach::Reach;
use super::session::{Session, expect, expect_begin};
use crate::blobs::Blob;
use crate::document::{Descriptor, Document};
use crate::layers::Pins;
use crate::library::Library;
use crate::media;

/// Layers that are sent at the same time.
const AT_ONCE: usize = 4;
const ATTEMPTS: u32 = 5;
/// Bytes that are read and sent at once.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
/// Length of a part where a server does not take a blob in one request.
const PART: u64 = 8 << 20;
/// Repositories that are tried as a source of a blob.
const MAX_SOURCES: usize = 4;

/// One push on its way.
pub(super) struct Push<'a> {
    pub(super) library: &'a Library,
    pub(super) session: Arc<Session>,
    /// The registry as references name it.
    pub(super) domain: &'a str,
    pub(super) progress: &'a ProgressSink,
}

/// An image that is to be pushed; its layers are pinned.
struct Image {
    id: Digest,
    config: Vec<u8>,
    diff_ids: Vec<Digest>,
    manifest: Option<(String, String)>,
    _pins: Pins,
}

impl Push<'_> {
    /// Pushes one tag; returns the digest of its manifest.
    pub(super) async fn one(&self, reference: &ImageReference) -> Result<Digest, RegistryError> {
        let Some(tag) = reference.tag.clone() else {
            return Err(RegistryError::Protocol("cannot push a digest reference".into()));
        };
        let image = self.image(reference).await?;
        for diff_id in image.diff_ids.iter().rev() {
            self.progress.layer(&diff_id.short(), "Preparing");
        }
        let (media_type, manifest) = match self.same_again(&image).await? {
            Some(same) => same,
            None => self.made_new(&image).await?,
        };
        let digest = Digest::of(manifest.as_bytes());
        self.config(&image).await?;
        let mut ask = self.session.ask(Method::PUT, &format!("{}/manifests/{tag}", self.session.repository));
        ask.payload = Payload::Whole(manifest.clone().into());
        let mut answer = self.session.send(ask.header(CONTENT_TYPE, &media_type)).await?;
        expect(&mut answer, &[StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED]).await?;
        let size = manifest.len() as u64;
        let (library, id) = (self.library.clone(), image.id);
        let pinned = ImageReference { tag: None, digest: Some(digest), ..reference.clone() };
        blocking(move || Ok(library.note_pushed(&id, &pinned, media_type, manifest)?)).await?;
        self.progress.status(None, format!("{tag}: digest: {digest} size: {size}"));
        self.progress.tell(Progress::Pushed { tag, digest, size });
        Ok(digest)
    }

    async fn image(&self, reference: &ImageReference) -> Result<Image, RegistryError> {
        let (library, reference) = (self.library.clone(), reference.clone());
        blocking(move || {
            let found = library.find(&reference.to_string()).map_err(|_| {
                RegistryError::NotFound(format!("tag does not exist: {}", reference.familiar()))
            })?;
            let diff_ids = found.config.rootfs.diff_ids.clone();
            let pins = library.pin(&diff_ids)?;
            let config = library.config_document(&found.id)?;
            let manifest = library.manifest(&found.id)?;
            Ok(Image { id: found.id, config, diff_ids, manifest, _pins: pins })
        })
        .await
    }

    /// Pushes what the image was pulled as, if all of it is here or there.
    async fn same_again(&self, image: &Image) -> Result<Option<(String, String)>, RegistryError> {
        let Some((media_type, document)) = &image.manifest else { return Ok(None) };
        let Ok(Document::Manifest(manifest)) = Document::parse(document.as_bytes(), Some(media_type)) else {
            return Ok(None);
        };
        if manifest.config.digest != image.id || manifest.layers.len() != image.diff_ids.len() {
            return Ok(None);
        }
        let mut missing = Vec::new();
        for (layer, diff_id) in manifest.layers.iter().zip(&image.diff_ids) {
            if self.library.blob(&layer.digest).is_none() && !self.is_there(&layer.digest).await? {
                return Ok(None);
            }
            missing.push((layer.clone(), *diff_id));
        }
        self.layers(missing).await?;
        Ok(Some((media_type.clone(), document.clone())))
    }

    /// Pushes under a manifest that is made now.
    async fn made_new(&self, image: &Image) -> Result<(String, String), RegistryError> {
        let mut layers = Vec::new();
        for diff_id in &image.diff_ids {
            let (digest, blob) = match self.library.blobs_of(diff_id).into_iter().next() {
                Some(known) => known,
                None => self.compressed(*diff_id).await?,
            };
            layers.push((Descriptor::new(&blob.media_type, digest, blob.size), *diff_id));
        }
        // Docker's schema has no zstd in old clients.
        let zstd = layers.iter().any(|(layer, _)| layer.media_type.ends_with("zstd"));
        let types = if zstd { Types::OCI } else { Types::DOCKER };
        let listed: Vec<_> = layers
            .iter()
            .map(|(layer, _)| json!({"mediaType": types.layer(&layer.media_type), "size": layer.size, "digest": layer.digest}))
            .collect();
        self.layers(layers).await?;
        let document = json!({
            "schemaVersion": 2,
            "mediaType": types.manifest,
            "config": {"mediaType": types.config, "size": image.config.len(), "digest": image.id},
            "layers": listed,
        });
        Ok((types.manifest.to_owned(), indented(&document)))
    }

    async fn compressed(&self, diff_id: Digest) -> Result<(Digest, Blob), RegistryError> {
        let library = self.library.clone();
        blocking(move || Ok(library.compress_layer(&diff_id)?)).await
    }

    async fn layers(&self, layers: Vec<(Descriptor, Digest)>) -> Result<(), RegistryError> {
        let mut seen = std::collections::HashSet::new();
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut work = JoinSet::new();
        // From the top, as docker shows them.
        for (blob, diff_id) in layers.into_iter().rev() {
            if !seen.insert(blob.digest) {
                continue;
            }
            let one = Upload {
                library: self.library.clone(),
                session: Arc::clone(&self.session),
                domain: self.domain.to_owned(),
                progress: self.progress.clone(),
                id: diff_id.short(),
                blob,
            };
            let permits = Arc::clone(&permits);
            work.spawn(async move {
                let _permit = permits.acquire_owned().await.map_err(|_| RegistryError::Cancelled)?;
                one.send().await
            });
        }
        while let Some(done) = work.join_next().await {
            done.map_err(|_| RegistryError::Cancelled)??;
        }
        Ok(())
    }

    async fn config(&self, image: &Image) -> Result<(), RegistryError> {
        if self.is_there(&image.id).await? {
            return Ok(());
        }
        let location = begin(&self.session).await?;
        let mut ask = self.elsewhere(Method::PUT, with_digest(&location, &image.id));
        ask.payload = Payload::Whole(image.config.clone().into());
        let mut answer = self.session.send(ask.header(CONTENT_TYPE, "application/octet-stream")).await?;
        expect(&mut answer, &[StatusCode::CREATED, StatusCode::OK]).await
    }

    async fn is_there(&self, digest: &Digest) -> Result<bool, RegistryError> {
        is_there(&self.session, digest).await
    }

    fn elsewhere(&self, method: Method, url: String) -> Ask {
        elsewhere(&self.session, method, url)
    }
}

/// Names of the same things in the two families.
struct Types {
    manifest: &'static str,
    config: &'static str,
    layers: [&'static str; 3],
}

impl Types {
    const DOCKER: Self = Self {
        manifest: media::DOCKER_MANIFEST,
        config: media::DOCKER_CONFIG,
        layers: [media::DOCKER_LAYER, media::DOCKER_LAYER_GZIP, media::DOCKER_LAYER_ZSTD],
    };
    const OCI: Self = Self {
        manifest: media::OCI_MANIFEST,
        config: media::OCI_CONFIG,
        layers: [media::OCI_LAYER, media::OCI_LAYER_GZIP, media::OCI_LAYER_ZSTD],
    };

    fn layer(&self, media_type: &str) -> &'static str {
        let [plain, gzip, zstd] = self.layers;
        match media_type {
            _ if media_type.ends_with("gzip") => gzip,
            _ if media_type.ends_with("zstd") => zstd,
            _ => plain,
        }
    }
}

/// Writes a document as docker does: with three blanks for each level.
fn indented(document: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    document.serialize(&mut serializer).expect("values have string keys");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// One layer of a push.
struct Upload {
    library: Library,
    session: Arc<Session>,
    domain: String,
    progress: ProgressSink,
    id: String,
    blob: Descriptor,
}

impl Upload {
    async fn send(self) -> Result<(), RegistryError> {
        if is_there(&self.session, &self.blob.digest).await? {
            self.progress.layer(&self.id, "Layer already exists");
            return self.note();
        }
        let known = self.library.blob(&self.blob.digest);
        let sources = known.map(|known| known.sources).unwrap_or_default();
        let prefix = format!("{}/", self.domain);
        let repositories = sources.iter().filter_map(|source| source.strip_prefix(&prefix));
        for repository in repositories.filter(|path| *path != self.session.repository).take(MAX_SOURCES) {
            if self.mounted(repository).await? {
                self.progress.layer(&self.id, &format!("Mounted from {repository}"));
                return self.note();
            }
        }
        let mut failures = 0;
        let mut parts = false;
        loop {
            let error = match self.upload(parts).await {
                Ok(()) => break,
                Err(error) => error,
            };
            failures += 1;
            // Something on the way does not take requests of this length.
            let too_large = matches!(error, RegistryError::Refused { status: 413, .. });
            if failures >= ATTEMPTS || !(error.is_transient() || (too_large && !parts)) {
                return Err(error);
            }
            parts |= too_large;
            wait(failures, &self.id, &self.progress).await;
        }
        self.progress.layer(&self.id, "Pushed");
        self.note()
    }

    fn note(&self) -> Result<(), RegistryError> {
        Ok(self.library.note_source(&self.blob.digest, &self.session.source())?)
    }

    /// Asks for the blob from another repository of the same registry.
    async fn mounted(&self, repository: &str) -> Result<bool, RegistryError> {
        let query = format!("?mount={}&from={repository}", self.blob.digest);
        let path = format!("{}/blobs/uploads/{query}", self.session.repository);
        let mut answer = self.session.send(self.session.ask(Method::POST, &path)).await?;
        match answer.status {
            StatusCode::CREATED => Ok(true),
            // An upload was begun instead. It is given up: another repository may have the blob.
            StatusCode::ACCEPTED => {
                let location = answer.location()?;
                expect(&mut answer, &[StatusCode::ACCEPTED]).await?;
                let cancel = elsewhere(&self.session, Method::DELETE, location);
                if let Ok(mut answer) = self.session.send(cancel).await {
                    let _ = answer.document(1 << 20).await;
                }
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    async fn upload(&self, parts: bool) -> Result<(), RegistryError> {
        let mut location = begin(&self.session).await?;
        let (size, digest) = (self.blob.size, self.blob.digest);
        let meter = Arc::new(Meter::new(&self.progress, &self.id, "Pushing", size));
        if !parts {
            let mut ask = elsewhere(&self.session, Method::PUT, with_digest(&location, &digest));
            ask.payload = Payload::Stream(self.body(0, size, &meter)?, size);
            let mut answer = self.session.send(ask.header(CONTENT_TYPE, "application/octet-stream")).await?;
            return expect(&mut answer, &[StatusCode::CREATED, StatusCode::OK]).await;
        }
        let mut at = 0;
        while at < size {
            let length = PART.min(size - at);
            let mut ask = elsewhere(&self.session, Method::PATCH, location.clone());
            ask.payload = Payload::Stream(self.body(at, length, &meter)?, length);
            let range = format!("{at}-{}", at + length - 1);
            let ask = ask.header(CONTENT_TYPE, "application/octet-stream").header(CONTENT_RANGE, &range);
            let mut answer = self.session.send(ask).await?;
            expect_begin(&mut answer, &[StatusCode::ACCEPTED, StatusCode::OK, StatusCode::NO_CONTENT])
                .await?;
            location = answer.location()?;
            answer.document(1 << 20).await?;
            at += length;
        }
        let ask = elsewhere(&self.session, Method::PUT, with_digest(&location, &digest));
        let mut answer = self.session.send(ask).await?;
        expect(&mut answer, &[StatusCode::CREATED, StatusCode::OK]).await
    }

    /// Reads a part of the blob's file on a thread of its own.
    fn body(
        &self,
        from: u64,
        length: u64,
        meter: &Arc<Meter>,
    ) -> Result<super::connect::RequestBody, RegistryError> {
        use std::io::Seek as _;
        let mut file = self.library.open_blob(&self.blob.digest)?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let meter = Arc::clone(meter);
        tokio::task::spawn_blocking(move || {
            let mut left = length;
            let mut result = file.seek(std::io::SeekFrom::Start(from)).map(drop);
            while left > 0 && result.is_ok() {
                let mut piece = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
                result = file.read_exact(&mut piece);
                left -= piece.len() as u64;
                meter.at(from + length - left);
                let piece = result.as_ref().map(|()| Bytes::from(piece)).map_err(|error| error.kind().into());
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        Ok(Pieces(pieces).boxed_unsync())
    }
}

/// A body that comes through a channel.
struct Pieces(mpsc::Receiver<std::io::Result<Bytes>>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

async fn is_there(session: &Session, digest: &Digest) -> Result<bool, RegistryError> {
    let mut answer =
        session.send(session.ask(Method::HEAD, &format!("{}/blobs/{digest}", session.repository))).await?;
    match answer.status {
        StatusCode::OK => {
            answer.document(0).await?;
            Ok(true)
        }
        StatusCode::NOT_FOUND => {
            answer.document(1 << 20).await?;
            Ok(false)
        }
        _ => expect(&mut answer, &[]).await.map(|()| false),
    }
}

/// Begins an upload; returns where it goes.
async fn begin(session: &Session) -> Result<String, RegistryError> {
    let path = format!("{}/blobs/uploads/", session.repository);
    let mut answer: Answer = session.send(session.ask(Method::POST, &path)).await?;
    expect_begin(&mut answer, &[StatusCode::ACCEPTED]).await?;
    let location = answer.location()?;
    answer.document(1 << 20).await?;
    Ok(location)
}

/// Makes a request to an address that the registry gave. The authorization goes along to its own host only.
fn elsewhere(session: &Session, method: Method, url: String) -> Ask {
    // A registry on this machine may send us to this machine.
    let near = session.is_own(&url) || is_local(&session.endpoint.url(""));
    let reach = if near { Reach::Any } else { Reach::Outside };
    let mut ask = Ask::new(method, url, session.endpoint.verify);
    ask.reach = reach;
    ask
}

fn with_digest(location: &str, digest: &Digest) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={}", super::http::escape(&digest.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_written_as_docker_writes_it() {
        let text = indented(&json!({"schemaVersion": 2, "layers": [{"size": 1}]}));
        assert_eq!(
            text,
            "{\n   \"layers\": [\n      {\n         \"size\": 1\n      }\n   ],\n   \"schemaVersion\": 2\n}"
        );
    }

    #[test]
    fn layers_get_the_type_of_their_family() {
        assert_eq!(Types::DOCKER.layer(media::OCI_LAYER_GZIP), media::DOCKER_LAYER_GZIP);
        assert_eq!(Types::OCI.layer(media::DOCKER_LAYER), media::OCI_LAYER);
    }
}
