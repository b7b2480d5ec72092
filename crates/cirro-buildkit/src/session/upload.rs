//! A context that the client reads from its standard input and hands over in the session.

use bytes::Bytes;
use cirro_grpc::Status;
use tokio::sync::mpsc;

use super::Session;
use crate::messages::BytesMessage;

const PULL: &str = "/moby.upload.v1.Upload/Pull";
const PIECES: usize = 16;
/// What the address of such a context begins with.
pub(crate) const ADDRESS: &str = "http://buildkit-session/";

impl Session {
    /// Starts to read an upload, named by its address; it ends with its last piece, or with why there are no more.
    ///
    /// # Errors
    /// If the session is gone.
    pub(crate) async fn upload(
        &self,
        address: &str,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, Status> {
        let path = format!("/{}", address.trim_start_matches(ADDRESS));
        let metadata = [("urlpath".to_owned(), path), ("urlhost".to_owned(), "buildkit-session".to_owned())];
        let mut exchange = self.channel.start(PULL, &metadata).await?;
        let (sender, receiver) = mpsc::channel(PIECES);
        tokio::spawn(async move {
            exchange.questions.end();
            loop {
                let piece = tokio::select! {
                    piece = exchange.answers.next::<BytesMessage>() => piece,
                    // Nobody reads it any more.
                    () = sender.closed() => return,
                };
                let piece = match piece {
                    Ok(Some(message)) => Ok(message.data),
                    Ok(None) => return,
                    Err(status) => Err(format!("the upload was broken off: {status}")),
                };
                let broken = piece.is_err();
                if sender.send(piece).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}
