//! Project quotas: limits on what a directory tree takes of its file system.
//!
//! A directory gets a number, what is made below it inherits the number, and the file system counts and bounds what has the
//! number. Ext4 has it with `-O project,quota` and the mount option `prjquota`, XFS with the mount option `pquota`.
//!
//! Source: Linux `include/uapi/linux/fs.h` (`struct fsxattr`), `include/uapi/linux/dqblk_xfs.h` (`struct fs_disk_quota`),
//! `quotactl_fd(2)` (Linux 5.14), which needs no path of a block device.

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes of the units that limits of blocks are in.
const BASIC_BLOCK: u64 = 512;
const PROJECT: u32 = 2;
/// `XQM_CMD(3)` and `XQM_CMD(4)`.
const GET_QUOTA: u32 = (b'X' as u32) << 8 | 3;
const SET_LIMIT: u32 = (b'X' as u32) << 8 | 4;
const VERSION: i8 = 1;
/// `FS_PROJ_QUOTA` of `d_flags`.
const OF_PROJECT: i8 = 2;
/// `FS_DQ_BSOFT | FS_DQ_BHARD`.
const BLOCK_LIMITS: u16 = 1 << 2 | 1 << 3;
/// `FS_XFLAG_PROJINHERIT`.
const INHERIT: u32 = 0x200;

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`.
const GET_ATTRIBUTES: libc::Ioctl = 0x801c_581f;
const SET_ATTRIBUTES: libc::Ioctl = 0x401c_5820;
/// The same number on every architecture.
const QUOTACTL_FD: libc::c_long = 443;

/// What a project has on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in use.
    pub bytes: u64,
    /// Files, directories and so on.
    pub inodes: u64,
    /// Bytes that it may have; none when there is no limit.
    pub limit: Option<u64>,
}

/// `struct fs_disk_quota`.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    version: i8,
    flags: i8,
    fields: u16,
    id: u32,
    block_hard_limit: u64,
    block_soft_limit: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    blocks: u64,
    inodes: u64,
    timers: [i32; 2],
    warnings: [u16; 2],
    high_timers: [i8; 4],
    realtime_limits: [u64; 2],
    realtime_blocks: u64,
    realtime_timer: i32,
    realtime_warnings: u16,
    padding: [i8; 10],
}

/// `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_on_write_extent_size: u32,
    padding: [u8; 8],
}

/// Returns what a project has on the file system of `on`.
///
/// # Errors
/// `ENOSYS`, `ENOTSUP`, `ESRCH` and `ENOTTY` say that the file system keeps no project quotas.
pub fn usage(on: impl AsFd, project: u32) -> io::Result<Usage> {
    let mut quota = DiskQuota::default();
    match control(on, GET_QUOTA, project, &mut quota) {
        // XFS has no record of a project that never had anything.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            return Ok(Usage { bytes: 0, inodes: 0, limit: None });
        }
        result => result?,
    }
    let limit = (quota.block_hard_limit > 0).then(|| quota.block_hard_limit.saturating_mul(BASIC_BLOCK));
    Ok(Usage { bytes: quota.blocks.saturating_mul(BASIC_BLOCK), inodes: quota.inodes, limit })
}

/// Bounds the bytes that a project may have; 0 takes the bound away.
pub fn limit(on: impl AsFd, project: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(BASIC_BLOCK);
    let mut quota = DiskQuota {
        version: VERSION,
        flags: OF_PROJECT,
        fields: BLOCK_LIMITS,
        id: project,
        block_hard_limit: blocks,
        block_soft_limit: blocks,
        ..DiskQuota::default()
    };
    control(on, SET_LIMIT, project, &mut quota)
}

/// Puts a directory into a project; what is made in it from now on is in the project too.
pub fn assign(directory: impl AsFd, project: u32) -> io::Result<()> {
    let fd = directory.as_fd().as_raw_fd();
    let mut attributes = Attributes::default();
    // SAFETY: FS_IOC_FSGETXATTR writes one `struct fsxattr`, which lives across the call.
    check(unsafe { libc::ioctl(fd, GET_ATTRIBUTES, &raw mut attributes) })?;
    attributes.project = project;
    attributes.flags |= INHERIT;
    // SAFETY: FS_IOC_FSSETXATTR reads one `struct fsxattr`, which lives across the call.
    check(unsafe { libc::ioctl(fd, SET_ATTRIBUTES, &raw const attributes) })
}

fn control(on: impl AsFd, command: u32, project: u32, quota: &mut DiskQuota) -> io::Result<()> {
    let (fd, command) = (on.as_fd().as_raw_fd(), command << 8 | PROJECT);
    // SAFETY: both commands read or write one `struct fs_disk_quota`, which lives across the call.
    let result = unsafe { libc::syscall(QUOTACTL_FD, fd, command, project, &raw mut *quota) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tells whether an error means that the file system keeps no project quotas.
pub fn is_unsupported(error: &io::Error) -> bool {
    let without = [libc::ENOSYS, libc::EOPNOTSUPP, libc::ESRCH, libc::ENOTTY, libc::EINVAL];
    error.raw_os_error().is_some_and(|code| without.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!(size_of::<DiskQuota>(), 112);
        assert_eq!(size_of::<Attributes>(), 28);
    }

    #[test]
    fn a_file_system_without_quotas_says_so() {
        let null = std::fs::File::open("/proc").expect("/proc");
        let error = limit(&null, 1, 1 << 20).expect_err("proc has no quotas");
        // Somebody without the right to set quotas is not told what the file system has.
        assert!(is_unsupported(&error) || error.kind() == io::ErrorKind::PermissionDenied, "{error}");
    }
}
