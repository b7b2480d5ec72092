//! The guardian's record of how processes ended: a line each, appended before the process is gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cirro_sys::process::EndedChild;

use super::link::MAX_PACKET;

/// The file of the record.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("reaped")
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reaped {
    pub(crate) pid: i32,
    pub(crate) start_time: u64,
    pub(crate) code: i32,
}

impl Reaped {
    /// Looks at a zombie, whose start time the kernel still knows.
    pub(super) fn of(ended: EndedChild) -> Self {
        let start_time = crate::process::start_time(ended.pid).unwrap_or_default();
        Self { pid: ended.pid, start_time, code: ended.code }
    }

    /// Appends the line; returns the size of the record then.
    pub(super) fn append(&self, mut file: &File) -> u64 {
        let mut buffer = [0; MAX_PACKET];
        let mut rest = &mut buffer[..];
        let _ = writeln!(rest, "{} {} {}", self.pid, self.start_time, self.code);
        let length = MAX_PACKET - rest.len();
        let _ = file.write_all(&buffer[..length]);
        file.metadata().map(|data| data.len()).unwrap_or_default()
    }

    /// Tells the supervisor.
    pub(super) fn send(&self, link: impl AsFd, size: u64) -> io::Result<()> {
        let mut buffer = [0; MAX_PACKET];
        let mut rest = &mut buffer[..];
        write!(rest, "Z{} {} {} {size}", self.pid, self.start_time, self.code)?;
        let length = MAX_PACKET - rest.len();
        cirro_sys::descriptors::send(link, &buffer[..length], &[]).map(drop)
    }

    pub(super) fn parse_sent(line: &[u8]) -> Option<(Self, u64)> {
        let (record, size) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
        Some((Self::parse(record)?, size.parse().ok()?))
    }

    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        Some(Self {
            pid: fields.next()?.parse().ok()?,
            start_time: fields.next()?.parse().ok()?,
            code: fields.next()?.parse().ok()?,
        })
    }
}

/// Empties the record if it has exactly the size that the supervisor has read.
pub(super) fn truncate(file: &File, size: u64) {
    if file.metadata().is_ok_and(|data| data.len() == size) {
        let _ = file.set_len(0);
    }
}

/// Reads the whole record and its size.
pub(crate) fn read_all(directory: &Path) -> (Vec<Reaped>, u64) {
    let text = std::fs::read_to_string(file(directory)).unwrap_or_default();
    (text.lines().filter_map(Reaped::parse).collect(), text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_emptied_only_when_all_of_it_was_read() {
        let directory = tempfile::tempdir().expect("directory");
        let log = File::options().create(true).append(true).open(file(directory.path())).expect("open");
        let one = Reaped { pid: 12, start_time: 34, code: 137 };
        one.append(&log);
        let (read, size) = read_all(directory.path());
        assert_eq!(read, [one]);
        one.append(&log);
        truncate(&log, size);
        assert_eq!(read_all(directory.path()).0.len(), 2);
        truncate(&log, size * 2);
        assert_eq!(read_all(directory.path()), (Vec::new(), 0));
    }
}
