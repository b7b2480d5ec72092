//! `POST /containers/{name}/attach`.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use bytes::Bytes;
use cirro_container::LogQuery;
use cirro_seams::container::Phase;
use cirro_seams::node::Session;
use http::Request;
use tokio::sync::{mpsc, oneshot};

use crate::Face;
use crate::error::ApiError;
use crate::frame::Wanted;
use crate::hijack::detach::DetachKeys;
use crate::hijack::{Exchange, Hijack, on_detach};
use crate::query::Params;
use crate::version::ApiVersion;

/// Connects the client with a container's streams.
pub(crate) async fn attach(
    State(face): State<Face>,
    Path(name): Path<String>,
    version: ApiVersion,
    params: Params,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let hijack = Hijack::of(&mut request);
    let exchange = exchange(&face, &name, &params).await?;
    let content_type = exchange.wanted.content_type(version.minor);
    Ok(hijack.answer(&face.lifetime, content_type, request.into_body(), std::future::ready(exchange)))
}

/// Attaches as the parameters say.
pub(crate) async fn exchange(face: &Face, name: &str, params: &Params) -> Result<Exchange, ApiError> {
    let keys = DetachKeys::parse(params.get("detachKeys"))?;
    let container = face.engine.container(name)?;
    match container.phase {
        Phase::Paused => {
            let text = format!("container {} is paused. Unpause the container before attach", container.id);
            return Err(ApiError::conflict(text));
        }
        Phase::Restarting => {
            let text =
                format!("Container {} is restarting, wait until the container is running", container.id);
            return Err(ApiError::conflict(text));
        }
        _ => (),
    }
    let tty = container.spec.tty;
    let wanted = Wanted { tty, stdout: params.flag("stdout"), stderr: params.flag("stderr") };
    let stdin = params.flag("stdin") && container.spec.open_stdin;
    // First the live streams, then the log: what comes between is seen twice rather than never.
    let session = match params.flag("stream") {
        true => face.engine.attach_container(&container.id, stdin).await?,
        false => ended_session(),
    };
    let replay = match params.flag("logs") && container.spec.log.keep {
        true => Some(face.engine.container_logs(&container.id, LogQuery::default()).await?),
        false => None,
    };
    face.engine.tell(&container.id, "attach", &[]);
    let on_detach = on_detach(&face.engine, &container.id, None);
    let detach_keys = (tty && stdin).then_some(keys);
    Ok(Exchange { session, wanted, replay, detach_keys, await_exit: false, on_detach })
}

/// A session without live streams.
fn ended_session() -> Session {
    let (_, output) = mpsc::channel(1);
    let (resize, _) = mpsc::channel(1);
    let (_, exit) = oneshot::channel();
    Session { input: None::<mpsc::Sender<Bytes>>, output, resize, exit }
}
