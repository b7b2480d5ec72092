//! What every guest boots from: the unpacked kernel and the first file system with tools and modules, made once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::cpio::Cpio;
use crate::files;
use crate::kernel::{self, Kernel};
use crate::{MachineError, failed};

const INIT: &str = include_str!("guest/init.sh");
const DHCP: &str = include_str!("guest/dhcp.sh");
/// Where Debian's busybox-static puts it.
const BUSYBOX: [&str; 2] = ["/bin/busybox", "/usr/bin/busybox"];

/// Files that QEMU loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootFiles {
    /// An ELF or a bzImage.
    pub(crate) kernel: PathBuf,
    /// The first file system; a machine's own archive goes behind it.
    pub(crate) initrd: PathBuf,
}

/// Gives the boot files of a kernel below `cache`, making them when kernel, busybox or scripts have changed.
pub(crate) fn ensure(kernel: &Kernel, cache: &Path) -> Result<BootFiles, MachineError> {
    let busybox = BUSYBOX.iter().map(Path::new).find(|path| path.is_file()).ok_or_else(|| {
        MachineError::Missing("no /bin/busybox for the guest: install busybox-static".into())
    })?;
    let directory = cache.join(key(kernel, busybox)?);
    if !directory.is_dir() {
        make(kernel, busybox, cache, &directory)?;
    }
    let unpacked = directory.join("vmlinux");
    let image = if unpacked.is_file() { unpacked } else { kernel.image.clone() };
    Ok(BootFiles { kernel: image, initrd: directory.join("initrd.gz") })
}

/// A name that changes with whatever the files are made from.
fn key(kernel: &Kernel, busybox: &Path) -> Result<String, MachineError> {
    let mut hasher = DefaultHasher::new();
    (INIT, DHCP, &kernel.modules).hash(&mut hasher);
    for path in [&kernel.image, busybox] {
        let metadata =
            std::fs::metadata(path).map_err(|error| failed(format!("look at {}", path.display()), &error))?;
        let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        (path, metadata.len(), modified).hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Makes the files beside their place and moves them there; those of other kernels go, as a running QEMU has read its own.
fn make(kernel: &Kernel, busybox: &Path, cache: &Path, directory: &Path) -> Result<(), MachineError> {
    std::fs::remove_dir_all(cache)
        .or_else(files::ignore_missing)
        .map_err(|e| failed("clear boot files", &e))?;
    let making = cache.join("making");
    files::private_directory(&making)?;
    let initrd = initrd(kernel, busybox)?;
    let unpacked = kernel::unpack(&kernel.image)?;
    let write = || {
        std::fs::write(making.join("initrd.gz"), initrd)?;
        if let Some(elf) = unpacked {
            std::fs::write(making.join("vmlinux"), elf)?;
        }
        // Half a kernel after a power failure would never boot and never be made again.
        rustix::fs::syncfs(std::fs::File::open(&making)?)?;
        std::fs::rename(&making, directory)
    };
    write().map_err(|error| failed("write the guest's boot files", &error))
}

fn initrd(kernel: &Kernel, busybox: &Path) -> Result<Vec<u8>, MachineError> {
    let read =
        |path: &Path| std::fs::read(path).map_err(|error| failed(format!("read {}", path.display()), &error));
    let busybox = read(busybox)?;
    if !is_static(&busybox) {
        return Err(MachineError::Missing(
            "/bin/busybox is linked dynamically: install busybox-static".into(),
        ));
    }
    let mut archive = Cpio::default();
    archive.directory("dev", 0o755);
    archive.character_device("dev/console", 0o600, (5, 1));
    archive.directory("cirro", 0o700);
    archive.directory("cirro/modules", 0o755);
    archive.file("cirro/busybox", 0o755, &busybox);
    archive.file("cirro/dhcp", 0o755, DHCP.as_bytes());
    archive.symlink("init", "cirro/init");
    archive.file("cirro/init", 0o755, INIT.as_bytes());
    let mut order = String::new();
    for module in kernel.modules_in_order()? {
        archive.file(&format!("cirro/modules/{}.ko", module.name), 0o644, &read(&module.path)?);
        order.push_str(&format!("{}.ko\n", module.name));
    }
    archive.file("cirro/modules/order", 0o644, order.as_bytes());
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    packer
        .write_all(&archive.finish())
        .and_then(|()| packer.finish())
        .map_err(|error| failed("pack the guest's first file system", &error))
}

/// Whether an ELF asks for no loader (`PT_INTERP`).
fn is_static(elf: &[u8]) -> bool {
    let word = |at: usize| elf.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let offset = elf.get(32..40).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let (Some(offset), Some(size), Some(count)) = (offset, word(54), word(56)) else { return false };
    let Ok(offset) = usize::try_from(offset) else { return false };
    elf.starts_with(b"\x7fELF\x02")
        && (0..count).all(|index| {
            let at = offset.saturating_add(index * size);
            elf.get(at..at.saturating_add(4)).is_some_and(|kind| kind != [3, 0, 0, 0])
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_and_dynamic_programs_are_told_apart() {
        assert!(is_static(&std::fs::read("/bin/busybox").unwrap()));
        assert!(!is_static(&std::fs::read("/bin/ls").unwrap()));
        assert!(!is_static(b"#!/bin/sh\n"));
    }
}
