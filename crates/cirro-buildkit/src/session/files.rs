//! Files that the client sends: `FileSync`, with fsutil's packets.
//!
//! ```text
//! client ── STAT, one per entry, numbered from 0; one without attributes ends them ──▶
//! client ◀── REQ number, for each file ──
//! client ── DATA number, pieces; an empty one ends the file ──▶
//! client ◀── FIN ──      client ── FIN ──▶
//! ```
//! Pieces of several files come mixed. A file is asked for as soon as its attributes are there, but no more than
//! [`MAX_OPEN`] at a time, so that descriptors are bounded. Files are written by a thread of the transfer's own, which
//! the stream waits for: what is not written is not read. What an earlier context of the same directory has with the same
//! size, time and mode is not asked for: it gets one more name.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cirro_build::{ContextEntry, ContextFile, ContextWriter};
use cirro_grpc::{Code, Status};
use tokio::sync::mpsc;

use super::{Session, metadata};
use crate::backend::Place;
use crate::messages::{Packet, Stat};

const DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
/// Files that are received at the same time.
const MAX_OPEN: usize = 128;
/// Entries of one transfer.
const MAX_ENTRIES: u32 = 2_000_000;
/// Packets and requests that wait for the other side.
const PACKETS: usize = 32;

/// Packets of a transfer that [`receive_all`] takes.
const ALL: usize = 1024;

/// Go's bits for kinds and modes (`io/fs.FileMode`).
pub(super) mod go_mode {
    pub(in crate::session) const DIRECTORY: u32 = 1 << 31;
    pub(in crate::session) const LINK: u32 = 1 << 27;
    pub(in crate::session) const DEVICE: u32 = 1 << 26;
    pub(in crate::session) const PIPE: u32 = 1 << 25;
    pub(in crate::session) const SOCKET: u32 = 1 << 24;
    pub(in crate::session) const SET_UID: u32 = 1 << 23;
    pub(in crate::session) const SET_GID: u32 = 1 << 22;
    pub(in crate::session) const CHARACTER: u32 = 1 << 21;
    pub(in crate::session) const STICKY: u32 = 1 << 20;
}

/// What is asked for of a client's directory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    /// The directory's name: `context`, `dockerfile` or that of a named context.
    pub(crate) directory: String,
    /// Paths that are sent with what they lead to; everything when empty.
    pub(crate) follow: Vec<String>,
    /// Rules of what is left out.
    pub(crate) exclude: Vec<String>,
}

/// How much of a transfer is here.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// Bytes that were sent.
    pub(crate) sent: AtomicU64,
    /// Bytes of files that an earlier context had.
    pub(crate) found: AtomicU64,
}

impl Session {
    /// Receives files into `place`, which is empty; those that `before` has in the same state are not sent. What writes
    /// holds the places too, so that they are not removed under its hands when nobody waits any more.
    ///
    /// # Errors
    /// If the client has no such directory or cannot read it, or what it sends cannot be written.
    pub(crate) async fn receive(
        &self,
        wanted: &Wanted,
        place: Arc<dyn Place>,
        before: Option<Arc<dyn Place>>,
        arrived: Arc<Arrived>,
    ) -> Result<(), Status> {
        if !self.has(DIFF_COPY) {
            return Err(Status::unknown("no local sources enabled"));
        }
        let mut pairs = vec![("dir-name", vec![wanted.directory.clone()])];
        if !wanted.follow.is_empty() {
            pairs.push(("followpaths", wanted.follow.clone()));
        }
        if !wanted.exclude.is_empty() {
            pairs.push(("exclude-patterns", wanted.exclude.clone()));
        }
        let exchange = self.channel.start(DIFF_COPY, &metadata(&pairs)).await?;
        let (mut questions, mut answers) = (exchange.questions, exchange.answers);
        let (packets, incoming) = mpsc::channel(PACKETS);
        let (outgoing, mut asked) = mpsc::channel(PACKETS);
        let writing = tokio::task::spawn_blocking(move || {
            let before_path = before.as_deref().map(Place::path);
            let receiver = Receiver::open(place.path(), before_path, outgoing, arrived);
            receiver.and_then(|receiver| receiver.run(incoming))
        });
        let asking = async {
            while let Some(packet) = asked.recv().await {
                if questions.send(&packet).await.is_err() {
                    break;
                }
            }
            questions
        };
        let answering = async {
            let mut broken = None;
            loop {
                match answers.next::<Packet>().await {
                    Ok(Some(packet)) => {
                        if packets.send(packet).await.is_err() {
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(status) => {
                        broken = Some(status);
                        break;
                    }
                }
            }
            drop(packets);
            (broken, answers)
        };
        let (written, mut questions, (broken, mut answers)) = tokio::join!(writing, asking, answering);
        let written = written.unwrap_or_else(|error| Err(error.to_string()));
        match (broken, written) {
            (_, Ok(())) => {
                questions.end();
                // The client ends the call by itself now.
                while answers.next::<Packet>().await?.is_some() {}
                Ok(())
            }
            // What the client says went wrong tells more than that the stream broke off.
            (Some(status), Err(_)) => Err(status),
            (None, Err(reason)) => Err(Status::unknown(reason)),
        }
    }
}

/// Writes what comes; blocks.
struct Receiver {
    writer: ContextWriter,
    asked: mpsc::Sender<Packet>,
    arrived: Arc<Arrived>,
    total: u64,
    /// Number of the next entry.
    next: u32,
    /// Whether all entries have come.
    listed: bool,
    /// Files whose content is under way.
    open: HashMap<u32, ContextFile>,
    /// Files that are asked for when others are done.
    waiting: VecDeque<(u32, Stat)>,
    /// Made last: what they name may still wait.
    hard_links: Vec<Stat>,
    finished: bool,
}

impl Receiver {
    fn open(
        root: &Path,
        before: Option<&Path>,
        asked: mpsc::Sender<Packet>,
        arrived: Arc<Arrived>,
    ) -> Result<Self, String> {
        let writer = ContextWriter::open(root, before).map_err(|error| error.to_string())?;
        Ok(Self {
            writer,
            asked,
            arrived,
            total: 0,
            next: 0,
            listed: false,
            open: HashMap::new(),
            waiting: VecDeque::new(),
            hard_links: Vec::new(),
            finished: false,
        })
    }

    fn run(mut self, mut packets: mpsc::Receiver<Packet>) -> Result<(), String> {
        while let Some(packet) = packets.blocking_recv() {
            match packet.kind {
                Packet::STAT => self.entry(packet.stat)?,
                Packet::DATA => self.data(packet.id, &packet.data)?,
                Packet::FINISH if self.finished => {
                    return self.writer.finish().map_err(|error| error.to_string());
                }
                Packet::ERROR => {
                    return Err(format!("error from sender: {}", String::from_utf8_lossy(&packet.data)));
                }
                kind => return Err(format!("unexpected packet of type {kind} from the client")),
            }
            self.ask()?;
        }
        Err("the client broke off the transfer".into())
    }

    fn entry(&mut self, stat: Option<Stat>) -> Result<(), String> {
        let Some(stat) = stat else {
            self.listed = true;
            return Ok(());
        };
        let id = self.next;
        self.next = id + 1;
        if self.next > MAX_ENTRIES {
            return Err(format!("more than {MAX_ENTRIES} entries"));
        }
        match entry_of(&stat) {
            ContextEntry::File if self.reuse(&stat)? => {}
            ContextEntry::File => self.waiting.push_back((id, stat)),
            ContextEntry::HardLink(_) => self.hard_links.push(stat),
            entry => drop(self.add(&stat, &entry)?),
        }
        Ok(())
    }

    /// Takes a file of the earlier context if it is the same.
    fn reuse(&mut self, stat: &Stat) -> Result<bool, String> {
        let Ok(size) = u64::try_from(stat.size) else { return Ok(false) };
        let path = stat.path.as_bytes();
        let reused = self.writer.reuse(path, permissions(stat.mode), modified(stat), size);
        let reused = reused.map_err(|error| error.to_string())?;
        if reused {
            self.arrived.found.fetch_add(size, Ordering::Relaxed);
        }
        Ok(reused)
    }

    fn add(&mut self, stat: &Stat, entry: &ContextEntry) -> Result<Option<ContextFile>, String> {
        let added = self.writer.add(stat.path.as_bytes(), entry, permissions(stat.mode), modified(stat));
        added.map_err(|error| error.to_string())
    }

    fn start(&mut self, id: u32, stat: &Stat) -> Result<(), String> {
        if let Some(file) = self.add(stat, &ContextEntry::File)? {
            self.open.insert(id, file);
            self.send(Packet { kind: Packet::REQUEST, id, ..Packet::default() })?;
        }
        Ok(())
    }

    /// Asks for as many files as may be open, and says when everything is here.
    fn ask(&mut self) -> Result<(), String> {
        while self.open.len() < MAX_OPEN
            && let Some((id, stat)) = self.waiting.pop_front()
        {
            self.start(id, &stat)?;
        }
        if self.listed && self.open.is_empty() && self.waiting.is_empty() && !self.finished {
            self.finished = true;
            for stat in std::mem::take(&mut self.hard_links) {
                self.add(&stat, &entry_of(&stat))?;
            }
            self.send(Packet { kind: Packet::FINISH, ..Packet::default() })?;
        }
        Ok(())
    }

    fn send(&self, packet: Packet) -> Result<(), String> {
        self.asked.blocking_send(packet).map_err(|_| "the client is gone".into())
    }

    fn data(&mut self, id: u32, bytes: &[u8]) -> Result<(), String> {
        if bytes.is_empty() {
            let file = self.open.remove(&id).ok_or("the end of a file that was not asked for")?;
            return file.finish().map_err(|error| error.to_string());
        }
        let file = self.open.get_mut(&id).ok_or("content of a file that was not asked for")?;
        file.write(bytes, &mut self.total).map_err(|error| error.to_string())?;
        self.arrived.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Returns seconds and nanoseconds.
fn modified(stat: &Stat) -> (i64, i64) {
    const SECOND: i64 = 1_000_000_000;
    (stat.modified.div_euclid(SECOND), stat.modified.rem_euclid(SECOND))
}

/// Writes what these packets say into `directory`, as if all came at once.
pub(crate) fn receive_all(packets: impl Iterator<Item = Packet>, directory: &Path) {
    let packets: Vec<Packet> = packets.take(ALL).collect();
    let (outgoing, _asked) = mpsc::channel(2 * ALL + 1);
    let (sender, incoming) = mpsc::channel(ALL + 1);
    for packet in packets {
        if sender.try_send(packet).is_err() {
            return;
        }
    }
    drop(sender);
    if let Ok(receiver) = Receiver::open(directory, None, outgoing, Arc::default()) {
        // Whatever comes may be refused.
        let _ = receiver.run(incoming);
    }
}

fn entry_of(stat: &Stat) -> ContextEntry {
    use go_mode::{CHARACTER, DEVICE, DIRECTORY, LINK, PIPE, SOCKET};
    let link = || stat.link.clone().into_bytes();
    match stat.mode {
        mode if mode & DIRECTORY != 0 => ContextEntry::Directory,
        mode if mode & LINK != 0 => ContextEntry::Link(link()),
        mode if mode & PIPE != 0 => ContextEntry::Pipe,
        mode if mode & SOCKET != 0 => ContextEntry::Socket,
        mode if mode & (DEVICE | CHARACTER) != 0 => ContextEntry::Device,
        _ if !stat.link.is_empty() => ContextEntry::HardLink(link()),
        _ => ContextEntry::File,
    }
}

/// Go's bits beside ours.
const HIGH_BITS: [(u32, u32); 3] =
    [(go_mode::SET_UID, 0o4000), (go_mode::SET_GID, 0o2000), (go_mode::STICKY, 0o1000)];

/// Returns permission bits as Go has them.
pub(super) fn go_mode_of(mode: u32) -> u32 {
    HIGH_BITS.iter().filter(|(_, bit)| mode & bit != 0).fold(mode & 0o777, |all, (go, _)| all | go)
}

fn permissions(mode: u32) -> u32 {
    HIGH_BITS.iter().filter(|(go, _)| mode & go != 0).fold(mode & 0o777, |mode, (_, bit)| mode | bit)
}

/// Says whether a transfer failed because the client does not have the directory.
pub(crate) fn is_missing(status: &Status) -> bool {
    status.is(Code::NotFound) || status.message.contains("no access allowed to dir")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_go_become_modes_of_linux() {
        let stat = |mode, link: &str| Stat { mode, link: link.into(), ..Stat::default() };
        assert_eq!(entry_of(&stat(go_mode::DIRECTORY | 0o755, "")), ContextEntry::Directory);
        assert_eq!(entry_of(&stat(go_mode::LINK | 0o777, "x")), ContextEntry::Link(b"x".to_vec()));
        assert_eq!(entry_of(&stat(go_mode::DEVICE | go_mode::CHARACTER, "")), ContextEntry::Device);
        assert_eq!(entry_of(&stat(0o644, "x")), ContextEntry::HardLink(b"x".to_vec()));
        assert_eq!(entry_of(&stat(0o644, "")), ContextEntry::File);
        assert_eq!(permissions(go_mode::SET_UID | go_mode::STICKY | 0o751), 0o5751);
    }
}
