//! Exec: a further command in a running container.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cirro_engine::{EngineError, Exec};
use cirro_seams::node::{ExecRequest, Output, Session};
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::Face;
use crate::body;
use crate::containers::create::console_size;
use crate::containers::lifecycle::terminal_size;
use crate::error::ApiError;
use crate::frame::Wanted;
use crate::hijack::detach::DetachKeys;
use crate::hijack::{Exchange, Hijack, on_detach};
use crate::query::Params;
use crate::version::ApiVersion;

/// A command as docker's clients ask for it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ExecConfig {
    user: String,
    privileged: bool,
    tty: bool,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: String,
    console_size: Value,
    env: Vec<String>,
    working_dir: String,
    cmd: Vec<String>,
}

/// Makes an exec instance; answers with its id.
pub(crate) async fn create(
    State(face): State<Face>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let config: ExecConfig = body::read(request.into_body()).await?;
    if config.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    DetachKeys::parse(Some(&config.detach_keys))?;
    let text = |value: String| (!value.is_empty()).then_some(value);
    let exec = ExecRequest {
        command: config.cmd,
        env: config.env,
        user: text(config.user),
        working_dir: text(config.working_dir),
        tty: config.tty,
        stdin: config.attach_stdin,
        stdout: config.attach_stdout,
        stderr: config.attach_stderr,
        privileged: config.privileged,
        detach_keys: config.detach_keys,
    };
    let size = console_size(&config.console_size)?.filter(|_| exec.tty);
    let id = face.engine.create_exec(&name, exec).await?;
    if let Some((columns, rows)) = size {
        face.engine.resize_exec(&id, columns, rows).await?;
    }
    Ok((StatusCode::CREATED, Json(json!({ "Id": id }))).into_response())
}

/// How an exec is started.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ExecStart {
    detach: bool,
    tty: bool,
    console_size: Value,
}

/// Starts an exec instance and connects the client with its streams, or lets it run alone.
pub(crate) async fn start(
    State(face): State<Face>,
    Path(id): Path<String>,
    version: ApiVersion,
    mut request: Request<Body>,
) -> Result<Response, ApiError> {
    let hijack = Hijack::of(&mut request);
    let options: ExecStart = body::read(request.into_body()).await?;
    let size = console_size(&options.console_size)?;
    let exec = face.engine.exec(&id)?;
    if let Some((columns, rows)) = size.filter(|_| exec.request.tty) {
        // Told before the start, so that the process finds it from its first instruction on.
        face.engine.resize_exec(&id, columns, rows).await?;
    }
    // What can be refused is refused now.
    let claimed = face.engine.claim_exec(&id)?;
    if options.detach {
        let session = face.engine.run_claimed(claimed).await?;
        face.lifetime.tasks.spawn(run_alone(face.clone(), session));
        return Ok(StatusCode::OK.into_response());
    }
    let tty = exec.request.tty || options.tty;
    let wanted = Wanted { tty, stdout: exec.request.stdout, stderr: exec.request.stderr };
    let detach_keys = match tty && exec.request.stdin {
        true => Some(DetachKeys::parse(Some(&exec.request.detach_keys))?),
        false => None,
    };
    let on_detach = on_detach(&face.engine, &exec.container, Some(id.clone()));
    let started = {
        let face = face.clone();
        async move {
            let started = face.engine.run_claimed(claimed).await;
            let session = started.unwrap_or_else(|error| failed_start(&face, &id, &error));
            Exchange { session, wanted, replay: None, detach_keys, await_exit: true, on_detach }
        }
    };
    // As with dockerd the client has its answer while the command is still being started.
    Ok(hijack.answer(&face.lifetime, wanted.content_type(version.minor), Body::empty(), started))
}

/// A command that could not be started has an exit code (126 or 127), and the client learns the reason from the
/// stream and the code from the exec, as with dockerd.
fn failed_start(face: &Face, id: &str, error: &EngineError) -> Session {
    let code = face.engine.exec(id).ok().and_then(|exec| exec.exit_code).unwrap_or(126);
    let (output_sender, output) = mpsc::channel(1);
    let (resize, _) = mpsc::channel(1);
    let (exit_sender, exit) = oneshot::channel();
    let text = Bytes::from(format!("{error}\r\n"));
    output_sender.try_send(Output::Stdout(text)).expect("the channel is new and has room");
    exit_sender.send(code).expect("the receiver is in scope");
    Session { input: None, output, resize, exit }
}

/// Reads and throws away what a detached exec writes, so that it never blocks.
async fn run_alone(face: Face, mut session: Session) {
    session.input = None;
    let drained = async { while session.output.recv().await.is_some() {} };
    let _ = face.lifetime.closing.run_until_cancelled(drained).await;
}

/// Sets the size of an exec's terminal.
pub(crate) async fn resize(
    State(face): State<Face>,
    Path(id): Path<String>,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let (columns, rows) = terminal_size(&params)?;
    face.engine.resize_exec(&id, columns, rows).await?;
    Ok(StatusCode::OK)
}

/// Answers with an exec's document.
pub(crate) async fn inspect(
    State(face): State<Face>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(document(&face.engine.exec(&id)?)))
}

fn document(exec: &Exec) -> Value {
    let request = &exec.request;
    let (entrypoint, arguments) =
        request.command.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    json!({
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": {
            "tty": request.tty,
            "entrypoint": entrypoint,
            "arguments": arguments,
            "privileged": request.privileged,
            "user": request.user.clone().unwrap_or_default(),
        },
        "OpenStdin": request.stdin,
        "OpenStdout": request.stdout,
        "OpenStderr": request.stderr,
        "CanRemove": false,
        "ContainerID": exec.container,
        "DetachKeys": request.detach_keys,
        "Pid": exec.pid.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_that_has_not_ended_has_no_exit_code() {
        let request =
            ExecRequest { command: vec!["sh".into(), "-c".into(), "true".into()], ..ExecRequest::default() };
        let exec = Exec {
            id: "a".repeat(64),
            container: "b".repeat(64),
            request,
            running: true,
            exit_code: None,
            pid: Some(7),
        };
        let document = document(&exec);
        assert_eq!(document["ExitCode"], Value::Null);
        assert_eq!(document["ProcessConfig"]["arguments"], json!(["-c", "true"]));
        assert_eq!(document["Pid"], 7);
    }
}
