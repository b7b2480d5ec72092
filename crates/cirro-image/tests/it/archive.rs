//! Archives for the tests, made entry by entry: a tar program would refuse most of the hostile ones.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cirro_image::{ImageError, Library, Limits, Loaded};
use cirro_store::{MemoryNodeDb, NodeDb};
use cirro_types::Digest;
use serde_json::json;

/// What a program that compresses its input makes of these bytes.
pub(crate) fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut command = Command::new(program);
    let mut child = command
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let (mut input, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let said = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(said.status.success());
    said.stdout
}

/// A tar being made.
#[derive(Default)]
pub(crate) struct Tar {
    bytes: Vec<u8>,
    pax: Vec<u8>,
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Gives the next entry a PAX record.
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while length != body + length.to_string().len() {
            length = body + length.to_string().len();
        }
        write!(self.pax, "{length} {key}=").unwrap();
        self.pax.extend_from_slice(value);
        self.pax.push(b'\n');
        self
    }

    pub(crate) fn file(self, name: &str, contents: &[u8]) -> Self {
        self.entry(name.as_bytes(), b'0', b"", 0o644, contents)
    }

    pub(crate) fn executable(self, name: &str, mode: u32, contents: &[u8]) -> Self {
        self.entry(name.as_bytes(), b'0', b"", mode, contents)
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(name.as_bytes(), b'5', b"", mode, b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(name.as_bytes(), b'2', target.as_bytes(), 0o777, b"")
    }

    pub(crate) fn link(self, name: &str, target: &str) -> Self {
        self.entry(name.as_bytes(), b'1', target.as_bytes(), 0o644, b"")
    }

    pub(crate) fn node(self, name: &str, kind: u8, major: &[u8; 8], minor: &[u8; 8]) -> Self {
        let mut header = header(name.as_bytes(), kind, b"", 0o644, 0);
        header[329..337].copy_from_slice(major);
        header[337..345].copy_from_slice(minor);
        self.raw_entry(header, b"")
    }

    pub(crate) fn entry(self, name: &[u8], kind: u8, link: &[u8], mode: u32, contents: &[u8]) -> Self {
        self.raw_entry(header(name, kind, link, mode, contents.len() as u64), contents)
    }

    /// Adds an entry whose header may claim anything.
    pub(crate) fn raw_entry(mut self, mut head: [u8; 512], contents: &[u8]) -> Self {
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            self = self.raw_entry(header(b"pax", b'x', b"", 0o644, pax.len() as u64), &pax);
        }
        checksum(&mut head);
        self.bytes.extend_from_slice(&head);
        self.bytes.extend_from_slice(contents);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// A header whose checksum is still missing.
pub(crate) fn header(name: &[u8], kind: u8, link: &[u8], mode: u32, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..name.len()].copy_from_slice(name);
    header[157..157 + link.len()].copy_from_slice(link);
    let mut number = |start: usize, width: usize, value: u64| {
        let text = format!("{value:0width$o}\0", width = width - 1);
        header[start..start + width].copy_from_slice(text.as_bytes());
    };
    number(100, 8, mode.into());
    number(108, 8, 0);
    number(116, 8, 0);
    number(124, 12, size);
    number(136, 12, 1_000_000_000);
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    header
}

fn checksum(header: &mut [u8; 512]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A configuration document for layers given as plain tars.
pub(crate) fn config(layers: &[&[u8]]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
    json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}, "unknown": {"kept": true},
    })
    .to_string()
    .into_bytes()
}

/// A docker archive of one image, the documents last.
pub(crate) fn docker_archive(tags: &[&str], layers: &[&[u8]]) -> Vec<u8> {
    docker_archive_of(tags, &config(layers), layers)
}

pub(crate) fn docker_archive_of(tags: &[&str], config: &[u8], layers: &[&[u8]]) -> Vec<u8> {
    let names: Vec<_> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let mut tar = Tar::new();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.file(name, layer);
    }
    let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]).to_string();
    tar.file("config.json", config).file("manifest.json", manifest.as_bytes()).end()
}

/// A library in a directory of its own.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) db: Arc<dyn NodeDb>,
    pub(crate) library: Library,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(Limits::default())
    }

    pub(crate) fn with(limits: Limits) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests unpack owners and devices: run them as root"
        );
        let dir = tempfile::tempdir().unwrap();
        let db: Arc<dyn NodeDb> = Arc::new(MemoryNodeDb::new());
        let library = Library::open_with(&dir.path().join("library"), Arc::clone(&db), limits).unwrap();
        Self { dir, db, library }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("library")
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Vec<Loaded>, ImageError> {
        self.library.load(&mut &archive[..], &mut |_| {})
    }

    /// Loads layers as an image and returns their directories, the lowest first.
    pub(crate) fn layers(&self, layers: &[&[u8]]) -> Result<Vec<PathBuf>, ImageError> {
        self.load(&docker_archive(&["test:latest"], layers))?;
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let mut dirs = self.library.layer_dirs(&diff_ids)?;
        dirs.reverse();
        Ok(dirs)
    }

    /// Unpacks one layer.
    pub(crate) fn layer(&self, layer: &[u8]) -> Result<PathBuf, ImageError> {
        Ok(self.layers(&[layer])?.remove(0))
    }

    /// Asserts that nothing was kept.
    pub(crate) fn assert_empty(&self) {
        assert!(self.library.list().unwrap().is_empty());
        let end = Instant::now() + Duration::from_secs(20);
        while std::fs::read_dir(self.path().join("trash")).unwrap().count() > 0 {
            assert!(Instant::now() < end, "the trash is not emptied");
            std::thread::yield_now();
        }
        for name in ["layers", "roots", "scratch", "temporary"] {
            let left: Vec<_> = std::fs::read_dir(self.path().join(name)).unwrap().collect();
            assert!(left.is_empty(), "left in {name}: {left:?}");
        }
    }
}

pub(crate) fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}
