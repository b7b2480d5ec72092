//! The new mount interface: overlays, attributes of mounts, and read-only views of executables.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags};

/// `fsconfig` takes strings below this size only.
const MAX_PARAMETER: usize = 255;

/// An overlay to mount.
#[derive(Debug)]
pub struct Overlay<'a> {
    /// Read-only layers, the top one first; at least one.
    pub lower: &'a [PathBuf],
    /// Takes the writes; without it the mount is read-only.
    pub upper: Option<(&'a Path, &'a Path)>,
}

impl Overlay<'_> {
    /// Makes the mount and returns it detached: nobody sees it until it is moved somewhere.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` or `ENOSYS` where layers cannot be added one by one (before Linux 6.7) and are too many to be named in one
    /// parameter.
    pub fn detached(&self) -> io::Result<OwnedFd> {
        let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        // Held until the mount is made: long paths are named by descriptor.
        let mut held = Vec::new();
        for layer in self.lower {
            match set_path(&context, "lowerdir+", layer, &mut held) {
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) && held.is_empty() => {
                    self.set_joined_layers(&context)?;
                    break;
                }
                other => other?,
            }
        }
        if let Some((upper, work)) = self.upper {
            set_path(&context, "upperdir", upper, &mut held)?;
            set_path(&context, "workdir", work, &mut held)?;
        }
        rustix::mount::fsconfig_create(&context)?;
        let attributes =
            if self.upper.is_some() { MountAttrFlags::empty() } else { MountAttrFlags::MOUNT_ATTR_RDONLY };
        Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
    }

    /// All layers in one parameter, as kernels before Linux 6.7 want them; short lists only.
    fn set_joined_layers(&self, context: &OwnedFd) -> io::Result<()> {
        let joined = self.lower.iter().map(|layer| escape(layer)).collect::<Vec<_>>().join(":");
        if joined.len() >= MAX_PARAMETER || joined.contains(',') {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        Ok(rustix::mount::fsconfig_set_string(context, "lowerdir", joined.as_str())?)
    }

    /// Mounts it at `target`, by the old interface where the new one does not do.
    ///
    /// # Errors
    /// The kernel's; too many layers for the old interface's one page of options are an [`io::ErrorKind::InvalidInput`].
    pub fn mount(&self, target: &Path) -> io::Result<()> {
        match self.detached() {
            Ok(mount) => Ok(rustix::mount::move_mount(
                &mount,
                "",
                rustix::fs::CWD,
                target,
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
            )?),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                self.mount_by_options(target).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    fn mount_by_options(&self, target: &Path) -> io::Result<()> {
        let lower: Vec<String> = self.lower.iter().map(|layer| escape(layer)).collect();
        let mut options = format!("lowerdir={}", lower.join(":"));
        let mut flags = MountFlags::RDONLY;
        if let Some((upper, work)) = self.upper {
            options.push_str(&format!(",upperdir={},workdir={}", escape(upper), escape(work)));
            flags = MountFlags::empty();
        }
        if options.len() >= 4096 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many layers for this kernel"));
        }
        let options = std::ffi::CString::new(options)?;
        Ok(rustix::mount::mount("overlay", target, "overlay", flags, Some(options.as_c_str()))?)
    }
}

/// What [`change`] makes of a mount.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or zero to leave it.
    pub propagation: u64,
    /// Owners are seen through this user namespace's map.
    pub id_map: Option<BorrowedFd<'a>>,
    /// The mounts below, too.
    pub recursive: bool,
}

/// Whether the kernel can change mounts by descriptor, with those below them (`mount_setattr`, since 5.12).
pub fn can_change() -> bool {
    let root = rustix::fs::open("/", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty());
    // Nothing is changed; a kernel without the call says so.
    !root.is_ok_and(|root| {
        change(root, Change::default()).is_err_and(|error| error.kind() == io::ErrorKind::Unsupported)
    })
}

/// Changes a mount, attached or detached, that a descriptor of its root stands for.
///
/// # Errors
/// The kernel's; `ENOSYS` before Linux 5.12.
pub fn change(mount: impl AsFd, change: Change<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: change.set | if change.id_map.is_some() { libc::MOUNT_ATTR_IDMAP } else { 0 },
        attr_clr: change.clear,
        propagation: change.propagation,
        userns_fd: change.id_map.map_or(0, |namespace| namespace.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is empty and ends with a zero; the structure goes with its size; no memory is written.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn escape(path: &Path) -> String {
    path.to_string_lossy().replace('\\', "\\\\").replace(':', "\\:").replace(',', "\\,")
}

fn set_path(context: &OwnedFd, key: &str, path: &Path, held: &mut Vec<OwnedFd>) -> io::Result<()> {
    if path.as_os_str().len() < MAX_PARAMETER {
        return Ok(rustix::mount::fsconfig_set_string(context, key, path)?);
    }
    let directory = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
    held.push(directory);
    Ok(rustix::mount::fsconfig_set_string(context, key, name.as_str())?)
}

/// Opens this process' own executable as [`open_executable_read_only`] does.
///
/// # Errors
/// The kernel's.
pub fn open_own_executable_read_only(empty: &Path) -> io::Result<OwnedFd> {
    open_executable_read_only(Path::new("/proc/self/exe"), empty)
}

/// Opens an executable in a form that nobody can write, however privileged (CVE-2019-5736).
///
/// A read-only mount of the file that is attached nowhere: whoever opens it through `/proc/PID/exe`, then or later, opens it there,
/// and nobody can remount what is in no mount namespace. Before Linux 5.12 a read-only overlay over its directory, which shares the
/// page cache too; where that cannot be mounted the file is copied into sealed memory. `empty` is an empty directory: an overlay
/// without an upper layer wants two lower ones.
///
/// # Errors
/// The kernel's.
pub fn open_executable_read_only(executable: &Path, empty: &Path) -> io::Result<OwnedFd> {
    // A link of /proc leads to the very file that runs, also when its path has another one by now.
    if let Ok(file) = read_only_view(executable) {
        return Ok(file);
    }
    match executable_through_overlay(executable, empty) {
        Ok(file) => Ok(file),
        Err(_) => executable_in_sealed_memory(executable),
    }
}

fn read_only_view(path: &Path) -> io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let file = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
    let set = libc::MOUNT_ATTR_RDONLY;
    change(&file, Change { set, propagation: libc::MS_PRIVATE, ..Change::default() })?;
    Ok(file)
}

fn executable_through_overlay(executable: &Path, empty: &Path) -> io::Result<OwnedFd> {
    let path = match std::fs::read_link(executable) {
        Ok(target) if target.is_absolute() => target,
        _ => std::fs::canonicalize(executable)?,
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let lower = [directory.to_owned(), empty.to_owned()];
    let mount = Overlay { lower: &lower, upper: None }.detached()?;
    let file = rustix::fs::openat(&mount, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // A build may have replaced the file since this process started: run what runs now, not something else.
    let (there, here) = (rustix::fs::fstat(&file)?, rustix::fs::stat(executable)?);
    if there.st_size != here.st_size || there.st_mtime != here.st_mtime {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(file)
}

fn executable_in_sealed_memory(executable: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let memory = rustix::fs::memfd_create("cirro", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(memory);
    let mut original = File::open(executable)?;
    io::copy(&mut original, &mut copy)?;
    // Size and time are what a build is known by.
    copy.set_modified(original.metadata()?.modified()?)?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_nobody_writes_through_a_read_only_view() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let view = read_only_view(file.path()).expect("view");
        let (there, here) =
            (rustix::fs::fstat(&view).expect("data"), rustix::fs::stat(file.path()).expect("data"));
        assert_eq!((there.st_dev, there.st_ino), (here.st_dev, here.st_ino));
        let refused = File::options().write(true).open(format!("/proc/self/fd/{}", view.as_raw_fd()));
        assert_eq!(refused.expect_err("read-only").raw_os_error(), Some(libc::EROFS));
        File::options().write(true).open(file.path()).expect("the file itself is as it was");
    }
}
