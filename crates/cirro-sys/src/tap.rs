//! Tap devices: the machine's end is a descriptor, ours a link in the calling thread's network namespace.

use std::ffi::{c_char, c_int, c_short};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Opens a tap (`IFF_TAP|IFF_NO_PI|IFF_VNET_HDR`), making it when there is none.
///
/// With `persist` the link stays when the descriptor is closed. `EBUSY`: somebody has it open.
pub fn open(name: &str, persist: bool) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    // SAFETY: all-zero bytes are a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['\0', '%', '/']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "invalid link name"));
    }
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as c_char;
    }
    request.ifr_ifru.ifru_flags = flags as c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives across the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: TUNSETPERSIST takes an integer, no pointer.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETPERSIST, c_int::from(persist)) })?;
    Ok(file.into())
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::Netlink;
    use crate::netns::Netns;

    #[test]
    fn root_a_persistent_tap_outlives_its_descriptor_and_has_one_owner() {
        Netns::fresh()
            .unwrap()
            .run(|| {
                let first = open("t0", true).unwrap();
                assert_eq!(open("t0", true).unwrap_err().raw_os_error(), Some(libc::EBUSY));
                drop(first);
                let mut netlink = Netlink::open().unwrap();
                assert_eq!(netlink.link("t0").unwrap().unwrap().kind, "tun");
                drop(open("t0", false).unwrap());
                assert_eq!(netlink.link("t0").unwrap(), None);
                assert!(open("a-name-that-is-too-long", true).is_err());
            })
            .unwrap();
    }
}
