//! BuildKit over Docker's API: `POST /session`, `POST /grpc`, `POST /build?version=2` and `POST /build/cancel`.
//!
//! The first two leave HTTP/1.1 for HTTP/2 (`Upgrade: h2c`) on the same socket; [`cirro_buildkit`] speaks there. The
//! third is how the docker CLI's own client asks (without buildx, up to 20.10), over a session too.

pub(crate) mod backend;
mod classic;
pub(crate) mod jobs;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use cirro_buildkit::Introduction;
use http::{Request, StatusCode, header};
use hyper::upgrade::OnUpgrade;

use crate::error::ApiError;
use crate::peer::{self, Connection};
use crate::query::Params;
use crate::{Face, Lifetime};

pub(crate) use classic::build;

const H2C: &str = "h2c";

/// Opens a session: from here on the client answers and we ask.
pub(crate) async fn session(
    State(face): State<Face>,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(&mut request)?;
    let introduction =
        Introduction::read(request.headers()).map_err(|error| ApiError::invalid(error.to_string()))?;
    let place =
        face.buildkit.open_session(introduction).map_err(|error| ApiError::conflict(error.to_string()))?;
    Ok(switch(&face.lifetime, upgrade, |connection| place.run(connection)))
}

/// Opens a connection for BuildKit's own calls.
pub(crate) async fn grpc(State(face): State<Face>, mut request: Request<Body>) -> Result<Response, ApiError> {
    let upgrade = upgrade_of(&mut request)?;
    let buildkit = face.buildkit.clone();
    Ok(switch(&face.lifetime, upgrade, |connection| async move { buildkit.serve(connection).await }))
}

/// Ends a build by its id; one that is not there has ended.
pub(crate) async fn cancel(State(face): State<Face>, params: Params) -> Result<StatusCode, ApiError> {
    let id = params.text("id").filter(|id| !id.is_empty());
    let id = id.ok_or_else(|| ApiError::invalid("build ID not provided"))?;
    face.jobs.cancel(id);
    Ok(StatusCode::NO_CONTENT)
}

/// Takes the upgrade out of a request, dockerd's way of refusing others.
fn upgrade_of(request: &mut Request<Body>) -> Result<OnUpgrade, ApiError> {
    let wanted = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    match wanted {
        None => return Err(ApiError::invalid("no upgrade proto in request")),
        Some(H2C) => {}
        Some(other) => return Err(ApiError::invalid(format!("protocol {other} not supported"))),
    }
    if request.extensions().get::<OnUpgrade>().is_none() {
        return Err(ApiError::invalid("the connection cannot be upgraded"));
    }
    Ok(hyper::upgrade::on(request))
}

/// Answers 101 and hands the socket over; what runs on it ends with the server.
fn switch<F: Future<Output = ()> + Send>(
    lifetime: &Lifetime,
    upgrade: OnUpgrade,
    run: impl FnOnce(Box<dyn Connection>) -> F + Send + 'static,
) -> Response {
    let closing = lifetime.closing.clone();
    lifetime.tasks.spawn(async move {
        let run = async {
            let Ok(upgraded) = upgrade.await else { return };
            let (connection, _) = peer::open(upgraded);
            run(connection).await;
        };
        let _ = closing.run_until_cancelled(run).await;
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "Upgrade"), (header::UPGRADE, H2C)])
        .into_response()
}
