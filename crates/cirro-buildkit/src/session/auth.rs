//! Credentials for registries, as the client's configuration has them.

use cirro_grpc::Status;

use super::{Session, or_none};
use crate::messages::{CredentialsRequest, CredentialsResponse};

const CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
/// Under this name the hub's credentials are kept.
const HUB: &str = "https://index.docker.io/v1/";

impl Session {
    /// Asks for the name and password of a registry; `None` when the client has none.
    ///
    /// # Errors
    /// If the client's store of credentials fails.
    pub(crate) async fn credentials(&self, domain: &str) -> Result<Option<(String, String)>, Status> {
        let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&domain);
        let host = if hub { HUB } else { domain };
        let asked = CredentialsRequest { host: host.to_owned() };
        let answer: Option<CredentialsResponse> = or_none(self.channel.ask(CREDENTIALS, &[], &asked).await)?;
        Ok(answer.filter(|answer| !answer.secret.is_empty()).map(|answer| (answer.username, answer.secret)))
    }
}
