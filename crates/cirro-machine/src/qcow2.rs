//! Copy-on-write disks (qcow2) that read from a raw file below them until they are written to.
//!
//! Only an empty one is made here; QEMU does the rest.
//!
//! Source: QEMU `docs/interop/qcow2.txt`.

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of eight bytes in a cluster.
const ENTRIES: u64 = CLUSTER / 8;
const HEADER_LENGTH: u32 = 104;
/// Marks the header extension that holds the backing file's format.
const BACKING_FORMAT: u32 = 0xe279_2aca;

/// Header, one cluster of refcount table, one refcount block and one cluster of L1 table.
const CLUSTERS: u64 = 4;
/// The largest disk that one cluster of L1 table describes: 4 TiB.
pub(crate) const MAX_SIZE: u64 = ENTRIES * ENTRIES * CLUSTER;

/// Returns an empty disk of `size` bytes above the raw file `backing`; `None` if it is too large or the name too long.
pub(crate) fn empty(size: u64, backing: &str) -> Option<Vec<u8>> {
    if size > MAX_SIZE || backing.is_empty() || backing.len() > 1023 {
        return None;
    }
    let l1_entries = u32::try_from(size.div_ceil(ENTRIES * CLUSTER)).ok()?;
    let extension_length = 8 + 8 + 8;
    let name_offset = u64::from(HEADER_LENGTH) + extension_length;

    let mut bytes = Vec::with_capacity(usize::try_from(CLUSTERS * CLUSTER).ok()?);
    bytes.extend_from_slice(b"QFI\xfb");
    bytes.extend_from_slice(&3_u32.to_be_bytes());
    bytes.extend_from_slice(&name_offset.to_be_bytes());
    bytes.extend_from_slice(&u32::try_from(backing.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&CLUSTER_BITS.to_be_bytes());
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&0_u32.to_be_bytes()); // no encryption
    bytes.extend_from_slice(&l1_entries.to_be_bytes());
    bytes.extend_from_slice(&(3 * CLUSTER).to_be_bytes()); // L1 table
    bytes.extend_from_slice(&CLUSTER.to_be_bytes()); // refcount table
    bytes.extend_from_slice(&1_u32.to_be_bytes()); // of one cluster
    bytes.extend_from_slice(&0_u32.to_be_bytes()); // no snapshots
    bytes.extend_from_slice(&0_u64.to_be_bytes());
    bytes.extend_from_slice(&[0; 24]); // incompatible, compatible, autoclear features
    bytes.extend_from_slice(&4_u32.to_be_bytes()); // refcounts of 16 bits
    bytes.extend_from_slice(&HEADER_LENGTH.to_be_bytes());
    bytes.extend_from_slice(&BACKING_FORMAT.to_be_bytes());
    bytes.extend_from_slice(&3_u32.to_be_bytes());
    bytes.extend_from_slice(b"raw\0\0\0\0\0");
    bytes.extend_from_slice(&[0; 8]); // end of the extensions
    bytes.extend_from_slice(backing.as_bytes());

    let at = |cluster: u64| usize::try_from(cluster * CLUSTER).expect("four clusters");
    bytes.resize(at(1), 0);
    bytes.extend_from_slice(&(2 * CLUSTER).to_be_bytes()); // the refcount block
    bytes.resize(at(2), 0);
    for _ in 0..CLUSTERS {
        bytes.extend_from_slice(&1_u16.to_be_bytes());
    }
    bytes.resize(at(CLUSTERS), 0);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_disk_has_its_tables_where_the_header_says() {
        let bytes = empty(10 << 30, "/base.ext4").unwrap();
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(bytes.len() as u64, CLUSTERS * CLUSTER);
        assert_eq!(word(24), 10 << 30);
        assert_eq!(u32::from_be_bytes(bytes[36..40].try_into().unwrap()), 20, "512 MiB for each L1 entry");
        assert_eq!((word(40), word(48), word(CLUSTER as usize)), (3 * CLUSTER, CLUSTER, 2 * CLUSTER));
        let name = word(8) as usize;
        assert_eq!(&bytes[name..name + 10], b"/base.ext4");
        assert!(empty(MAX_SIZE + 1, "/base").is_none() && empty(1 << 30, "").is_none());
    }

    #[test]
    fn qemu_img_finds_no_fault_where_it_is_installed() {
        let directory = tempfile::tempdir().unwrap();
        let (base, disk) = (directory.path().join("base"), directory.path().join("disk"));
        std::fs::File::create(&base).unwrap().set_len(1 << 30).unwrap();
        std::fs::write(&disk, empty(1 << 30, base.to_str().unwrap()).unwrap()).unwrap();
        match std::process::Command::new("qemu-img").arg("check").arg(&disk).output() {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(_) => eprintln!("skipped: no qemu-img here (the boot test has QEMU itself read such a disk)"),
        }
    }
}
