//! Bounds on everything that comes from outside.

/// How much one archive or layer may ask of this host.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Bytes that one layer may write, its recipe included.
    pub layer_bytes: u64,
    /// Bytes of one archive, decompressed.
    pub archive_bytes: u64,
    /// Members of one archive.
    pub archive_members: usize,
    /// Images in one archive.
    pub images: usize,
    /// Layers of one image: what overlayfs and docker (125) take.
    pub layers: usize,
    /// Bytes of one manifest, index or configuration (registries and containerd: 4 MiB).
    pub document_bytes: u64,
    /// Indexes inside indexes.
    pub index_depth: usize,
    /// Bytes written per compressed byte, once more than `ratio_floor` bytes were written.
    pub ratio: u64,
    /// Bytes that may be written whatever the ratio is.
    pub ratio_floor: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            layer_entries: 2_000_000,
            layer_bytes: 256 << 30,
            archive_bytes: 512 << 30,
            archive_members: 65_536,
            images: 1024,
            layers: 125,
            document_bytes: 4 << 20,
            index_depth: 4,
            ratio: 250,
            ratio_floor: 2 << 30,
        }
    }
}
