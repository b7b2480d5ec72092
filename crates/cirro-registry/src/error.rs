//! Refusals in the protocol's shape: a status and `errors[]` with one of the specification's codes.
//!
//! Source: OCI distribution-spec v1.1, "Error Codes".

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cirro_image::distribution::DistributionError;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

/// Why a request was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("page not found")]
    PageNotFound,
    #[error("invalid repository name `{}`", shown(.0))]
    NameInvalid(String),
    #[error("invalid tag or digest `{}`", shown(.0))]
    ReferenceInvalid(String),
    #[error("{0}")]
    DigestInvalid(String),
    #[error("{0}")]
    UploadInvalid(String),
    #[error("{0}")]
    SizeInvalid(String),
    #[error("{0}")]
    TooLarge(String),
    #[error("invalid number of results requested")]
    PageInvalid,
    /// A chunk that does not follow; the client is told where to go on.
    #[error("{message}")]
    OutOfOrder { message: String, location: String, offset: u64 },
    /// A range that the blob does not have.
    #[error("the blob has {0} bytes")]
    RangeInvalid(u64),
    #[error("authentication required")]
    Unauthorized { challenge: String },
    #[error("requested access to the resource is denied")]
    Denied,
    #[error("the operation is unsupported")]
    Unsupported,
    #[error("{0}")]
    FormInvalid(String),
    #[error("{0}")]
    Upstream(String),
    #[error(transparent)]
    Distribution(#[from] DistributionError),
    #[error("{0}")]
    Failed(String),
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect::<String>().escape_debug().to_string()
}

impl Fault {
    fn parts(&self) -> (StatusCode, &'static str) {
        use DistributionError as Store;
        match self {
            Self::PageNotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::NameInvalid(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
            Self::ReferenceInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            Self::DigestInvalid(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
            Self::UploadInvalid(_) => (StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID"),
            Self::SizeInvalid(_) => (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "MANIFEST_INVALID"),
            Self::PageInvalid => (StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID"),
            Self::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
            Self::RangeInvalid(_) => (StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID"),
            Self::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Denied => (StatusCode::FORBIDDEN, "DENIED"),
            Self::Unsupported => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
            Self::FormInvalid(_) => (StatusCode::BAD_REQUEST, "UNSUPPORTED"),
            Self::Upstream(_) => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
            Self::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN"),
            Self::Distribution(error) => match error {
                Store::BlobUnknown(_) => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
                Store::UploadUnknown => (StatusCode::NOT_FOUND, "BLOB_UPLOAD_UNKNOWN"),
                Store::UploadBusy => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
                Store::OutOfOrder { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID"),
                Store::SizeInvalid(_) => (StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID"),
                Store::DigestMismatch { .. } => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
                Store::ManifestInvalid(_) => (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
                Store::ManifestBlobUnknown(_) => (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN"),
                Store::ManifestUnknown(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
                Store::NameUnknown(_) => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
                Store::Immutable(_) | Store::Quota { .. } => (StatusCode::FORBIDDEN, "DENIED"),
                Store::OfTheLibrary(_) => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
                Store::Io { .. } | Store::Store(_) | Store::Library(_) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN")
                }
            },
        }
    }

    fn detail(&self) -> Value {
        match self {
            Self::Distribution(DistributionError::ManifestBlobUnknown(digests)) => {
                digests.iter().map(|digest| json!({"digest": digest})).collect()
            }
            _ => Value::Null,
        }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let (status, code) = self.parts();
        if status.is_server_error() {
            tracing::error!(error = chain(&self), "request failed");
        }
        // What the host says of its disk is nobody's business.
        let message = match status {
            StatusCode::INTERNAL_SERVER_ERROR => "internal error".to_owned(),
            _ => self.to_string(),
        };
        let mut error = json!({"code": code, "message": message});
        if !self.detail().is_null() {
            error["detail"] = self.detail();
        }
        let mut response = Response::new(Body::from(json!({"errors": [error]}).to_string()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        match &self {
            Self::Unauthorized { challenge } => {
                if let Ok(challenge) = HeaderValue::try_from(challenge) {
                    headers.insert(header::WWW_AUTHENTICATE, challenge);
                }
            }
            Self::OutOfOrder { location, offset, .. } => {
                if let Ok(location) = HeaderValue::try_from(location) {
                    headers.insert(header::LOCATION, location);
                }
                headers.insert(header::RANGE, crate::range::received(*offset));
            }
            Self::RangeInvalid(size) => {
                let range = HeaderValue::try_from(format!("bytes */{size}")).expect("digits");
                headers.insert(header::CONTENT_RANGE, range);
            }
            _ => {}
        }
        response
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// Runs blocking work on the pool for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, Fault>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, DistributionError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(Fault::Failed(format!("blocking work ended early: {error}"))),
    }
}
