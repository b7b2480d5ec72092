//! `POST /containers/{name}/wait`.
//!
//! The head of the answer goes out once the wait is armed, the body at the exit: `docker run` starts the
//! container only after it has the head.

use axum::extract::{Path, State};
use axum::response::Response;
use cirro_engine::WaitCondition;
use serde_json::json;

use crate::Face;
use crate::error::ApiError;
use crate::line_stream;
use crate::query::Params;

/// Waits for an exit or a removal.
pub(crate) async fn wait(
    State(face): State<Face>,
    Path(name): Path<String>,
    params: Params,
) -> Result<Response, ApiError> {
    let condition = match params.get("condition").unwrap_or_default() {
        "" | "not-running" => WaitCondition::NotRunning,
        "next-exit" => WaitCondition::NextExit,
        "removed" => WaitCondition::Removed,
        other => return Err(ApiError::invalid(format!("invalid condition: \"{other}\""))),
    };
    let exit = face.engine.wait_container(&name, condition).await?;
    let line = async {
        let body = match exit.await {
            Ok((code, None)) => json!({ "StatusCode": code }),
            Ok((code, Some(error))) => json!({ "StatusCode": code, "Error": { "Message": error } }),
            Err(_) => json!({ "StatusCode": -1, "Error": { "Message": "the wait was given up" } }),
        };
        line_stream::line(&body)
    };
    Ok(line_stream::json_lines(&face, futures_util::stream::once(line)))
}
