//! Pushing blobs: at once, in one stream, in chunks, or by mounting what another repository has.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use cirro_image::distribution::{Algorithm, BlobDigest, DistributionError, RepositoryName, Upload};
use futures_util::StreamExt as _;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::sync::mpsc;

use crate::Registry;
use crate::access::Who;
use crate::config::Action;
use crate::error::{Fault, blocking};
use crate::range;
use crate::request::Head;
use crate::stream::pieces;

/// A client that sends nothing for so long is let go; what it sent is kept.
const SILENCE: Duration = Duration::from_secs(120);
/// Pieces that wait to be written.
const WAITING: usize = 8;

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const UPLOAD: HeaderName = HeaderName::from_static("docker-upload-uuid");

impl Registry {
    /// `POST /v2/<name>/blobs/uploads/`
    pub(crate) async fn start_upload(
        &self,
        head: &Head,
        who: &Who,
        name: RepositoryName,
        body: Body,
    ) -> Result<Response, Fault> {
        let digest = head.query("digest").map(parse_digest).transpose()?;
        if let Some(mount) = head.query("mount") {
            let mount = parse_digest(mount)?;
            if self.mount(head, who, &name, mount.clone()).await? {
                return created(&name, &mount);
            }
        }
        let algorithm = match (&digest, head.query("digest-algorithm")) {
            (Some(digest), _) => digest.algorithm(),
            (None, Some(text)) => text.parse().map_err(|_| {
                Fault::DigestInvalid(format!("digest algorithm `{}` is not supported", text.escape_debug()))
            })?,
            (None, None) => Algorithm::Sha256,
        };
        let distribution = self.shared.distribution.clone();
        let repository = name.clone();
        let upload = blocking(move || distribution.start_upload(&repository, algorithm)).await?;
        let Some(digest) = digest else { return accepted(&name, upload.id(), upload.offset()) };
        let id = upload.id().to_owned();
        match self.receive(upload, head, body).await {
            Ok(upload) => self.finish(&name, upload, digest).await,
            // Nobody knows its id, so nobody can go on with it.
            Err(fault) => {
                let _ = self.forget(&name, id).await;
                Err(fault)
            }
        }
    }

    /// Everything under `/v2/<name>/blobs/uploads/<id>`.
    pub(crate) async fn upload(
        &self,
        head: &Head,
        name: RepositoryName,
        id: String,
        body: Body,
    ) -> Result<Response, Fault> {
        if head.method == Method::DELETE {
            self.forget(&name, id).await?;
            return respond(StatusCode::NO_CONTENT, &[]);
        }
        let digest = match head.method {
            Method::PUT => {
                let text =
                    head.query("digest").ok_or_else(|| Fault::DigestInvalid("digest is missing".into()))?;
                Some(parse_digest(text)?)
            }
            _ => None,
        };
        let distribution = self.shared.distribution.clone();
        let (repository, wanted) = (name.clone(), id.clone());
        let upload = blocking(move || distribution.resume_upload(&repository, &wanted)).await?;
        if head.method == Method::GET {
            return respond(
                StatusCode::NO_CONTENT,
                &[
                    (header::LOCATION, text(&location(&name, &id))?),
                    (header::RANGE, range::received(upload.offset())),
                    (UPLOAD, text(&id)?),
                ],
            );
        }
        self.check_chunk(head, &name, &upload)?;
        let upload = self.receive(upload, head, body).await?;
        match digest {
            Some(digest) => self.finish(&name, upload, digest).await,
            None => accepted(&name, upload.id(), upload.offset()),
        }
    }

    /// Tells whether a blob was there to be mounted; without the right to read it, it is as if it was not there.
    async fn mount(
        &self,
        head: &Head,
        who: &Who,
        name: &RepositoryName,
        digest: BlobDigest,
    ) -> Result<bool, Fault> {
        let from = head.query("from").map(str::parse::<RepositoryName>);
        let Ok(from) = from.transpose() else { return Ok(false) };
        let (registry, who, to) = (self.clone(), who.clone(), name.clone());
        blocking(move || {
            let may_read = |other: &RepositoryName| registry.shared.access.allows(&who, other, Action::Pull);
            registry.shared.distribution.mount_blob(&to, &digest, from.as_ref(), &may_read)
        })
        .await
    }

    /// A chunk must begin where the last one ended, and be as long as it says.
    fn check_chunk(&self, head: &Head, name: &RepositoryName, upload: &Upload) -> Result<(), Fault> {
        let Some(value) = head.headers.get(header::CONTENT_RANGE) else { return Ok(()) };
        let offset = upload.offset();
        let out_of_order =
            |message: String| Fault::OutOfOrder { message, location: location(name, upload.id()), offset };
        let Some((first, last)) = range::chunk(value) else {
            return Err(out_of_order("Content-Range is malformed".into()));
        };
        if first != offset {
            return Err(out_of_order(DistributionError::OutOfOrder { start: first, offset }.to_string()));
        }
        match head.content_length() {
            Some(length) if length != last - first + 1 => {
                let message =
                    format!("Content-Range has {} bytes, Content-Length says {length}", last - first + 1);
                Err(out_of_order(message))
            }
            _ => Ok(()),
        }
    }

    /// Appends a body; a thread writes while the next piece comes in. When the client goes away, what came stays.
    async fn receive(&self, upload: Upload, head: &Head, body: Body) -> Result<Upload, Fault> {
        if head.content_length() == Some(0) {
            return Ok(upload);
        }
        let limit = match head.headers.get(header::CONTENT_RANGE).and_then(range::chunk) {
            Some((first, last)) => last - first + 1,
            None => u64::MAX,
        };
        let slots = self.shared.receiving.clone();
        let slot = slots.acquire_owned().await.map_err(|_| Fault::Failed("uploads are closed".into()))?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(WAITING);
        let writing = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let mut upload = upload;
            while let Some(piece) = receiver.blocking_recv() {
                upload.write(&piece)?;
            }
            Ok::<_, DistributionError>(upload)
        });
        let mut pieces = pieces(body);
        let (mut received, mut broken) = (0_u64, None);
        loop {
            match tokio::time::timeout(SILENCE, pieces.next()).await {
                Ok(Some(Ok(piece))) => {
                    received += piece.len() as u64;
                    if received > limit {
                        broken = Some(Fault::SizeInvalid(
                            "the chunk is longer than its Content-Range says".into(),
                        ));
                        break;
                    }
                    // The writer ended early: it says why below.
                    if sender.send(piece).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    broken = Some(Fault::UploadInvalid(format!("the body ended early: {error}")));
                    break;
                }
                Err(_) => {
                    broken = Some(Fault::UploadInvalid("the client fell silent".into()));
                    break;
                }
            }
        }
        drop(sender);
        let upload = match writing.await {
            Ok(written) => written?,
            Err(error) => return Err(Fault::Failed(format!("writing ended early: {error}"))),
        };
        broken.map_or(Ok(upload), Err)
    }

    async fn finish(
        &self,
        name: &RepositoryName,
        upload: Upload,
        digest: BlobDigest,
    ) -> Result<Response, Fault> {
        let wanted = digest.clone();
        blocking(move || upload.finish(&wanted)).await?;
        created(name, &digest)
    }

    async fn forget(&self, name: &RepositoryName, id: String) -> Result<(), Fault> {
        let (distribution, name) = (self.shared.distribution.clone(), name.clone());
        blocking(move || distribution.cancel_upload(&name, &id)).await
    }
}

fn parse_digest(text: &str) -> Result<BlobDigest, Fault> {
    text.parse().map_err(|error| Fault::DigestInvalid(format!("{error}")))
}

fn location(name: &RepositoryName, id: &str) -> String {
    format!("/v2/{name}/blobs/uploads/{id}")
}

fn accepted(name: &RepositoryName, id: &str, offset: u64) -> Result<Response, Fault> {
    let headers = [
        (header::LOCATION, text(&location(name, id))?),
        (header::RANGE, range::received(offset)),
        (UPLOAD, text(id)?),
    ];
    respond(StatusCode::ACCEPTED, &headers)
}

fn created(name: &RepositoryName, digest: &BlobDigest) -> Result<Response, Fault> {
    let headers = [
        (header::LOCATION, text(&format!("/v2/{name}/blobs/{digest}"))?),
        (DIGEST, text(&digest.to_string())?),
    ];
    respond(StatusCode::CREATED, &headers)
}

/// Makes a header's value of text that we made ourselves.
pub(crate) fn text(text: &str) -> Result<HeaderValue, Fault> {
    HeaderValue::try_from(text)
        .map_err(|_| Fault::Failed("a header has characters that it may not have".into()))
}

/// Answers without a body.
pub(crate) fn respond(status: StatusCode, headers: &[(HeaderName, HeaderValue)]) -> Result<Response, Fault> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().extend(headers.iter().cloned());
    Ok(response)
}
