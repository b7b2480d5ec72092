//! The targets by name.

use std::path::Path;

/// Something that parses bytes from outside.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Name of the target and of its corpus.
    pub name: &'static str,
    /// Parses bytes; may use the directory, which is there and empty before and after.
    pub run: fn(&[u8], &Path),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "tar", run: |bytes, _| cirro_image::fuzz::tar(bytes) },
    Target { name: "layer", run: cirro_image::fuzz::layer },
    Target { name: "manifest", run: |bytes, _| cirro_image::fuzz::document(bytes) },
    Target { name: "image-config", run: |bytes, _| cirro_image::fuzz::config(bytes) },
    Target { name: "compression", run: |bytes, _| decompress(bytes) },
    Target { name: "challenge", run: |bytes, _| on_text(bytes, challenge) },
    Target { name: "reference", run: |bytes, _| on_text(bytes, reference) },
    Target { name: "dockerfile", run: |bytes, _| on_text(bytes, cirro_build::fuzz::dockerfile) },
    Target { name: "dockerignore", run: |bytes, _| on_text(bytes, cirro_build::fuzz::ignore) },
    Target { name: "build-context", run: cirro_build::fuzz::context },
    Target { name: "buildkit", run: |bytes, _| cirro_buildkit::fuzz::messages(bytes) },
    Target { name: "transfer", run: transfer },
    Target { name: "wire", run: |bytes, _| cirro_container::fuzz::wire(bytes) },
    Target { name: "log", run: cirro_container::fuzz::log },
    Target { name: "bundle", run: bundle },
    Target { name: "filters", run: |bytes, _| on_text(bytes, cirro_docker::fuzz::filters) },
    Target { name: "create", run: |bytes, _| cirro_docker::fuzz::create(bytes) },
    Target { name: "spdy", run: |bytes, _| spdy(bytes) },
];

/// Bytes that a compressed input may give.
const MOST_DECOMPRESSED: u64 = 4 << 20;

fn on_text(bytes: &[u8], run: fn(&str)) {
    run(&String::from_utf8_lossy(bytes));
}

fn decompress(bytes: &[u8]) {
    use std::io::Read;
    if let Ok((reader, gauge)) = cirro_compression::decompress(bytes) {
        let _ = std::io::copy(&mut reader.take(MOST_DECOMPRESSED), &mut std::io::sink());
        assert!(gauge.read() <= bytes.len() as u64);
    }
}

fn challenge(text: &str) {
    let _ = cirro_image::parse_challenges(text);
}

/// What is parsed is written as it was meant: it is found again.
fn reference(text: &str) {
    let Ok(reference) = text.parse::<cirro_types::ImageReference>() else { return };
    let written = reference.to_string();
    assert_eq!(written.parse().as_ref(), Ok(&reference), "{text:?} is written as {written:?}");
    // As with docker, a name of docker.io whose first component could be a registry is shown as one.
    let first = reference.path.split('/').next().unwrap_or_default();
    if first.contains('.') || first == "localhost" {
        return;
    }
    let familiar = reference.familiar();
    assert_eq!(familiar.parse().as_ref(), Ok(&reference), "{text:?} is shown as {familiar:?}");
}

fn transfer(bytes: &[u8], directory: &Path) {
    cirro_buildkit::fuzz::transfer(bytes, directory);
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let _ = if is_directory { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    }
}

fn bundle(bytes: &[u8], directory: &Path) {
    cirro_container::fuzz::bundle(bytes, directory);
    let _ = std::fs::remove_file(directory.join("config.json"));
    let _ = std::fs::remove_dir(directory.join("rootfs"));
}

/// Frames never hold more than came, however the bytes are cut.
fn spdy(bytes: &[u8]) {
    let mut decoder = cirro_spdy::Decoder::default();
    let mut buffer = bytes::BytesMut::new();
    let mut data = 0;
    for piece in bytes.chunks(37) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(cirro_spdy::Frame::Data { bytes, .. })) => data += bytes.len(),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(data <= bytes.len());
}
