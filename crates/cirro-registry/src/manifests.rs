//! Pulling, pushing and removing manifests.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use cirro_image::distribution::{
    DOCKER_LIST, DOCKER_MANIFEST, Dialect, MAX_MANIFEST, OCI_INDEX, OCI_MANIFEST, Reference, RepositoryName,
    StoredManifest,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};

use crate::Registry;
use crate::error::{Fault, blocking};
use crate::request::Head;
use crate::uploads::{respond, text};

const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// Media types that a client takes.
struct Accepted(Vec<String>);

impl Accepted {
    fn of(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let types = values.flat_map(|value| value.split(','));
        let bare = |entry: &str| entry.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        Self(types.map(bare).filter(|entry| !entry.is_empty()).collect())
    }

    /// Whether a type is taken; who says nothing takes everything.
    fn has(&self, media_type: &str) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|one| matches!(one.as_str(), "*/*" | "application/*") || one == media_type)
    }

    fn dialect(&self) -> Dialect {
        if !self.has(OCI_MANIFEST) && self.has(DOCKER_MANIFEST) { Dialect::Docker } else { Dialect::Oci }
    }
}

impl Registry {
    /// `GET` and `HEAD /v2/<name>/manifests/<reference>`
    pub(crate) async fn get_manifest(
        &self,
        head: &Head,
        name: RepositoryName,
        reference: Reference,
    ) -> Result<Response, Fault> {
        self.refresh_manifest(&name, &reference).await?;
        let accepted = Accepted::of(&head.headers);
        let by_tag = matches!(reference, Reference::Tag(_));
        let (distribution, dialect) = (self.shared.distribution.clone(), accepted.dialect());
        let manifest = blocking(move || {
            let manifest = distribution.manifest(&name, &reference, dialect)?;
            let is_index = [OCI_INDEX, DOCKER_LIST].contains(&manifest.media_type.as_str());
            let takes_manifests = accepted.has(OCI_MANIFEST) || accepted.has(DOCKER_MANIFEST);
            // Old clients know no indexes: they get the image for this host.
            if by_tag && is_index && !accepted.has(&manifest.media_type) && takes_manifests {
                return distribution.for_this_host(&name, &manifest).or(Ok(manifest));
            }
            Ok(manifest)
        })
        .await?;
        let StoredManifest { digest, media_type, bytes } = manifest;
        let tag = format!("\"{digest}\"");
        if head.header(header::IF_NONE_MATCH).is_some_and(|known| known.contains(&tag)) {
            return respond(StatusCode::NOT_MODIFIED, &[(header::ETAG, text(&tag)?)]);
        }
        let length = bytes.len();
        let mut response = Response::new(Body::from(bytes));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, text(&media_type)?);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(header::ETAG, text(&tag)?);
        headers.insert(DIGEST, text(&digest.to_string())?);
        Ok(response)
    }

    /// `PUT /v2/<name>/manifests/<reference>`
    pub(crate) async fn put_manifest(
        &self,
        head: &Head,
        name: RepositoryName,
        reference: Reference,
        body: Body,
    ) -> Result<Response, Fault> {
        let bytes = whole(body).await?;
        let content_type = head.header(header::CONTENT_TYPE).map(str::to_owned);
        let (distribution, repository) = (self.shared.distribution.clone(), name.clone());
        let pushed = blocking(move || {
            distribution.put_manifest(&repository, &reference, &bytes, content_type.as_deref())
        })
        .await?;
        let mut headers = vec![
            (header::LOCATION, text(&format!("/v2/{name}/manifests/{}", pushed.digest))?),
            (DIGEST, text(&pushed.digest.to_string())?),
        ];
        if let Some(subject) = pushed.subject {
            headers.push((SUBJECT, text(&subject.to_string())?));
        }
        respond(StatusCode::CREATED, &headers)
    }

    /// `DELETE /v2/<name>/manifests/<reference>`
    pub(crate) async fn delete_manifest(
        &self,
        name: RepositoryName,
        reference: Reference,
    ) -> Result<Response, Fault> {
        let distribution = self.shared.distribution.clone();
        blocking(move || distribution.delete_manifest(&name, &reference)).await?;
        respond(StatusCode::ACCEPTED, &[])
    }
}

/// Reads a manifest's body.
async fn whole(body: Body) -> Result<Bytes, Fault> {
    match Limited::new(body, MAX_MANIFEST).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Fault::TooLarge(format!("manifest is larger than {MAX_MANIFEST} bytes")))
        }
        Err(error) => Err(Fault::UploadInvalid(format!("the body ended early: {error}"))),
    }
}
