//! Rotated log files that are compressed, as dockerd's `compress` does it.
//!
//! A compressed file is another file than the one it was made of, but to a reader who is in the middle of that one they are the same: so
//! the header of the compressed one tells the identity of the other.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use rustix::fs::{Mode, OFlags};

/// What a file is, whatever its name is now: device and inode.
pub(super) type Identity = (u64, u64);

/// Marks our field in the header. Source: RFC 1952, section 2.3.1.1.
const FIELD: [u8; 4] = [b'c', b'o', 16, 0];
/// Bytes before the extra field: ten of the header, two of the length.
const BEFORE: usize = 12;
/// Gzip's flag of an extra field.
const EXTRA: u8 = 4;
/// More than any log file may have.
const MOST: u64 = 16 << 30;

/// The name of a compressed file.
pub(super) fn name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    PathBuf::from(name)
}

/// The name of one that is being written.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz.new");
    PathBuf::from(name)
}

/// Compresses a log file.
pub(crate) fn compress(from: &mut File, to: &mut File) -> io::Result<()> {
    let metadata = from.metadata()?;
    let mut extra = FIELD.to_vec();
    extra.extend_from_slice(&metadata.dev().to_le_bytes());
    extra.extend_from_slice(&metadata.ino().to_le_bytes());
    let mut encoder = flate2::GzBuilder::new().extra(extra).write(&mut *to, Compression::default());
    io::copy(from, &mut encoder)?;
    encoder.finish()?.flush()
}

/// Puts a finished compressed file in the place of the other.
pub(crate) fn replace(path: &Path) -> io::Result<()> {
    std::fs::rename(unfinished(path), name(path))?;
    std::fs::remove_file(path)
}

/// Returns the identity of the file that a compressed one was made of.
pub(super) fn identity(file: &mut File) -> io::Result<Identity> {
    let metadata = file.metadata()?;
    let mut head = [0; BEFORE + 4 + 16];
    file.seek(SeekFrom::Start(0))?;
    let read = file.read_exact(&mut head);
    file.seek(SeekFrom::Start(0))?;
    let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
    let ours = read.is_ok() && head[3] & EXTRA != 0 && head[BEFORE..BEFORE + 4] == FIELD;
    Ok(if ours { (number(BEFORE + 4), number(BEFORE + 12)) } else { (metadata.dev(), metadata.ino()) })
}

/// Unpacks a compressed file into one without a name, beside the log: a reader may go back and forth in it.
pub(super) fn unpack(file: File, log: &Path) -> io::Result<File> {
    let directory = log.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut plain: File = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR)?.into();
    io::copy(&mut MultiGzDecoder::new(file).take(MOST), &mut plain)?;
    plain.seek(SeekFrom::Start(0))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_compressed_unpacks_and_is_known_for_what_it_was() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log.1");
        std::fs::write(&path, "line\n".repeat(1000)).expect("write");
        let before = std::fs::metadata(&path).expect("file");
        let mut to = File::create_new(unfinished(&path)).expect("create");
        compress(&mut File::open(&path).expect("open"), &mut to).expect("compress");
        replace(&path).expect("replace");
        assert!(!path.exists() && !unfinished(&path).exists());
        let mut packed = File::open(name(&path)).expect("open");
        assert!(packed.metadata().expect("file").len() < 200);
        assert_eq!(identity(&mut packed).expect("identity"), (before.dev(), before.ino()));
        let mut text = String::new();
        unpack(packed, &path).expect("unpack").read_to_string(&mut text).expect("read");
        assert_eq!(text, "line\n".repeat(1000));
    }

    #[test]
    fn a_file_of_somebody_else_is_itself() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("log.1.gz");
        std::fs::write(&path, "no gzip").expect("write");
        let metadata = std::fs::metadata(&path).expect("file");
        let mut file = File::open(&path).expect("open");
        assert_eq!(identity(&mut file).expect("identity"), (metadata.dev(), metadata.ino()));
    }
}
