//! Appends to a json-file log and rotates it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::entry::write_entry;
use crate::request::LogFile;

/// The log of one workload.
#[derive(Debug)]
pub(crate) struct LogWriter {
    settings: LogFile,
    file: File,
    size: u64,
    buffer: Vec<u8>,
    /// JSON, or nothing.
    attributes: String,
    /// Files were rotated since this was asked last.
    rotated: bool,
}

impl LogWriter {
    /// Opens (or makes) the file; a line that a killed predecessor left torn is cut off.
    pub(crate) fn open(settings: LogFile) -> io::Result<Self> {
        if let Some(directory) = settings.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut file = open(&settings.path)?;
        let size = cut_torn_line(&mut file)?;
        let attributes = match &settings.attributes {
            none if none.is_empty() => String::new(),
            some => serde_json::to_string(some)?,
        };
        Ok(Self { settings, file, size, buffer: Vec::new(), attributes, rotated: false })
    }

    /// Whether there are new files to compress. Told once.
    pub(crate) fn wants_compression(&mut self) -> bool {
        std::mem::take(&mut self.rotated) && self.settings.compress
    }

    /// Returns the oldest rotated file that is not compressed.
    pub(crate) fn uncompressed(&self) -> Option<PathBuf> {
        let mut oldest = None;
        for number in 1..self.settings.max_files {
            let plain = rotated(&self.settings.path, number);
            if plain.exists() {
                oldest = Some(plain);
            } else if !compressed(&self.settings.path, number).exists() {
                break;
            }
        }
        oldest
    }

    /// Adds a line, or a piece of one, to what [`flush`](Self::flush) writes.
    pub(crate) fn add(&mut self, line: &[u8], stderr: bool) {
        write_entry(&mut self.buffer, line, stderr, &self.attributes);
        // One turn may bring more than a small file holds; files are cut between lines.
        if self.settings.max_size > 0 && self.size + self.buffer.len() as u64 >= self.settings.max_size {
            self.flush();
        }
    }

    /// Writes what was added. A disk that is full costs log lines, never the workload its output.
    pub(crate) fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.file.write_all(&self.buffer).is_ok() {
            self.size += self.buffer.len() as u64;
        } else {
            self.size = cut_torn_line(&mut self.file).unwrap_or(self.size);
        }
        self.buffer.clear();
        if self.buffer.capacity() > 256 << 10 {
            self.buffer = Vec::new();
        }
        if self.settings.max_size > 0 && self.size >= self.settings.max_size {
            let _ = self.rotate();
        }
    }

    fn rotate(&mut self) -> io::Result<()> {
        let path = &self.settings.path;
        // Only the files up to the first free number move: all of them, but for a rotation that was broken off.
        let oldest = self.settings.max_files.saturating_sub(1);
        let is_free = |number: &u32| !rotated(path, *number).exists() && !compressed(path, *number).exists();
        let free = (1..oldest).find(is_free).unwrap_or(oldest);
        for number in (1..free).rev() {
            move_up(path, number);
        }
        // Nobody is to take an older file for what comes here now.
        let _ = std::fs::remove_file(compressed(path, 1));
        if self.settings.max_files > 1 {
            std::fs::rename(path, rotated(path, 1))?;
        } else {
            std::fs::remove_file(path)?;
        }
        self.file = open(path)?;
        (self.size, self.rotated) = (0, true);
        Ok(())
    }
}

/// Gives a rotated file, compressed or not, the next number; what has that number goes.
fn move_up(path: &Path, number: u32) {
    let (plain, packed) = (rotated(path, number), compressed(path, number));
    if plain.exists() {
        let _ = std::fs::rename(plain, rotated(path, number + 1));
        let _ = std::fs::remove_file(compressed(path, number + 1));
        // Of a compression whose last step was broken off.
        let _ = std::fs::remove_file(packed);
    } else if packed.exists() {
        let _ = std::fs::rename(packed, compressed(path, number + 1));
        let _ = std::fs::remove_file(rotated(path, number + 1));
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// The name of the `number`th older file.
pub(super) fn rotated(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// The name of the `number`th older file when it is compressed.
pub(super) fn compressed(path: &Path, number: u32) -> PathBuf {
    super::packed::name(&rotated(path, number))
}

fn cut_torn_line(file: &mut File) -> io::Result<u64> {
    let length = file.metadata()?.len();
    let mut end = length;
    let mut block = vec![0; 4096];
    while end > 0 {
        let start = end.saturating_sub(4096);
        file.seek(SeekFrom::Start(start))?;
        let part = &mut block[..(end - start) as usize];
        file.read_exact(part)?;
        if let Some(position) = part.iter().rposition(|byte| *byte == b'\n') {
            end = start + position as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        file.set_len(end)?;
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_rotate_between_lines_and_the_oldest_goes() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        let mut log = LogWriter::open(LogFile {
            path: path.clone(),
            max_size: 300,
            max_files: 3,
            ..LogFile::default()
        })
        .expect("open");
        for number in 0..40 {
            log.add(format!("line {number}\n").as_bytes(), false);
            log.flush();
        }
        let files = [rotated(&path, 2), rotated(&path, 1), path.clone()];
        let text: String = files.iter().map(|file| std::fs::read_to_string(file).expect("file")).collect();
        assert!(text.lines().all(|line| line.starts_with("{\"log\":\"line ") && line.ends_with("Z\"}")));
        assert!(text.contains("line 39\\n"));
        assert!(!rotated(&path, 3).exists());
    }

    #[test]
    fn a_torn_line_is_cut_off() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log");
        std::fs::write(&path, "{\"log\":\"whole\"}\n{\"log\":\"to").expect("write");
        let settings = LogFile { path: path.clone(), max_size: 0, max_files: 1, ..LogFile::default() };
        let mut log = LogWriter::open(settings).expect("open");
        log.add(b"next\n", true);
        log.flush();
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(text.lines().next(), Some("{\"log\":\"whole\"}"));
        assert!(
            text.lines()
                .nth(1)
                .is_some_and(|line| line.starts_with("{\"log\":\"next\\n\",\"stream\":\"stderr\""))
        );
    }
}
