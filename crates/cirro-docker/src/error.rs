//! What goes wrong, as docker's clients get it: a status and `{"message": …}`.

use axum::Json;
use axum::response::{IntoResponse, Response};
use cirro_engine::EngineError;
use http::StatusCode;
use serde_json::json;

/// An answer that is an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct ApiError {
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// The text that the client shows.
    pub(crate) message: String,
}

/// What a handler returns.
pub(crate) type Answer = Result<Response, ApiError>;

impl ApiError {
    /// Refuses a request that makes no sense (400).
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into() }
    }

    /// Says that something does not exist (404).
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, message: message.into() }
    }

    /// Says that something is in the way (409).
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, message: message.into() }
    }

    /// Says that dockerd has `what` and cirro does not have it yet (501).
    pub(crate) fn not_supported(what: impl std::fmt::Display) -> Self {
        Self { status: StatusCode::NOT_IMPLEMENTED, message: format!("{what} is not supported yet") }
    }

    /// Says that the host failed (500).
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.into() }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let status = match &error {
            EngineError::NotFound(_) => StatusCode::NOT_FOUND,
            EngineError::Conflict(_) => StatusCode::CONFLICT,
            EngineError::Invalid(_) => StatusCode::BAD_REQUEST,
            EngineError::Forbidden(_) => StatusCode::FORBIDDEN,
            EngineError::NotModified(_) => StatusCode::NOT_MODIFIED,
            EngineError::NotSupported(_) => StatusCode::NOT_IMPLEMENTED,
            EngineError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, message: error.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.status == StatusCode::NOT_MODIFIED {
            return self.status.into_response();
        }
        if self.status.is_server_error() && self.status != StatusCode::NOT_IMPLEMENTED {
            tracing::debug!(status = self.status.as_u16(), message = %self.message, "request failed");
        }
        (self.status, Json(json!({ "message": self.message }))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_the_engine_has_dockers_status() {
        for (error, status) in [
            (EngineError::NotFound("x".into()), 404),
            (EngineError::Conflict("x".into()), 409),
            (EngineError::Invalid("x".into()), 400),
            (EngineError::Forbidden("x".into()), 403),
            (EngineError::NotModified("x".into()), 304),
            (EngineError::NotSupported("x".into()), 501),
            (EngineError::Failed("x".into()), 500),
        ] {
            assert_eq!(ApiError::from(error).into_response().status().as_u16(), status);
        }
    }
}
