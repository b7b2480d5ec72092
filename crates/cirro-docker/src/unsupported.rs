//! What dockerd has and cirro does not: a clear answer for each, never silence.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::StatusCode;

use crate::Face;
use crate::error::{Answer, ApiError};

/// Endpoints that dockerd has only when it was started for experiments.
const EXPERIMENTAL: &[&str] =
    &["/containers/{name}/checkpoints", "/containers/{name}/checkpoints/{checkpoint}"];

/// First path segments that belong to dockerd's swarm mode.
const SWARM: &[&str] = &["swarm", "nodes", "services", "tasks", "secrets", "configs"];

/// What dockerd says outside a swarm.
pub(crate) const NO_SWARM: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" \
                        to connect this node to swarm and try again.";

/// Returns the routes of everything that is not supported.
pub(crate) fn routes() -> Router<Face> {
    let mut router = Router::new();
    for path in EXPERIMENTAL {
        router = router.route(path, any(experimental));
    }
    for noun in SWARM {
        router = router
            .route(&format!("/{noun}"), any(no_swarm))
            .route(&format!("/{noun}/{{*rest}}"), any(no_swarm));
    }
    router
        .route("/plugins", get(async || axum::Json(Vec::<()>::new())))
        .route("/plugins/{*rest}", any(plugin))
}

/// Answers as a dockerd that was not started for experiments.
async fn experimental() -> ApiError {
    let text = "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to \
                enable it.";
    ApiError { status: StatusCode::NOT_IMPLEMENTED, message: text.to_owned() }
}

async fn no_swarm() -> ApiError {
    ApiError { status: StatusCode::SERVICE_UNAVAILABLE, message: NO_SWARM.to_owned() }
}

/// `docker inspect X` asks for a plugin last and wants to hear that there is none.
async fn plugin(method: http::Method, path: axum::extract::Path<String>) -> Answer {
    match path.strip_suffix("/json") {
        Some(name) if method == http::Method::GET => {
            Err(ApiError::not_found(format!("plugin \"{name}\" not found")))
        }
        _ => Err(ApiError::not_supported("managing plugins")),
    }
}

/// The answer to every other path, as dockerd's router gives it.
pub(crate) async fn page_not_found() -> Response {
    ApiError::not_found("page not found").into_response()
}
