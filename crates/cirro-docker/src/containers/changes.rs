//! `GET /containers/{name}/changes` (`docker diff`), and the sizes that `docker ps -s` shows.

use axum::Json;
use axum::extract::{Path, State};
use cirro_engine::{Change, ChangeKind, EngineError};
use serde_json::{Value, json};

use crate::Face;
use crate::error::ApiError;

/// Lists what a container changed; nothing at all is `null`, as in dockerd.
pub(crate) async fn changes(
    State(face): State<Face>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let rows: Vec<Value> = face.engine.container_changes(&name).await?.iter().map(row).collect();
    Ok(Json(if rows.is_empty() { Value::Null } else { Value::Array(rows) }))
}

fn row(change: &Change) -> Value {
    let kind = match change.kind {
        ChangeKind::Modified => 0,
        ChangeKind::Added => 1,
        ChangeKind::Deleted => 2,
    };
    json!({ "Path": change.path, "Kind": kind })
}

/// Adds a container's sizes to its document; one that has just gone has none.
pub(crate) async fn add_size(face: &Face, id: &str, document: &mut Value) -> Result<(), ApiError> {
    match face.engine.container_size(id).await {
        Ok((own, whole)) => {
            document["SizeRw"] = json!(own);
            document["SizeRootFs"] = json!(whole);
            Ok(())
        }
        Err(EngineError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
