//! Sockets bound in unusual ways: to a link, to an address that is not there yet.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Makes a non-blocking UDP socket at an exact address.
pub fn udp_at(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = open(SocketType::DGRAM)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket.into())
}

/// Makes a non-blocking TCP listener at an exact address.
pub fn tcp_at(address: SocketAddrV4) -> io::Result<TcpListener> {
    let socket = open(SocketType::STREAM)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, 128)?;
    Ok(socket.into())
}

/// Makes a non-blocking UDP socket that hears only what comes in by one link, and may broadcast there.
pub fn udp_on_link(link: &str, port: u16) -> io::Result<UdpSocket> {
    let socket = open(SocketType::DGRAM)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    bind_to_link(&socket, link)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))?;
    Ok(socket.into())
}

/// Takes a port of this host without listening, so that nobody else can; at an IPv6 address that family's only.
///
/// # Errors
/// `AddrInUse` when a socket is bound there.
pub fn reserve(address: SocketAddr, udp: bool) -> io::Result<OwnedFd> {
    let kind = if udp { SocketType::DGRAM } else { SocketType::STREAM };
    let socket = match address {
        SocketAddr::V4(_) => open(kind)?,
        SocketAddr::V6(_) => {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET6, kind, flags, None)?;
            sockopt::set_ipv6_v6only(&socket, true)?;
            socket
        }
    };
    match address {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    if !udp {
        // Connections of an ended listener in TIME_WAIT are no obstacle; a living socket still is.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        return refuse_shared(socket);
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// With SO_REUSEADDR two bound sockets may share a port as long as none listens; taking the option back
/// makes ours exclusive for all who come later.
fn refuse_shared(socket: OwnedFd) -> io::Result<OwnedFd> {
    sockopt::set_socket_reuseaddr(&socket, false)?;
    Ok(socket)
}

fn open(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?)
}

fn bind_to_link(socket: &OwnedFd, link: &str) -> io::Result<()> {
    // SAFETY: the option reads `link.len()` bytes of `link`, which lives across the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTODEVICE,
            link.as_ptr().cast(),
            link.len() as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns how much of what was written to a unix socket its other end has not read yet (a measure, not bytes).
pub fn unread(socket: impl AsFd) -> io::Result<u32> {
    let mut left: libc::c_int = 0;
    // SAFETY: the descriptor is open as long as it is borrowed, and `left` is a valid place for an int.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut left) };
    if answer != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(left.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_taken_for_others_and_a_listening_one_for_us() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(taken) = listener.local_addr().unwrap() else { unreachable!() };
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, taken.port()));
        assert_eq!(reserve(any, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        let held = reserve(any, false).unwrap();
        assert!(reserve(any, false).is_err());
        assert!(TcpListener::bind(any).is_err());
        drop(held);
        let held = reserve(any, true).unwrap();
        assert!(UdpSocket::bind(any).is_err());
        drop(held);
    }

    #[test]
    fn what_the_other_end_has_not_read_is_known() {
        use std::io::{Read, Write};
        let (mut here, mut there) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(unread(&here).unwrap(), 0);
        here.write_all(b"word").unwrap();
        assert!(unread(&here).unwrap() > 0);
        there.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(unread(&here).unwrap(), 0);
    }
}
