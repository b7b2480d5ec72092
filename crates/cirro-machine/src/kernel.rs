//! The guest's kernel: where it is, which modules the guest needs, and the form that boots fastest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::{MachineError, failed};

/// Modules that a guest cannot do without, unless they are built in.
const REQUIRED: [&str; 4] = ["virtio_pci", "virtio_blk", "virtio_net", "ext4"];
/// Modules that make it answer the power button.
const OPTIONAL: [&str; 2] = ["button", "evdev"];
const MAX_KERNEL: u64 = 256 << 20;
const MAX_DEPTH: usize = 16;

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kernel {
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// The directory of the modules of its version.
    pub(crate) modules: PathBuf,
}

/// A loadable module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

impl Kernel {
    /// Finds the newest kernel: in `chosen` alone if it is given, else in `own`, else the host's installed ones.
    pub(crate) fn find(chosen: Option<&Path>, own: &Path) -> Result<Self, MachineError> {
        if let Some(directory) = chosen {
            return newest(directory, &directory.join("lib/modules"), "").ok_or_else(|| {
                MachineError::Missing(format!(
                    "no vmlinuz-VERSION with lib/modules/VERSION in {} (the guest kernel's directory)",
                    directory.display()
                ))
            });
        }
        newest(own, &own.join("lib/modules"), "")
            .or_else(|| newest(Path::new("/boot"), Path::new("/lib/modules"), "-cloud-amd64"))
            .ok_or_else(|| {
                MachineError::Missing(format!(
                    "no guest kernel: install linux-image-cloud-amd64, or put vmlinuz-VERSION and lib/modules/VERSION \
                     into {}, or start with --guest-kernel and the directory that scripts/guest-kernel prints",
                    own.display()
                ))
            })
    }

    /// Lists the modules to load, each after those that it needs.
    pub(crate) fn modules_in_order(&self) -> Result<Vec<Module>, MachineError> {
        let mut files = BTreeMap::new();
        collect(&self.modules.join("kernel"), &mut files, 0)
            .map_err(|error| failed("list the guest kernel's modules", &error))?;
        let builtin = std::fs::read_to_string(self.modules.join("modules.builtin")).unwrap_or_default();
        let builtin: Vec<String> = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        let mut ordered = Vec::new();
        for (name, required) in
            REQUIRED.iter().map(|name| (*name, true)).chain(OPTIONAL.iter().map(|name| (*name, false)))
        {
            if files.contains_key(name) {
                resolve(name, &files, &builtin, &mut ordered, 0)?;
            } else if required && !builtin.iter().any(|built| built == name) {
                return Err(MachineError::Missing(format!(
                    "the guest kernel in {} has no module {name} (compressed ones are not supported)",
                    self.modules.display()
                )));
            }
        }
        Ok(ordered)
    }
}

fn newest(boot: &Path, modules: &Path, suffix: &str) -> Option<Kernel> {
    let mut found: Vec<(Vec<u64>, Kernel)> = std::fs::read_dir(boot)
        .ok()?
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            let version = name.strip_prefix("vmlinuz-").filter(|version| version.ends_with(suffix))?;
            let kernel = Kernel { image: boot.join(&name), modules: modules.join(version) };
            kernel.modules.is_dir().then(|| (numbers(version), kernel))
        })
        .collect();
    found.sort_by(|left, right| left.0.cmp(&right.0).then_with(|| left.1.image.cmp(&right.1.image)));
    found.pop().map(|(_, kernel)| kernel)
}

/// The numbers in a version, to be compared as numbers.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn collect(
    directory: &Path,
    files: &mut BTreeMap<String, PathBuf>,
    depth: usize,
) -> Result<(), std::io::Error> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            collect(&path, files, depth + 1)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// The kernel's name of a module: its file's, with underscores.
fn module_name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.strip_suffix(".ko")?.replace('-', "_"))
}

fn resolve(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &[String],
    ordered: &mut Vec<Module>,
    depth: usize,
) -> Result<(), MachineError> {
    if ordered.iter().any(|module| module.name == name) || depth > MAX_DEPTH {
        return Ok(());
    }
    let Some(path) = files.get(name) else {
        if builtin.iter().any(|built| built == name) {
            return Ok(());
        }
        return Err(MachineError::Missing(format!(
            "the guest kernel has no module {name}, which others need"
        )));
    };
    let bytes = std::fs::read(path).map_err(|error| failed(format!("read {}", path.display()), &error))?;
    for needed in dependencies(&bytes) {
        resolve(&needed, files, builtin, ordered, depth + 1)?;
    }
    ordered.push(Module { name: name.to_owned(), path: path.clone() });
    Ok(())
}

/// Reads `depends=` of a module's `.modinfo`: what `depmod` reads, which Debian runs only where the kernel is installed.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = &module[at + KEY.len()..];
    let value = &value[..value.iter().position(|byte| *byte == 0).unwrap_or(0)];
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

/// Unpacks a bzImage to the ELF inside, which saves the guest the work; `None` if it is packed in a way that we do not read.
pub(crate) fn unpack(image: &Path) -> Result<Option<Vec<u8>>, MachineError> {
    let read = || {
        if std::fs::metadata(image)?.len() > MAX_KERNEL {
            return Err(std::io::Error::other("too large for a kernel"));
        }
        std::fs::read(image)
    };
    let bytes = read().map_err(|error| failed(format!("read {}", image.display()), &error))?;
    Ok(payload(&bytes).and_then(unpack_lz4).filter(|elf| elf.starts_with(b"\x7fELF")))
}

/// Returns the packed kernel in a bzImage, without the length that follows it.
///
/// Source: Linux `Documentation/arch/x86/boot.rst`.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" || le16(image, 0x206)? < 0x208 {
        return None;
    }
    let setup = match image.get(0x1f1)? {
        0 => 5,
        sectors => usize::from(*sectors) + 1,
    };
    let start = (setup * 512).checked_add(le32(image, 0x248)?)?;
    let end = start.checked_add(le32(image, 0x24c)?)?.checked_sub(4)?;
    image.get(start..end)
}

/// Unpacks LZ4's legacy frames: blocks of up to 8 MiB, each after its packed length.
fn unpack_lz4(packed: &[u8]) -> Option<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut left = packed.strip_prefix(&[0x02, 0x21, 0x4c, 0x18])?;
    let mut whole = Vec::new();
    let mut block = vec![0; BLOCK];
    while left.len() >= 4 {
        let length = le32(left, 0)?;
        let data = left.get(4..length.checked_add(4)?)?;
        let size = lz4_flex::block::decompress_into(data, &mut block).ok()?;
        whole.extend_from_slice(&block[..size]);
        if whole.len() as u64 > MAX_KERNEL {
            return None;
        }
        left = &left[4 + length..];
    }
    Some(whole)
}

fn le16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn le32(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &[u8]) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    #[test]
    fn the_newest_kernel_that_has_modules_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for version in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.12.0-1-cloud-amd64"] {
            write(&root.join(format!("vmlinuz-{version}")), b"");
        }
        assert!(matches!(Kernel::find(Some(root), root), Err(MachineError::Missing(_))));
        for version in ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64"] {
            std::fs::create_dir_all(root.join("lib/modules").join(version)).unwrap();
        }
        let kernel = Kernel::find(Some(root), Path::new("/nonexistent")).unwrap();
        assert!(kernel.image.ends_with("vmlinuz-6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = Kernel { image: PathBuf::new(), modules: directory.path().to_owned() };
        let modules = [
            ("virtio/virtio", "virtio_ring"),
            ("virtio/virtio_ring", ""),
            ("virtio/virtio_pci", "virtio-ring,virtio"),
            ("block/virtio-blk", "virtio_ring,virtio"),
            ("net/virtio_net", "net_failover,virtio"),
            ("net/net_failover", "failover"),
            ("net/failover", ""),
        ];
        for (path, depends) in modules {
            let path = directory.path().join(format!("kernel/{path}.ko"));
            write(&path, format!("\x7fELF\0license=GPL\0depends={depends}\0").as_bytes());
        }
        assert!(matches!(kernel.modules_in_order(), Err(MachineError::Missing(_))), "ext4 is missing");
        write(&directory.path().join("modules.builtin"), b"kernel/fs/ext4/ext4.ko\n");
        let order: Vec<String> =
            kernel.modules_in_order().unwrap().into_iter().map(|module| module.name).collect();
        let wanted =
            ["virtio_ring", "virtio", "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net"];
        assert_eq!(order, wanted);
    }

    #[test]
    fn an_lz4_kernel_is_unpacked_and_anything_else_is_left_alone() {
        let elf: Vec<u8> =
            b"\x7fELF".iter().copied().chain((0..100_000_u32).map(|i| (i / 7) as u8)).collect();
        let block = lz4_flex::block::compress(&elf);
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        packed.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        packed.extend_from_slice(&block);
        packed.extend_from_slice(&u32::try_from(elf.len()).unwrap().to_le_bytes());
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
        image.extend_from_slice(&packed);

        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &image).unwrap();
        assert_eq!(unpack(file.path()).unwrap(), Some(elf));
        for length in [0, 100, 0x250, 1030, 1100] {
            std::fs::write(file.path(), &image[..length]).unwrap();
            assert_eq!(unpack(file.path()).unwrap(), None, "cut at {length}");
        }
    }
}
