//! Reads a json-file log: its last lines, a span of time, and what comes.
//!
//! Files are read on the blocking pool in steps of bounded size. A follower sleeps on inotify; it holds its file open, so a
//! rotation under it loses nothing: at the file's end it looks where that file is now and goes on with the next newer one.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use super::entry::{LogEntry, read_entry};
use super::packed::{self, Identity};
use super::writer::{compressed, rotated};
use crate::ended::Ended;

/// Bytes of one reading step.
const STEP: usize = 256 << 10;
/// A line is at most 16 KiB of text, each byte of it at most six characters.
const MAX_LINE: usize = 256 << 10;
/// Rotated files that are looked for.
const MAX_FILES: u32 = 1000;
/// Passes after which a picture of the files is taken as it is. A rotation is a few renames: one that is still going on
/// after so many passes would have to follow another, at every pass.
const SNAPSHOT_TRIES: usize = 100;

/// What is read of a log.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Not before (RFC 3339 compares as time).
    pub since: Option<SystemTime>,
    /// Not after.
    pub until: Option<SystemTime>,
    /// Whether to go on as lines come (inotify, no polling), until `ended` fires.
    pub follow: bool,
}

/// Reads a json-file log, rotated files included. `ended` resolves when the workload has ended: what is
/// then in the file is still read. Dropping the receiver ends the reader.
pub fn read_log(path: &Path, query: LogQuery, ended: Ended) -> mpsc::Receiver<LogEntry> {
    let (sender, receiver) = mpsc::channel(64);
    let path = path.to_owned();
    tokio::spawn(async move {
        if let Err(error) = run(path.clone(), query, ended, sender).await {
            tracing::warn!(path = %path.display(), %error, "reading a log failed");
        }
    });
    receiver
}

async fn run(
    path: PathBuf,
    query: LogQuery,
    mut ended: Ended,
    sender: mpsc::Sender<LogEntry>,
) -> io::Result<()> {
    // Watched before the first look, so that no change falls between.
    let changes = if query.follow { Some(watch(&path)?) } else { None };
    let until = query.until.and_then(|until| until.duration_since(SystemTime::now()).ok());
    let deadline = until.map(|left| tokio::time::Instant::now() + left);
    let filter = Filter::new(&query);
    let mut cursor = blocking({
        let path = path.clone();
        move || Ok(Cursor::open(path, query.tail))
    })
    .await?;
    loop {
        // Asked before reading: what was written before the end is then surely read.
        let over = !query.follow || *ended.borrow_and_update() || ended.has_changed().is_err();
        loop {
            let (next, entries) = blocking(move || cursor.step()).await?;
            cursor = next;
            let Some(entries) = entries else { break };
            for entry in entries {
                match filter.judge(&entry) {
                    Verdict::Skip => {}
                    Verdict::Stop => return Ok(()),
                    Verdict::Give => {
                        if sender.send(entry).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        }
        let Some(changes) = changes.as_ref().filter(|_| !over) else { return Ok(()) };
        tokio::select! {
            result = wait_for_change(changes) => result?,
            _ = ended.changed() => {}
            () = sender.closed() => return Ok(()),
            () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => return Ok(()),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn watch(path: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
    let descriptor = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    // The directory tells of writes to the file, of rotation, and of the file's first appearance.
    inotify::add_watch(
        &descriptor,
        directory,
        WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO,
    )?;
    cirro_sys::readiness::watch(descriptor)
}

async fn wait_for_change(changes: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut ready = changes.readable().await?;
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(changes.get_ref(), &mut buffer) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => {
                ready.clear_ready();
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

enum Verdict {
    Skip,
    Give,
    Stop,
}

/// The span of time that is wanted.
struct Filter {
    since: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
}

impl Filter {
    fn new(query: &LogQuery) -> Self {
        let convert = |time: Option<SystemTime>| time.and_then(|time| jiff::Timestamp::try_from(time).ok());
        Self { since: convert(query.since), until: convert(query.until) }
    }

    fn judge(&self, entry: &LogEntry) -> Verdict {
        if self.since.is_none() && self.until.is_none() {
            return Verdict::Give;
        }
        let Ok(time) = entry.time.parse::<jiff::Timestamp>() else { return Verdict::Give };
        match (self.since, self.until) {
            (Some(since), _) if time < since => Verdict::Skip,
            (_, Some(until)) if time > until => Verdict::Stop,
            _ => Verdict::Give,
        }
    }
}

/// A place in the row of files.
struct Cursor {
    path: PathBuf,
    /// Files still to be read after the current one, oldest first.
    waiting: VecDeque<Part>,
    current: Option<Part>,
    partial: Vec<u8>,
}

/// One file of the row.
struct Part {
    /// 0 is the one that is written to.
    number: u32,
    identity: Identity,
    file: File,
    /// It is to be unpacked before it is read.
    packed: bool,
}

impl Part {
    fn plain(number: u32, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { number, identity: (metadata.dev(), metadata.ino()), file, packed: false })
    }

    fn open(path: &Path, number: u32) -> io::Result<Self> {
        if number == 0 {
            return Self::plain(0, File::open(path)?);
        }
        match File::open(rotated(path, number)) {
            Ok(file) => Self::plain(number, file),
            Err(_) => {
                let mut file = File::open(compressed(path, number))?;
                Ok(Self { number, identity: packed::identity(&mut file)?, file, packed: true })
            }
        }
    }

    /// Makes it one that can be read. A file that cannot be unpacked has nothing to say.
    fn unpacked(mut self, log: &Path) -> io::Result<Self> {
        if std::mem::take(&mut self.packed) {
            self.file = packed::unpack(self.file, log)?;
        }
        Ok(self)
    }
}

impl Cursor {
    fn open(path: PathBuf, tail: Option<u64>) -> Self {
        let mut files = snapshot(&path).into();
        if let Some(tail) = tail {
            keep_last_lines(&mut files, tail, &path);
        }
        let mut cursor = Self { path, waiting: files, current: None, partial: Vec::new() };
        cursor.take_next();
        cursor
    }

    /// Goes on to the next file that waits; returns whether there is one.
    fn take_next(&mut self) -> bool {
        self.partial.clear();
        self.current = None;
        while let Some(next) = self.waiting.pop_front() {
            match next.unpacked(&self.path) {
                Ok(next) => {
                    self.current = Some(next);
                    break;
                }
                Err(error) => {
                    tracing::warn!(path = %self.path.display(), %error, "a rotated log file is not read")
                }
            }
        }
        self.current.is_some()
    }

    /// Reads on. `None` when there is nothing more for now.
    fn step(mut self) -> io::Result<(Self, Option<Vec<LogEntry>>)> {
        let mut buffer = vec![0; STEP];
        loop {
            let Some(file) = self.current.as_mut() else {
                self.current = Part::open(&self.path, 0).ok();
                if self.current.is_none() {
                    return Ok((self, None));
                }
                continue;
            };
            let length = file.file.read(&mut buffer)?;
            if length > 0 {
                let entries = self.split(&buffer[..length]);
                return Ok((self, Some(entries)));
            }
            if !self.advance()? {
                return Ok((self, None));
            }
        }
    }

    fn split(&mut self, bytes: &[u8]) -> Vec<LogEntry> {
        let mut entries = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                entries.extend(read_entry(&self.partial));
                self.partial.clear();
            } else if self.partial.len() > MAX_LINE {
                self.partial.clear();
            }
        }
        entries
    }

    /// At a file's end: goes on with the next newer one, if there is one.
    fn advance(&mut self) -> io::Result<bool> {
        if !self.waiting.is_empty() {
            return Ok(self.take_next());
        }
        let Some(current) = &mut self.current else { return Ok(false) };
        let mine = current.identity;
        let files = snapshot(&self.path);
        let Some(newest) = files.last().filter(|file| file.number == 0) else {
            // In the middle of a rotation: the new file is about to appear, and tells so.
            return Ok(false);
        };
        if newest.identity == mine {
            return Ok(false);
        }
        // It was rotated away, so its length stands now. Asked before, a line could be written in between.
        if current.file.metadata()?.len() > current.file.stream_position()? {
            return Ok(true);
        }
        // Where it is gone altogether, whatever is left is newer.
        let mut newer = VecDeque::new();
        for file in files.into_iter().rev() {
            if file.identity == mine {
                break;
            }
            newer.push_front(file);
        }
        self.waiting = newer;
        Ok(self.take_next())
    }
}

/// Opens the file (number 0) and its rotated ones, oldest first, as they stood at one moment.
///
/// A rotation renames one file after the other, so a single pass could see a file twice, miss one or take two in the
/// wrong order. Two passes that see the same are a picture of one moment: the writer only moves names upwards, and a
/// file that is held open keeps its inode. In that moment a rotation may be half done, which leaves a gap in the
/// numbers but the order intact.
fn snapshot(path: &Path) -> Vec<Part> {
    let mut last = open_all(path);
    for _ in 0..SNAPSHOT_TRIES {
        let next = open_all(path);
        let seen =
            |files: &[Part]| -> Vec<_> { files.iter().map(|file| (file.number, file.identity)).collect() };
        if seen(&last) == seen(&next) {
            break;
        }
        last = next;
    }
    last
}

/// Opens what there is in one pass, oldest first. One missing number may be a rotation's gap.
fn open_all(path: &Path) -> Vec<Part> {
    let mut files = Vec::new();
    let mut missing = 0;
    for number in 0..MAX_FILES {
        match Part::open(path, number) {
            Ok(file) => files.push(file),
            Err(_) if missing == 0 => missing += 1,
            Err(_) => break,
        }
    }
    files.reverse();
    files
}

/// Drops and positions files (oldest first) so that the last `lines` lines are left.
fn keep_last_lines(files: &mut VecDeque<Part>, lines: u64, log: &Path) {
    let mut wanted = lines;
    let mut kept = VecDeque::new();
    while let Some(part) = files.pop_back() {
        let Ok(mut part) = part.unpacked(log) else { continue };
        let (start, found) = last_lines(&mut part.file, wanted).unwrap_or((0, 0));
        let _ = part.file.seek(SeekFrom::Start(start));
        wanted -= found.min(wanted);
        kept.push_front(part);
        if wanted == 0 {
            break;
        }
    }
    *files = kept;
}

/// Where the last `wanted` lines of a file begin, and how many there are.
fn last_lines(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let length = file.metadata()?.len();
    let (mut end, mut found) = (length, 0);
    let mut block = vec![0; 64 << 10];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        file.seek(SeekFrom::Start(start))?;
        let part = &mut block[..(end - start) as usize];
        file.read_exact(part)?;
        for (index, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + index as u64 + 1;
            if after == length && wanted > 0 {
                // The end of the last line itself.
                continue;
            }
            if wanted == 0 {
                return Ok((length, 0));
            }
            found += 1;
            if found == wanted {
                return Ok((after, found));
            }
        }
        end = start;
    }
    // The first line has no line end before it.
    Ok(if length > 0 && wanted > 0 { (0, found + 1) } else { (0, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogWriter;
    use crate::request::LogFile;

    fn writer(path: &Path, max_size: u64) -> LogWriter {
        LogWriter::open(LogFile { path: path.to_owned(), max_size, max_files: 50, ..LogFile::default() })
            .expect("open")
    }

    fn write(log: &mut LogWriter, numbers: std::ops::Range<u32>) {
        for number in numbers {
            log.add(format!("{number}\n").as_bytes(), number % 2 == 1);
            log.flush();
        }
    }

    async fn collect(mut lines: mpsc::Receiver<LogEntry>) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(entry) = lines.recv().await {
            let text = std::str::from_utf8(&entry.line).expect("text");
            numbers.push(text.trim_end().parse().expect("number"));
        }
        numbers
    }

    fn never() -> (tokio::sync::watch::Sender<bool>, Ended) {
        tokio::sync::watch::channel(false)
    }

    #[tokio::test]
    async fn tail_reaches_back_into_rotated_files() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        write(&mut writer(&path, 400), 0..30);
        let (_sender, ended) = never();
        let all = collect(read_log(&path, LogQuery::default(), ended.clone())).await;
        assert_eq!(all, (0..30).collect::<Vec<_>>());
        for (tail, first) in [(7, 23), (1, 29), (30, 0), (99, 0), (0, 30)] {
            let query = LogQuery { tail: Some(tail), ..LogQuery::default() };
            assert_eq!(
                collect(read_log(&path, query, ended.clone())).await,
                (first..30).collect::<Vec<_>>(),
                "{tail}"
            );
        }
    }

    #[tokio::test]
    async fn a_follower_sees_every_line_through_rotations_and_ends() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let (sender, ended) = never();
        let follower = read_log(&path, LogQuery { follow: true, ..LogQuery::default() }, ended);
        let reading = tokio::spawn(collect(follower));
        let mut log = writer(&path, 3000);
        for turn in 0..20 {
            write(&mut log, turn * 50..turn * 50 + 50);
            tokio::task::yield_now().await;
        }
        sender.send(true).expect("reader listens");
        assert_eq!(reading.await.expect("reader"), (0..1000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn rotations_at_any_moment_lose_and_repeat_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let (sender, ended) = never();
        let query = || LogQuery { follow: true, ..LogQuery::default() };
        let mut readers = vec![tokio::spawn(collect(read_log(&path, query(), ended.clone())))];
        for turn in 0..8 {
            // A thread of its own: it rotates while the readers look, every second or third line.
            let mut log = LogWriter::open(LogFile {
                path: path.clone(),
                max_size: 200,
                max_files: 9999,
                ..LogFile::default()
            })
            .expect("open");
            let writing = tokio::task::spawn_blocking(move || write(&mut log, turn * 50..turn * 50 + 50));
            readers.push(tokio::spawn(collect(read_log(&path, query(), ended.clone()))));
            writing.await.expect("writer");
        }
        sender.send(true).expect("readers listen");
        for reading in readers {
            assert_eq!(reading.await.expect("reader"), (0..400).collect::<Vec<_>>());
        }
    }

    #[tokio::test]
    async fn since_and_until_cut_by_time() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let line = |number: u32| {
            format!(
                "{{\"log\":\"{number}\\n\",\"stream\":\"stdout\",\"time\":\"2024-01-01T00:00:{number:02}Z\"}}\n"
            )
        };
        std::fs::write(&path, (0..60).map(line).collect::<String>()).expect("write");
        let at =
            |second: u64| SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_704_067_200 + second);
        let query = LogQuery { since: Some(at(10)), until: Some(at(20)), ..LogQuery::default() };
        assert_eq!(collect(read_log(&path, query, never().1)).await, (10..21).collect::<Vec<_>>());
    }
}
