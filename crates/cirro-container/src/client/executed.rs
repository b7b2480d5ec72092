//! A command in a container: its streams go from its pipes (or its terminal) straight to this process.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cirro_seams::node::{Output, Session};
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot, watch};

use super::link::Watch;
use super::{Supervisor, raw, unexpected};
use crate::error::ContainerError;
use crate::protocol::{Reply, Request};
use crate::request::ExecProcess;

const CHUNK: usize = 32 << 10;
/// Chunks that wait for a slow reader; the command then waits too.
const WAITING: usize = 16;
/// The kernel hands a terminal's bytes over in the background; its end comes after them, unless somebody else holds it open.
const LAST_WORDS: Duration = Duration::from_millis(100);

pub(super) async fn exec(
    supervisor: &Supervisor,
    id: &str,
    request: ExecProcess,
) -> Result<(i32, Session), ContainerError> {
    let told = |error: io::Error| ContainerError::runtime("make pipes", &error);
    let stdio = request.stdio;
    let pipes = if stdio.tty { None } else { Some(Pipes::lay(stdio.stdin).map_err(told)?) };
    let (near, far) = pipes.map_or((None, Vec::new()), |pipes| (Some(pipes.near), pipes.far));
    let (code, ended) = oneshot::channel();
    let exec = unique();
    let watch = Watch::Exec { id: id.to_owned(), exec: exec.clone(), code };
    let process = raw(&request.process)?;
    let request = Request::Exec {
        id: id.to_owned(),
        exec,
        process,
        tty: stdio.tty,
        stdin: stdio.stdin,
        size: stdio.size,
    };
    let (reply, mut descriptors) = supervisor.call(request, far, Some(watch)).await?;
    let Reply::Exec { pid } = reply else { return Err(unexpected(&reply)) };
    let session = match (near, descriptors.pop()) {
        (Some(near), _) => over_pipes(near, ended).map_err(told)?,
        (None, Some(master)) => over_terminal(master, stdio.stdin, ended).map_err(told)?,
        (None, None) => return Err(ContainerError::Unreachable("no terminal came".to_owned())),
    };
    Ok((pid, session))
}

/// An id that no other daemon of this host uses: it may meet execs of a daemon before it.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{:x}-{now:x}-{:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

struct Pipes {
    near: Near,
    far: Vec<OwnedFd>,
}

struct Near {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    fn lay(stdin: bool) -> io::Result<Self> {
        let mut far = Vec::with_capacity(3);
        let mut near_stdin = None;
        if stdin {
            let (reader, writer) = io::pipe()?;
            far.push(reader.into());
            near_stdin = Some(writer.into());
        }
        let (stdout, far_stdout) = io::pipe()?;
        let (stderr, far_stderr) = io::pipe()?;
        far.push(far_stdout.into());
        far.push(far_stderr.into());
        Ok(Self { near: Near { stdin: near_stdin, stdout: stdout.into(), stderr: stderr.into() }, far })
    }
}

fn over_pipes(near: Near, ended: oneshot::Receiver<i32>) -> io::Result<Session> {
    let (output, outputs) = mpsc::channel(WAITING);
    let (exit, over) = pass_on(ended);
    let stdout = pipe::Receiver::from_owned_fd(near.stdout)?;
    let stderr = pipe::Receiver::from_owned_fd(near.stderr)?;
    tokio::spawn(read_pipe(stdout, Output::Stdout, output.clone(), over.clone()));
    tokio::spawn(read_pipe(stderr, Output::Stderr, output, over));
    let input = near.stdin.map(|stdin| {
        let (input, inputs) = mpsc::channel(WAITING);
        pipe::Sender::from_owned_fd(stdin).map(|stdin| {
            tokio::spawn(write_pipe(stdin, inputs));
            input
        })
    });
    // No terminal, no size: who asks is not answered.
    let (resize, _) = mpsc::channel(1);
    Ok(Session { input: input.transpose()?, output: outputs, resize, exit })
}

/// Gives the exit code on, and tells the readers that nothing more is waited for.
fn pass_on(ended: oneshot::Receiver<i32>) -> (oneshot::Receiver<i32>, watch::Receiver<bool>) {
    let (exit, exited) = oneshot::channel();
    let (over, is_over) = watch::channel(false);
    tokio::spawn(async move {
        let code = ended.await;
        let _ = over.send(true);
        if let Ok(code) = code {
            let _ = exit.send(code);
        }
    });
    (exited, is_over)
}

/// Reads until the end of file, or until the command has ended and its pipe is empty: children that it left behind may hold it.
async fn read_pipe(
    pipe: pipe::Receiver,
    kind: fn(Bytes) -> Output,
    output: mpsc::Sender<Output>,
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let is_over = *over.borrow();
        // At the end the kernel is asked itself: tokio may not have heard yet of what came last.
        let read = if is_over {
            rustix::io::read(&pipe, &mut buffer).map_err(Into::into)
        } else {
            pipe.try_read(&mut buffer)
        };
        match read {
            Ok(0) => return,
            // Nobody listens: the command must not be stopped by a full or a broken pipe.
            Ok(length) => drop(output.send(kind(Bytes::copy_from_slice(&buffer[..length]))).await),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !is_over => {
                tokio::select! {
                    ready = pipe.readable() => if ready.is_err() { return },
                    _ = over.changed() => {}
                }
            }
            Err(_) => return,
        }
    }
}

async fn write_pipe(mut pipe: pipe::Sender, mut inputs: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = inputs.recv().await {
        if tokio::io::AsyncWriteExt::write_all(&mut pipe, &bytes).await.is_err() {
            return;
        }
    }
}

fn over_terminal(master: OwnedFd, stdin: bool, ended: oneshot::Receiver<i32>) -> io::Result<Session> {
    let flags = rustix::fs::fcntl_getfl(&master)?;
    rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)?;
    let master = Arc::new(cirro_sys::readiness::watch(master)?);
    let (output, outputs) = mpsc::channel(WAITING);
    let (input, inputs) = mpsc::channel(WAITING);
    let (resize, sizes) = mpsc::channel(4);
    let (exit, over) = pass_on(ended);
    tokio::spawn(read_terminal(master.clone(), output, over.clone()));
    tokio::spawn(write_terminal(master.clone(), inputs, over.clone()));
    tokio::spawn(size_terminal(master, sizes, over));
    Ok(Session { input: stdin.then_some(input), output: outputs, resize, exit })
}

async fn read_terminal(
    master: Arc<AsyncFd<OwnedFd>>,
    output: mpsc::Sender<Output>,
    mut over: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let is_over = *over.borrow();
        match rustix::io::read(master.get_ref(), &mut buffer) {
            Ok(0) => return,
            Ok(length) => drop(output.send(Output::Stdout(Bytes::copy_from_slice(&buffer[..length]))).await),
            Err(rustix::io::Errno::AGAIN) => {
                tokio::select! {
                    ready = master.readable() => match ready {
                        // Cleared before the next read, which looks again.
                        Ok(mut ready) => ready.clear_ready(),
                        Err(_) => return,
                    },
                    _ = over.changed(), if !is_over => {}
                    () = tokio::time::sleep(LAST_WORDS), if is_over => return,
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            // The other side is closed.
            Err(_) => return,
        }
    }
}

async fn write_terminal(
    master: Arc<AsyncFd<OwnedFd>>,
    mut inputs: mpsc::Receiver<Bytes>,
    mut over: watch::Receiver<bool>,
) {
    loop {
        let bytes = tokio::select! {
            bytes = inputs.recv() => bytes,
            _ = over.changed() => None,
        };
        let Some(mut bytes) = bytes else { return };
        while !bytes.is_empty() {
            let Ok(mut ready) = master.writable().await else { return };
            match ready.try_io(|master| Ok(rustix::io::write(master, &bytes)?)) {
                Ok(Ok(length)) => drop(bytes.split_to(length)),
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }
}

async fn size_terminal(
    master: Arc<AsyncFd<OwnedFd>>,
    mut sizes: mpsc::Receiver<(u16, u16)>,
    mut over: watch::Receiver<bool>,
) {
    loop {
        let size = tokio::select! {
            size = sizes.recv() => size,
            _ = over.changed() => None,
        };
        let Some((ws_col, ws_row)) = size else { return };
        let _ = rustix::termios::tcsetwinsize(
            master.get_ref(),
            Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 },
        );
    }
}
