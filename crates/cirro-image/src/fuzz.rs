//! Entries for fuzzing (`crates/cirro-fuzz`): whatever the bytes are, nothing panics and what is promised of the result holds.

use std::path::Path;

use cirro_compression::decompress;

use crate::confine::remove_tree;
use crate::document::Document;
use crate::limits::Limits;
use crate::load::check_config;
use crate::tarball::{Nowhere, ReaderChunks, TarStream};
use crate::unpack::unpack;

/// Reads a tar to its end.
pub fn tar(bytes: &[u8]) {
    let mut stream = TarStream::new(ReaderChunks(bytes));
    while let Ok(Some(member)) = stream.next(&mut Nowhere) {
        assert!(!member.name.contains(&0) && !member.link.contains(&0));
        while matches!(stream.contents(), Ok(piece) if !piece.is_empty()) {}
    }
}

/// Unpacks a layer in `directory`, which is there and empty, and empties it again.
pub fn layer(bytes: &[u8], directory: &Path) {
    let limits = Limits { layer_entries: 2000, layer_bytes: 4 << 20, ..Limits::default() };
    let layer = directory.join("layer");
    if std::fs::create_dir(&layer).is_err() {
        return;
    }
    if let Ok((mut plain, gauge)) = decompress(bytes) {
        let _ = unpack(&mut plain, &gauge, &limits, &layer);
    }
    remove_tree(&layer).expect("a layer of ours can be removed");
    let left = std::fs::read_dir(directory).into_iter().flatten().count();
    assert_eq!(left, 0, "something was made beside the layer");
}

/// Reads a manifest or index.
pub fn document(bytes: &[u8]) {
    for stated in [None, Some(crate::media::OCI_MANIFEST), Some(crate::media::OCI_INDEX)] {
        if let Ok(Document::Manifest(manifest)) = Document::parse(bytes, stated) {
            let _ = check_config(bytes, manifest.layers.len());
        }
    }
}

/// Reads an image's configuration.
pub fn config(bytes: &[u8]) {
    for layers in 0..3 {
        if let Ok(config) = check_config(bytes, layers) {
            assert_eq!(config.rootfs.diff_ids.len(), layers);
        }
    }
}
