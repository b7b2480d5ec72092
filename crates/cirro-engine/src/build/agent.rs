//! An agent's socket as a step sees it: a socket of its own, with the owner that was asked for, whose connections are
//! passed on to the agent.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

/// Connections of one step at a time.
const MAX_CONNECTIONS: usize = 64;

/// A forwarded agent; it ends when this goes.
pub(super) struct Forward(JoinHandle<()>);

impl Drop for Forward {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Forward {
    /// Listens at `path`, for the agent behind `agent`. Needs a runtime.
    pub(super) fn start(path: &Path, agent: PathBuf, mode: u32, owner: (u32, u32)) -> std::io::Result<Self> {
        let listener = UnixListener::from_std(bind(path)?)?;
        chown(path, Some(owner.0), Some(owner.1))?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
        Ok(Self(tokio::spawn(serve(listener, agent))))
    }
}

/// Binds by the directory's descriptor: a socket's own path has little room.
fn bind(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    let dir = File::open(dir)?;
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let listener = std::os::unix::net::UnixListener::bind(short)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn serve(listener: UnixListener, agent: PathBuf) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((stream, _)) = accepted else { return };
                let agent = agent.clone();
                connections.spawn(async move {
                    if let Err(error) = pass_on(stream, &agent).await {
                        tracing::debug!(%error, "connection to an agent ended");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn pass_on(mut stream: UnixStream, agent: &Path) -> std::io::Result<()> {
    let mut agent = UnixStream::connect(agent).await?;
    tokio::io::copy_bidirectional(&mut stream, &mut agent).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_is_asked_reaches_the_agent_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(150));
        std::fs::create_dir(&deep).unwrap();
        let agent = UnixListener::bind(dir.path().join("agent")).unwrap();
        let forward = Forward::start(&deep.join("s"), dir.path().join("agent"), 0o660, (7, 8)).unwrap();
        let meta = deep.join("s").metadata().unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o660, 7, 8));
        std::os::unix::fs::symlink(&deep, dir.path().join("short")).unwrap();
        let mut client = UnixStream::connect(dir.path().join("short/s")).await.unwrap();
        client.write_all(b"ask").await.unwrap();
        let (mut asked, _) = agent.accept().await.unwrap();
        let mut heard = [0; 3];
        asked.read_exact(&mut heard).await.unwrap();
        asked.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((&heard, &answer), (b"ask", b"answer"));
        drop(forward);
        assert_eq!(client.read(&mut answer).await.unwrap_or_default(), 0);
    }
}
