//! Makes a blob of a layer that has none: of one that was built or loaded.

use std::fs::File;
use std::io::{self, Write};

use cirro_types::Digest;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::blobs::Blob;
use crate::error::{Context, ImageError};
use crate::hash::Hasher;
use crate::layers::write_tar;
use crate::library::Library;
use crate::media;

/// What more costs twice the time for a few per cent.
const LEVEL: u32 = 5;

impl Library {
    /// Compresses a layer, which the caller pins, and keeps the blob.
    pub fn compress_layer(&self, diff_id: &Digest) -> Result<(Digest, Blob), ImageError> {
        let temporary = self.inner.temporary()?;
        let path = temporary.path().join("blob");
        let file = File::create_new(&path).context(|| "make blob".into())?;
        let hashed = Hashing { file, hasher: Hasher::new(), size: 0 };
        let mut encoder =
            GzEncoder::new(io::BufWriter::with_capacity(256 << 10, hashed), Compression::new(LEVEL));
        write_tar(&self.inner.layer_dir(diff_id), diff_id, &mut encoder)?;
        let at = || "write blob".to_owned();
        let hashed = encoder.finish().context(at)?.into_inner().map_err(io::IntoInnerError::into_error);
        let Hashing { file, hasher, size } = hashed.context(at)?;
        file.sync_data().context(at)?;
        let (digest, media_type) = (hasher.finish(), media::DOCKER_LAYER_GZIP.to_owned());
        let blob = Blob { size, media_type, diff_id: *diff_id, sources: Vec::new() };
        self.adopt_blob(&path, &digest, blob.clone())?;
        self.record_blob(&digest)?;
        Ok((digest, blob))
    }
}

/// A file whose digest is computed as it is written.
struct Hashing {
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
