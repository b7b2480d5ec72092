//! `/version`: what `docker version` shows of the server.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use crate::Face;
use crate::info::go_architecture;
use crate::version::{MAX_MINOR, MIN_MINOR};

/// Answers with versions.
pub(crate) async fn get(State(face): State<Face>) -> Json<Value> {
    let info = &face.info;
    let api_version = format!("1.{MAX_MINOR}");
    let min_api_version = format!("1.{MIN_MINOR}");
    Json(json!({
        "Platform": { "Name": "cirro" },
        "Version": info.version,
        "ApiVersion": api_version,
        "MinAPIVersion": min_api_version,
        "Os": "linux",
        "Arch": go_architecture(),
        "KernelVersion": face.host.kernel_version,
        "GitCommit": "",
        "GoVersion": "",
        "BuildTime": "",
        "Components": [{
            "Name": "Engine",
            "Version": info.version,
            "Details": {
                "ApiVersion": api_version,
                "MinAPIVersion": min_api_version,
                "Os": "linux",
                "Arch": go_architecture(),
                "KernelVersion": face.host.kernel_version,
                "Experimental": "false",
                "GitCommit": "",
                "GoVersion": "",
                "BuildTime": "",
            },
        }],
    }))
}
