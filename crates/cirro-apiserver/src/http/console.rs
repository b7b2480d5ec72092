//! A machine's serial console as plain text.

use axum::body::Body;
use axum::http::Response;
use cirro_seams::api::ApiError;
use cirro_seams::node::NodeError;

use super::{Call, answer};
use crate::error;
use crate::json;

/// Bytes from the end of the console when the client names no limit, and the most it gets.
const LIMIT: usize = 1024 * 1024;

impl Call {
    /// Answers with the end of the console.
    pub(super) async fn console(&self) -> Result<Response<Body>, ApiError> {
        let instance = self.server.storage.get(self.place()).await?;
        let limit = self.query.number("limitBytes")?.unwrap_or(LIMIT).min(LIMIT);
        let streams = self.server.node_streams()?;
        match streams.instance_console(json::text(&instance, "metadata.uid"), limit).await {
            Ok(text) => Ok(answer::text(text)),
            Err(NodeError::NotFound(_)) => {
                let name = self.place().name;
                Err(error::bad_request(format!("instance {name:?} has no console yet")))
            }
            Err(NodeError::Failed(why)) => Err(error::internal(why)),
            Err(why) => Err(error::bad_request(why.to_string())),
        }
    }
}
