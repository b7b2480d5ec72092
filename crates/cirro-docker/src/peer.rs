//! Notices that the client of a hijacked connection is gone.
//!
//! Reading tells only that the client will write no more, which may be no more than the end of its stdin. The
//! kernel tells the rest: once both directions are closed, the socket hangs up (EPOLLHUP).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, Interest};
use tokio::net::UnixStream;

/// How often, and how long each time, a client is waited for that has not read the head.
const HEAD_LOOKS: u32 = 50;
const HEAD_WAIT: Duration = Duration::from_millis(1);

/// A connection after its upgrade.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// Returns the connection of an upgrade and, for a socket whose state can be watched, a descriptor of it.
pub(crate) fn open(upgraded: Upgraded) -> (Box<dyn Connection>, Option<OwnedFd>) {
    match upgraded.downcast::<TokioIo<UnixStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            let watched = stream.as_fd().try_clone_to_owned().ok();
            let (reader, writer) = stream.into_split();
            let reader = io::Cursor::new(parts.read_buf).chain(reader);
            (Box::new(tokio::io::join(reader, writer)), watched)
        }
        Err(upgraded) => (Box::new(TokioIo::new(upgraded)), None),
    }
}

/// Waits, a few milliseconds at most, until the client has read the head of the answer.
///
/// docker-py reads heads through a buffer and bodies past it: what comes along with the head is lost to it. dockerd needs
/// longer than a client to come to its first output; we do not.
pub(crate) async fn has_read(socket: Option<&OwnedFd>) {
    let Some(socket) = socket else { return };
    for _ in 0..HEAD_LOOKS {
        if cirro_sys::socket::unread(socket).is_ok_and(|left| left == 0) {
            return;
        }
        tokio::time::sleep(HEAD_WAIT).await;
    }
}

/// Resolves when the other end has closed both directions; never when there is nothing to watch.
pub(crate) async fn gone(socket: Option<OwnedFd>) {
    let watched = socket.and_then(|socket| UnixStream::from_std(socket.into()).ok());
    let Some(watched) = watched else { return std::future::pending().await };
    // Readiness is edge-triggered: an edge that is not the hang-up is taken off and the next one awaited.
    while let Ok(ready) = watched.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        let taken_off: io::Result<()> =
            watched.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
        debug_assert!(taken_off.is_err());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_gone(socket: &UnixStream) -> bool {
        let socket = socket.as_fd().try_clone_to_owned().unwrap();
        tokio::time::timeout(Duration::from_millis(200), gone(Some(socket))).await.is_ok()
    }

    #[tokio::test]
    async fn a_closed_write_side_is_not_a_client_that_is_gone() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let theirs = theirs.into_std().unwrap();
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!is_gone(&ours).await);
        drop(theirs);
        assert!(is_gone(&ours).await);
    }
}
