//! The file of events: one writer on a thread of its own, rotation by size, old files deleted by number and age.
//!
//! Source: the names of rotated files are lumberjack's.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::AuditOptions;

/// Lines that wait for the writer; who has one more waits too.
const BACKLOG: usize = 1024;
/// Names of rotated files tell no shorter times.
const MILLISECOND: Duration = Duration::from_millis(1);

/// The way to the writer.
pub(super) struct Log(mpsc::Sender<Vec<u8>>);

impl Log {
    /// Opens the file and starts the writer, which ends with this handle. Blocks.
    pub(super) fn open(options: &AuditOptions) -> io::Result<Self> {
        let mut writer = Writer::open(options.clone())?;
        let (sender, mut lines) = mpsc::channel::<Vec<u8>>(BACKLOG);
        std::thread::Builder::new().name("audit".into()).spawn(move || {
            while let Some(line) = lines.blocking_recv() {
                if let Err(why) = writer.write(&line) {
                    tracing::error!(%why, "an audit event is lost: the log cannot be written");
                }
            }
        })?;
        Ok(Self(sender))
    }

    /// Writes a line; waits while too many wait.
    pub(super) async fn write(&self, line: Vec<u8>) {
        // The writer ends after this handle only.
        let _ = self.0.send(line).await;
    }

    /// Writes a line from where nothing can wait; false when there is no room for it.
    pub(super) fn try_write(&self, line: Vec<u8>) -> bool {
        self.0.try_send(line).is_ok()
    }
}

/// The open file.
struct Writer {
    options: AuditOptions,
    file: File,
    size: u64,
    /// Time in the name of the last rotated file.
    rotated: Timestamp,
}

impl Writer {
    fn open(options: AuditOptions) -> io::Result<Self> {
        if let Some(parent) = options.log.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            std::fs::create_dir_all(parent)?;
        }
        let file = open(&options.log)?;
        let size = file.metadata()?.len();
        Ok(Self { options, file, size, rotated: Timestamp::MIN })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        if self.size > 0 && self.size + length > self.options.max_size_bytes {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        // Two in one millisecond would be one file, or stand in the wrong order.
        let mut now = Timestamp::now();
        if self.rotated > Timestamp::MIN {
            now = now.max(self.rotated + MILLISECOND);
        }
        while backup(&self.options.log, now).exists() {
            now += MILLISECOND;
        }
        self.rotated = now;
        std::fs::rename(&self.options.log, backup(&self.options.log, now))?;
        self.file = open(&self.options.log)?;
        self.size = 0;
        self.forget()
    }

    /// Deletes rotated files that are too many or too old.
    fn forget(&self) -> io::Result<()> {
        let mut files = backups(&self.options.log)?;
        files.sort();
        let excess = files.len().saturating_sub(self.options.max_backups);
        let age = Duration::from_secs(self.options.max_age_days.saturating_mul(24 * 3600));
        for (index, file) in files.iter().enumerate() {
            let modified = std::fs::metadata(file).and_then(|metadata| metadata.modified());
            let old =
                modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|past| past > age));
            if index < excess || (old && !age.is_zero()) {
                std::fs::remove_file(file)?;
            }
        }
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Splits `audit.log` into its stem and its extension with the dot.
fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|extension| format!(".{extension}"));
    (text(path.file_stem()).unwrap_or_default(), extension.unwrap_or_default())
}

fn backup(path: &Path, at: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    path.with_file_name(format!("{stem}-{}{extension}", at.strftime("%Y-%m-%dT%H-%M-%S%.3f")))
}

fn backups(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (stem, extension) = parts(path);
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stamp = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        // 2006-01-02T15-04-05.000
        if stamp.is_some_and(|stamp| stamp.len() == 23 && stamp.as_bytes()[10] == b'T') {
            found.push(entry.path());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_rotated_and_the_oldest_goes() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("logs/audit.log");
        let options = AuditOptions {
            policy: PathBuf::new(),
            log: log.clone(),
            max_size_bytes: 10,
            max_backups: 2,
            max_age_days: 0,
        };
        let mut writer = Writer::open(options.clone()).unwrap();
        // Many in each millisecond.
        for number in 0..100 {
            writer.write(format!("line {number}\n").as_bytes()).unwrap();
        }
        let mut kept = backups(&log).unwrap();
        kept.sort();
        let texts: Vec<_> = kept.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        assert_eq!(texts, ["line 97\n", "line 98\n"]);
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "line 99\n");
        // Opened again, it goes on where it was.
        let mut again = Writer::open(options).unwrap();
        again.write(b"x\n").unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "line 99\nx\n");
    }
}
