//! A session as a build borrows from it: secrets, agents, passwords.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use cirro_grpc::Status;
use cirro_seams::Pending;
use cirro_seams::build::{BuildFault, Fetched, Lender};
use tokio::sync::Mutex;

use crate::fetch::Files;
use crate::session::ssh::Agent;

/// Agents of one build.
const MAX_AGENTS: usize = 64;

/// Lends what the client has. Sockets go with it.
pub(crate) struct SessionLender {
    files: Files,
    socket_directory: PathBuf,
    /// Held across the call that opens one, so that none is opened twice.
    agents: Mutex<HashMap<String, Agent>>,
}

impl SessionLender {
    /// Lends of a session; sockets are made in a directory.
    pub(crate) fn new(files: Files, socket_directory: PathBuf) -> Self {
        Self { files, socket_directory, agents: Mutex::default() }
    }
}

fn fault(status: Status) -> BuildFault {
    BuildFault(status.message)
}

impl Lender for SessionLender {
    fn secret(&self, id: String) -> Pending<'_, Result<Option<Arc<[u8]>>, BuildFault>> {
        Box::pin(async move { self.files.session.secret(&id).await.map_err(fault) })
    }

    fn agent(&self, id: String) -> Pending<'_, Result<Option<PathBuf>, BuildFault>> {
        Box::pin(async move {
            let mut agents = self.agents.lock().await;
            if let Some(agent) = agents.get(&id) {
                return Ok(Some(agent.socket()));
            }
            if agents.len() >= MAX_AGENTS {
                return Err(BuildFault(format!("more than {MAX_AGENTS} agents")));
            }
            let Some(agent) = self.files.session.agent(&id, &self.socket_directory).await.map_err(fault)?
            else {
                return Ok(None);
            };
            let socket = agent.socket();
            agents.insert(id, agent);
            Ok(Some(socket))
        })
    }

    fn directory(&self, name: String, directory: String) -> Pending<'_, Result<Option<Fetched>, BuildFault>> {
        Box::pin(async move {
            let title = format!("context {name}");
            let ignore = self.files.ignore(&title, &directory).await.map_err(fault)?;
            let title = format!("[{title}] load from client");
            let place = self.files.context(&title, &directory, ignore.as_deref()).await.map_err(fault)?;
            let root = place.path().to_owned();
            Ok(Some(Fetched { root, file: None, digest: None, hold: Box::new(place) }))
        })
    }

    fn credentials(&self, domain: String) -> Pending<'_, Result<Option<(String, String)>, BuildFault>> {
        Box::pin(async move { self.files.session.credentials(&domain).await.map_err(fault) })
    }
}
