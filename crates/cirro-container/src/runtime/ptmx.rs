//! Opens a terminal in a container's own devpts.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Source: linux/magic.h.
const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;

/// Opens master and slave. The container owns `/dev`, so what is found there is looked at before it is trusted (CVE-2025-52565).
pub(super) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    open_in(&rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// As [`open`], in a root that is not this process' yet.
pub(super) fn open_in(root: &OwnedFd) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let master = rustix::fs::openat2(root, "dev/pts/ptmx", flags, Mode::empty(), resolve)?;
    let (data, system) = (rustix::fs::fstat(&master)?, rustix::fs::fstatfs(&master)?);
    let is_ptmx = FileType::from_raw_mode(data.st_mode) == FileType::CharacterDevice
        && (rustix::fs::major(data.st_rdev), rustix::fs::minor(data.st_rdev)) == (5, 2);
    if !is_ptmx || system.f_type as u64 != DEVPTS_SUPER_MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "/dev/pts/ptmx is no terminal multiplexer"));
    }
    rustix::pty::unlockpt(&master)?;
    let slave = open_slave(&master)?;
    Ok((master, slave))
}

/// Opens a master's slave without asking for its name.
pub(super) fn open_slave(master: &OwnedFd) -> io::Result<OwnedFd> {
    Ok(rustix::pty::ioctl_tiocgptpeer(
        master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?)
}

/// Sets the size of a terminal: columns and rows.
pub(crate) fn set_size(master: &OwnedFd, (columns, rows): (u16, u16)) -> io::Result<()> {
    Ok(rustix::termios::tcsetwinsize(
        master,
        Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 },
    )?)
}
