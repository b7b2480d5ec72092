//! What decided the steps of the last build of each name, for whoever asks why a step was not cached.
//!
//! One file per name below `build-traces`: the stamp, 64 digits, and the builder's own document. Nothing depends on
//! them: what cannot be read is as good as not there, and the oldest go when there are many.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use cirro_types::Digest;

const MAX_FILES: usize = 256;
const MAX_BYTES: u64 = 32 << 20;
const STAMP: usize = 64;

/// The traces of this host.
#[derive(Debug, Clone)]
pub(crate) struct BuildTraces(PathBuf);

impl BuildTraces {
    /// Keeps traces in `root`.
    pub(crate) fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// Reads a trace.
    pub(crate) fn load(&self, slot: &Digest) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(self.path(slot)).ok()?;
        file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
        (bytes.len() >= STAMP).then(|| bytes.split_off(STAMP))
    }

    /// Reads the stamp of a trace.
    pub(crate) fn stamp(&self, slot: &Digest) -> Option<Digest> {
        let mut stamp = [0; STAMP];
        std::fs::File::open(self.path(slot)).ok()?.read_exact(&mut stamp).ok()?;
        format!("sha256:{}", str::from_utf8(&stamp).ok()?).parse().ok()
    }

    /// Writes a trace.
    pub(crate) fn keep(&self, slot: &Digest, stamp: &Digest, trace: &[u8]) -> io::Result<()> {
        if trace.len() as u64 > MAX_BYTES - STAMP as u64 {
            return Ok(());
        }
        std::fs::create_dir_all(&self.0)?;
        let path = self.path(slot);
        if !path.exists() {
            self.make_room()?;
        }
        // Whole or not at all; two builds of one name at once are both right.
        let draft = path.with_extension(crate::names::new_id().map_err(io::Error::other)?);
        let mut file = std::fs::File::create(&draft)?;
        let written = file.write_all(stamp.hex().as_bytes()).and_then(|()| file.write_all(trace));
        written
            .and_then(|()| std::fs::rename(&draft, path))
            .inspect_err(|_| drop(std::fs::remove_file(&draft)))
    }

    /// Removes every trace.
    pub(crate) fn prune(&self) -> io::Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make_room(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            let entry = entry?;
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
        files.sort();
        let surplus = (files.len() + 1).saturating_sub(MAX_FILES);
        files[..surplus].iter().try_for_each(|(_, path)| std::fs::remove_file(path))
    }

    fn path(&self, slot: &Digest) -> PathBuf {
        Path::new(&self.0).join(slot.hex())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_trace_of_a_name_is_kept_and_the_oldest_names_go() {
        let dir = tempfile::tempdir().unwrap();
        let traces = BuildTraces::new(dir.path().join("traces"));
        let slot = |number: usize| Digest::of(number.to_string().as_bytes());
        let stamp = Digest::of(b"stamp");
        assert_eq!((traces.load(&slot(0)), traces.stamp(&slot(0))), (None, None));
        for number in 0..MAX_FILES + 2 {
            traces.keep(&slot(number), &stamp, b"one").unwrap();
        }
        let last = slot(MAX_FILES + 1);
        traces.keep(&last, &slot(7), b"two").unwrap();
        assert_eq!(traces.load(&last).unwrap(), b"two");
        assert_eq!(traces.stamp(&last), Some(slot(7)));
        assert_eq!(std::fs::read_dir(dir.path().join("traces")).unwrap().count(), MAX_FILES);
        traces.prune().unwrap();
        assert_eq!(traces.load(&last), None);
    }
}
