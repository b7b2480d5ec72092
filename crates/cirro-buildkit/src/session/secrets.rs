//! Secrets that the client gives to `RUN --mount=type=secret`.

use std::sync::Arc;

use cirro_grpc::Status;

use super::{Session, or_none};
use crate::messages::{GetSecretRequest, GetSecretResponse};

const GET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
/// Bytes of a secret: BuildKit's limit.
const MAX_SECRET: usize = 500 << 10;

impl Session {
    /// Asks for a secret; `None` when the client has no such.
    ///
    /// # Errors
    /// If the client cannot read it, or it is too long.
    pub(crate) async fn secret(&self, id: &str) -> Result<Option<Arc<[u8]>>, Status> {
        let asked = GetSecretRequest { id: id.to_owned() };
        let answer: Option<GetSecretResponse> = or_none(self.channel.ask(GET, &[], &asked).await)?;
        match answer {
            Some(answer) if answer.data.len() > MAX_SECRET => {
                Err(Status::unknown(format!("invalid secret size {}", answer.data.len())))
            }
            Some(answer) => Ok(Some(Arc::from(answer.data.as_ref()))),
            None => Ok(None),
        }
    }
}
