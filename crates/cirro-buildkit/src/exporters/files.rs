//! Outputs that are files of the client's.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use cirro_build::ImageTree;
use cirro_grpc::Status;
use cirro_types::{Digest, ImageReference};
use tokio::sync::mpsc;

use super::Export;
use crate::backend::Pieces;
use crate::progress::Task;
use crate::session::Session;

const PIECES: usize = 8;
/// Bytes of an archive in one message.
const PIECE: usize = 256 << 10;

impl Export<'_> {
    fn client(&self) -> Result<&Session, Status> {
        self.session.ok_or_else(|| Status::unknown("an output of files needs a session"))
    }

    async fn tree(&self, image: Digest) -> Result<Arc<ImageTree>, Status> {
        let layers = self.backend.layers(image).await.map_err(Status::unknown)?;
        let opened = tokio::task::spawn_blocking(move || ImageTree::open(&layers)).await;
        let opened = opened.map_err(|error| Status::unknown(error.to_string()))?;
        opened.map(Arc::new).map_err(|error| Status::unknown(error.to_string()))
    }

    /// Sends the image's files into a directory.
    pub(super) async fn local(&self, index: usize, image: Digest) -> Result<(), Status> {
        let task = Task::start(self.record, "exporting to client directory");
        let sent = async {
            let tree = self.tree(image).await?;
            self.client()?.send_tree(index, tree).await
        };
        let sent = sent.await;
        task.part("copying files", 0, sent.is_ok());
        task.end(sent)
    }

    /// Sends the image's files as a tar.
    pub(super) async fn tar(&self, index: usize, image: Digest) -> Result<(), Status> {
        let task = Task::start(self.record, "exporting to client tarball");
        let sent = async {
            let tree = self.tree(image).await?;
            self.client()?.send_archive(index, tar_of(tree)).await
        };
        let sent = sent.await;
        task.part("sending tarball", 0, sent.is_ok());
        task.end(sent)
    }

    /// Sends the image as an archive that is docker's and the OCI's at once.
    pub(super) async fn archive(
        &self,
        index: usize,
        image: Digest,
        names: &[ImageReference],
    ) -> Result<(), Status> {
        let task = Task::start(self.record, "exporting to oci image format");
        let sent = async {
            let pieces = self.backend.save(image, names.to_vec()).await.map_err(Status::unknown)?;
            self.client()?.send_archive(index, pieces).await
        };
        let sent = sent.await;
        task.part("sending tarball", 0, sent.is_ok());
        task.end(sent)
    }
}

fn tar_of(tree: Arc<ImageTree>) -> Pieces {
    let (sender, pieces) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let mut out = Sender { sender: sender.clone(), buffer: Vec::new() };
        let written = tree.write_tar(&mut out).map_err(|error| error.to_string());
        let flushed = written.and_then(|()| out.flush().map_err(|error| error.to_string()));
        if let Err(error) = flushed {
            let _ = sender.blocking_send(Err(error));
        }
    });
    pieces
}

/// Writes into a channel, in pieces of some size; blocks.
struct Sender {
    sender: mpsc::Sender<Result<Bytes, String>>,
    buffer: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        if piece.is_empty() {
            return Ok(());
        }
        self.sender.blocking_send(Ok(piece)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}
