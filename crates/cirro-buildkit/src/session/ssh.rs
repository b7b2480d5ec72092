//! Agents that the client forwards to `RUN --mount=type=ssh`: a socket here, whose connections go through the session.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use cirro_grpc::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::{Session, or_none};
use crate::messages::{BytesMessage, CheckAgentRequest, Empty};

const CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
const ID: &str = "buildkit.ssh.id";
/// Connections of one build at a time.
const MAX_CONNECTIONS: usize = 64;
const PIECE: usize = 32 << 10;

/// A forwarded agent; it ends, and its socket goes, with this.
pub(crate) struct Agent {
    directory: tempfile::TempDir,
    _serving: JoinSet<()>,
}

impl Agent {
    /// Returns where its socket is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent")
    }
}

impl Session {
    /// Opens a socket for an agent; `None` when the client forwards no such.
    ///
    /// # Errors
    /// If the client fails, or no socket can be made below `directory`.
    pub(crate) async fn agent(&self, id: &str, directory: &Path) -> Result<Option<Agent>, Status> {
        let asked = CheckAgentRequest { id: id.to_owned() };
        if or_none(self.channel.ask::<_, Empty>(CHECK, &[], &asked).await)?.is_none() {
            return Ok(None);
        }
        let failed = |error: std::io::Error| Status::unknown(format!("open a socket for the agent: {error}"));
        let place = tempfile::Builder::new().prefix("agent-").tempdir_in(directory).map_err(failed)?;
        std::fs::set_permissions(place.path(), PermissionsExt::from_mode(0o700)).map_err(failed)?;
        let listener = UnixListener::bind(place.path().join("agent")).map_err(failed)?;
        let mut serving = JoinSet::new();
        serving.spawn(serve(self.clone(), id.to_owned(), listener));
        Ok(Some(Agent { directory: place, _serving: serving }))
    }
}

async fn serve(session: Session, id: String, listener: UnixListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                let Ok((stream, _)) = accepted else { return };
                let (session, id) = (session.clone(), id.clone());
                connections.spawn(async move {
                    if let Err(error) = forward(&session, id, stream).await {
                        tracing::debug!(%error, "connection to an agent ended");
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn forward(session: &Session, id: String, stream: UnixStream) -> Result<(), Status> {
    let mut exchange = session.channel.start(FORWARD, &[(ID.to_owned(), id)]).await?;
    let (mut reader, mut writer) = stream.into_split();
    let asking = async {
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece).await {
                Ok(length @ 1..) => {
                    let data = piece[..length].to_vec().into();
                    exchange.questions.send(&BytesMessage { data }).await?;
                }
                _ => {
                    exchange.questions.end();
                    return Ok::<_, Status>(());
                }
            }
        }
    };
    let answering = async {
        while let Some(message) = exchange.answers.next::<BytesMessage>().await? {
            if writer.write_all(&message.data).await.is_err() {
                break;
            }
        }
        let _ = writer.shutdown().await;
        Ok::<_, Status>(())
    };
    // The agent's side ends the connection; the step's may end before it has read the last answer.
    tokio::pin!(asking, answering);
    tokio::select! {
        asked = &mut asking => {
            asked?;
            answering.await
        }
        answered = &mut answering => answered,
    }
}
