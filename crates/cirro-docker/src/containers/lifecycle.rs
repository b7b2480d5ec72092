//! The verbs that change a container: one call on the engine each.

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use http::StatusCode;

use super::create::container_name;
use crate::Face;
use crate::error::{Answer, ApiError};
use crate::query::Params;

/// The answer of verbs that have nothing to say.
fn done() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Starts a container; 304 when it runs.
pub(crate) async fn start(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    if params.text("checkpoint").is_some() {
        return Err(ApiError::invalid("checkpoint is only supported in experimental mode"));
    }
    face.engine.start_container(&name).await?;
    done()
}

/// Stops a container; 304 when it does not run.
pub(crate) async fn stop(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    face.engine.stop_container(&name, params.text("signal"), params.number("t")?).await?;
    done()
}

/// Stops and starts a container.
pub(crate) async fn restart(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    face.engine.restart_container(&name, params.text("signal"), params.number("t")?).await?;
    done()
}

/// Sends a signal.
pub(crate) async fn kill(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    face.engine.kill_container(&name, params.get("signal").unwrap_or_default()).await?;
    done()
}

/// Freezes a container.
pub(crate) async fn pause(State(face): State<Face>, Path(name): Path<String>) -> Answer {
    face.engine.pause_container(&name).await?;
    done()
}

/// Thaws a container.
pub(crate) async fn unpause(State(face): State<Face>, Path(name): Path<String>) -> Answer {
    face.engine.unpause_container(&name).await?;
    done()
}

/// Gives a container another name.
pub(crate) async fn rename(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    let new_name =
        params.text("name").ok_or_else(|| ApiError::invalid("Neither old nor new names may be empty"))?;
    face.engine.rename_container(&name, &container_name(new_name)?).await?;
    done()
}

/// Removes a container.
pub(crate) async fn remove(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    if params.flag("link") {
        return Err(ApiError::invalid("Conflict, cannot remove the default link name of the container"));
    }
    face.engine.remove_container(&name, params.flag("force"), params.flag("v")).await?;
    done()
}

/// Removes a link: `CONTAINER/ALIAS`.
pub(crate) async fn remove_link(
    State(face): State<Face>,
    Path((name, alias)): Path<(String, String)>,
    params: Params,
) -> Answer {
    if !params.flag("link") {
        return Err(ApiError::not_found(format!("No such container: {name}/{alias}")));
    }
    face.engine.remove_link(&name, &alias).await?;
    done()
}

/// Sets the size of a container's terminal.
pub(crate) async fn resize(State(face): State<Face>, Path(name): Path<String>, params: Params) -> Answer {
    let (columns, rows) = terminal_size(&params)?;
    face.engine.resize_container(&name, columns, rows).await?;
    Ok(StatusCode::OK.into_response())
}

/// Reads the size of a terminal: columns and rows.
pub(crate) fn terminal_size(params: &Params) -> Result<(u16, u16), ApiError> {
    let columns = params.number("w")?;
    let rows = params.number("h")?;
    match (columns, rows) {
        (Some(columns), Some(rows)) => Ok((columns, rows)),
        _ => Err(ApiError::invalid("the terminal's size needs w (columns) and h (rows)")),
    }
}
