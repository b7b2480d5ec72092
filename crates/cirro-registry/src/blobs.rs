//! Pulling and removing blobs.

use axum::body::Body;
use axum::response::Response;
use cirro_image::distribution::{BlobDigest, BlobSource, DistributionError, RepositoryName};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::Registry;
use crate::error::{Fault, blocking};
use crate::range::{Wanted, wanted};
use crate::request::Head;
use crate::stream;
use crate::uploads::{respond, text};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What a digest names never changes.
const FOREVER: HeaderValue = HeaderValue::from_static("max-age=31536000");

impl Registry {
    /// `GET` and `HEAD /v2/<name>/blobs/<digest>`
    pub(crate) async fn get_blob(
        &self,
        head: &Head,
        name: RepositoryName,
        digest: BlobDigest,
    ) -> Result<Response, Fault> {
        let tag = format!("\"{digest}\"");
        if head.header(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&tag)) {
            return respond(StatusCode::NOT_MODIFIED, &[(header::ETAG, text(&tag)?)]);
        }
        let (size, source) = self.find_blob(head, &name, &digest).await?;
        let (status, first, end) = match wanted(head.headers.get(header::RANGE), size) {
            Wanted::Whole => (StatusCode::OK, 0, size),
            Wanted::Part(first, end) => (StatusCode::PARTIAL_CONTENT, first, end),
            Wanted::Unsatisfiable => return Err(Fault::RangeInvalid(size)),
        };
        let body = source.map_or_else(Body::empty, |source| stream::body(source, first, end));
        let mut response = Response::new(body);
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - first));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::CACHE_CONTROL, FOREVER);
        headers.insert(header::ETAG, text(&tag)?);
        headers.insert(DIGEST, text(&digest.to_string())?);
        if status == StatusCode::PARTIAL_CONTENT {
            headers.insert(header::CONTENT_RANGE, text(&format!("bytes {first}-{}/{size}", end - 1))?);
        }
        Ok(response)
    }

    /// `DELETE /v2/<name>/blobs/<digest>`
    pub(crate) async fn delete_blob(
        &self,
        name: RepositoryName,
        digest: BlobDigest,
    ) -> Result<Response, Fault> {
        let distribution = self.shared.distribution.clone();
        blocking(move || distribution.delete_blob(&name, &digest)).await?;
        respond(StatusCode::ACCEPTED, &[])
    }

    /// Finds a blob here, or has its mirror fetch it. A source is returned only when its bytes are wanted.
    async fn find_blob(
        &self,
        head: &Head,
        name: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<(u64, Option<BlobSource>), Fault> {
        match self.local_blob(head, name, digest).await {
            Err(Fault::Distribution(DistributionError::BlobUnknown(_)))
                if self.fetch_blob(name, digest, None).await? =>
            {
                self.local_blob(head, name, digest).await
            }
            found => found,
        }
    }

    async fn local_blob(
        &self,
        head: &Head,
        name: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<(u64, Option<BlobSource>), Fault> {
        let (distribution, name, digest) = (self.shared.distribution.clone(), name.clone(), digest.clone());
        let is_head = head.method == Method::HEAD;
        blocking(move || {
            if is_head {
                return Ok((distribution.look_up_blob(&name, &digest)?, None));
            }
            let source = distribution.open_blob(&name, &digest)?;
            Ok((source.size(), Some(source)))
        })
        .await
    }
}
