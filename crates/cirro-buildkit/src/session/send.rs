//! Files that the client receives: `FileSend`, an archive in pieces or a tree with fsutil's packets.

use std::io::Read;
use std::sync::Arc;

use cirro_build::{ImageTree, TreeEntry, TreeKind};
use cirro_grpc::Status;
use tokio::sync::mpsc;

use super::Session;
use crate::backend::Pieces;
use crate::messages::{BytesMessage, Packet, Stat};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Tells the client which of its outputs is meant.
const EXPORTER: &str = "buildkit-attachable-exporter-id";
/// Bytes of a file in one packet.
const PIECE: usize = 32 << 10;
const PACKETS: usize = 32;

impl Session {
    fn check_receives(&self) -> Result<(), Status> {
        match self.has(DIFF_COPY) {
            true => Ok(()),
            false => Err(Status::unknown("the client takes no files (method DiffCopy of FileSend)")),
        }
    }

    /// Sends an archive.
    ///
    /// # Errors
    /// If the client cannot take it, or it cannot be read.
    pub(crate) async fn send_archive(&self, exporter: usize, mut pieces: Pieces) -> Result<(), Status> {
        self.check_receives()?;
        let metadata = [(EXPORTER.to_owned(), exporter.to_string())];
        let mut exchange = self.channel.start(DIFF_COPY, &metadata).await?;
        while let Some(piece) = pieces.recv().await {
            let data = piece.map_err(Status::unknown)?;
            exchange.questions.send(&BytesMessage { data }).await?;
        }
        exchange.questions.end();
        while exchange.answers.next::<BytesMessage>().await?.is_some() {}
        Ok(())
    }

    /// Sends a tree.
    ///
    /// # Errors
    /// If the client cannot take it, or it cannot be read.
    pub(crate) async fn send_tree(&self, exporter: usize, tree: Arc<ImageTree>) -> Result<(), Status> {
        self.check_receives()?;
        let metadata = [(EXPORTER.to_owned(), exporter.to_string())];
        let exchange = self.channel.start(DIFF_COPY, &metadata).await?;
        let (mut questions, mut answers) = (exchange.questions, exchange.answers);
        let (outgoing, mut packets) = mpsc::channel(PACKETS);
        let (asked, incoming) = mpsc::channel(PACKETS);
        let reading = tokio::task::spawn_blocking(move || serve(&tree, &outgoing, incoming));
        let sending = async {
            while let Some(packet) = packets.recv().await {
                if questions.send(&packet).await.is_err() {
                    break;
                }
            }
            questions.end();
        };
        // It owns the channel, so that the thread learns of the end.
        let receiving = async move {
            loop {
                match answers.next::<Packet>().await {
                    // Once the thread is done nothing more is asked.
                    Ok(Some(packet)) => drop(asked.send(packet).await),
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                }
            }
        };
        let (read, (), received) = tokio::join!(reading, sending, receiving);
        received?;
        read.unwrap_or_else(|error| Err(error.to_string())).map_err(Status::unknown)
    }
}

/// Lists the tree and answers what is asked of it; blocks.
fn serve(
    tree: &ImageTree,
    outgoing: &mpsc::Sender<Packet>,
    mut incoming: mpsc::Receiver<Packet>,
) -> Result<(), String> {
    let send = |packet| outgoing.blocking_send(packet).map_err(|_| "the client is gone".to_owned());
    let entries = tree.list().map_err(|error| error.to_string())?;
    for entry in &entries {
        send(Packet { kind: Packet::STAT, stat: Some(stat_of(entry)?), ..Packet::default() })?;
    }
    send(Packet { kind: Packet::STAT, ..Packet::default() })?;
    while let Some(packet) = incoming.blocking_recv() {
        match packet.kind {
            Packet::REQUEST => {
                let entry = entries.get(packet.id as usize).ok_or("a file that was not listed")?;
                let mut file = tree.open_file(&entry.path).map_err(|error| error.to_string())?;
                let mut piece = vec![0; PIECE];
                loop {
                    let length = file.read(&mut piece).map_err(|error| error.to_string())?;
                    let data = piece[..length].to_vec().into();
                    send(Packet { kind: Packet::DATA, id: packet.id, data, ..Packet::default() })?;
                    if length == 0 {
                        break;
                    }
                }
            }
            Packet::FINISH => return send(Packet { kind: Packet::FINISH, ..Packet::default() }),
            Packet::ERROR => {
                return Err(format!("error from receiver: {}", String::from_utf8_lossy(&packet.data)));
            }
            kind => return Err(format!("unexpected packet of type {kind} from the client")),
        }
    }
    Err("the client broke off the transfer".into())
}

fn stat_of(entry: &TreeEntry) -> Result<Stat, String> {
    let text = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| {
            format!("{}: a name that is not UTF-8 cannot be sent", String::from_utf8_lossy(bytes))
        })
    };
    let mut stat = Stat {
        path: text(&entry.path)?,
        mode: super::files::go_mode_of(entry.mode),
        uid: entry.owner.0,
        gid: entry.owner.1,
        modified: entry.modified.0.saturating_mul(1_000_000_000).saturating_add(entry.modified.1),
        ..Stat::default()
    };
    match &entry.kind {
        TreeKind::File(size) => stat.size = i64::try_from(*size).unwrap_or(i64::MAX),
        TreeKind::Directory => stat.mode |= super::files::go_mode::DIRECTORY,
        TreeKind::Pipe => stat.mode |= super::files::go_mode::PIPE,
        TreeKind::Link(target) => {
            stat.mode |= super::files::go_mode::LINK;
            stat.link = text(target)?;
        }
        TreeKind::Device { block, numbers } => {
            stat.mode |= super::files::go_mode::DEVICE;
            if !block {
                stat.mode |= super::files::go_mode::CHARACTER;
            }
            (stat.device_major, stat.device_minor) = (numbers.0.into(), numbers.1.into());
        }
    }
    Ok(stat)
}
