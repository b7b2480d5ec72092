//! Archives in the form that the kernel unpacks as its first file system (cpio "newc").
//!
//! Source: Linux `Documentation/driver-api/early-userspace/buffer-format.rst`.

/// An archive that grows in memory.
#[derive(Debug, Default)]
pub(crate) struct Cpio {
    bytes: Vec<u8>,
    inode: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Cpio {
    pub(crate) fn directory(&mut self, path: &str, mode: u32) {
        self.entry(path, DIRECTORY | mode, (0, 0), b"");
    }

    /// Adds a file; the kernel reads it as a whole, so it fits into memory here as well (and into 4 GiB).
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entry(path, FILE | mode, (0, 0), content);
    }

    pub(crate) fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    pub(crate) fn character_device(&mut self, path: &str, mode: u32, number: (u32, u32)) {
        self.entry(path, CHARACTER_DEVICE | mode, number, b"");
    }

    /// Ends the archive and returns it; its length is a multiple of 512.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), b"");
        self.pad(512);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let size = u32::try_from(content.len()).expect("files of an initial file system are small");
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        self.inode += 1;
        let fields = [
            self.inode,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            u32::try_from(path.len() + 1).expect("our paths are short"),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn cpio_lists_what_was_written() {
        let mut archive = Cpio::default();
        archive.directory("dev", 0o755);
        archive.character_device("dev/console", 0o600, (5, 1));
        archive.file("init", 0o755, b"#!/bin/sh\n");
        archive.symlink("sh", "busybox");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 512, 0);
        let mut child = Command::new("cpio")
            .args(["-tvn", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is installed");
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let words: Vec<Vec<&str>> = listing.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words.len(), 4, "{listing}");
        assert!(words[0][0] == "drwxr-xr-x" && words[0].last() == Some(&"dev"), "{listing}");
        assert!(words[1][0] == "crw-------" && listing.contains("5,   1"), "{listing}");
        assert!(words[2][0] == "-rwxr-xr-x" && words[2][4] == "10", "{listing}");
        assert!(words[3].ends_with(&["sh", "->", "busybox"]), "{listing}");
    }
}
