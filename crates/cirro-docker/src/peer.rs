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

/// How long a client is waited for that has not read the head.
const HEAD_WAIT: Duration = Duration::from_millis(50);

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
    let Some(socket) = socket.filter(|socket| has_unread(socket)) else { return };
    let watched = socket.try_clone().and_then(|copy| UnixStream::from_std(copy.into()));
    let Ok(watched) = watched else { return };
    let read = async {
        // What is read makes room, which the kernel tells as one can write again.
        take_off(&watched);
        while has_unread(socket) && watched.ready(Interest::WRITABLE).await.is_ok() {
            take_off(&watched);
        }
    };
    let _ = tokio::time::timeout(HEAD_WAIT, read).await;
}

fn has_unread(socket: &OwnedFd) -> bool {
    cirro_sys::socket::unread(socket).is_ok_and(|left| left > 0)
}

/// Readiness is edge-triggered: takes an edge off, so that the next one is awaited.
fn take_off(watched: &UnixStream) {
    let taken_off: io::Result<()> =
        watched.try_io(Interest::WRITABLE, || Err(io::ErrorKind::WouldBlock.into()));
    debug_assert!(taken_off.is_err());
}

/// Resolves when the other end has closed both directions; never when there is nothing to watch.
pub(crate) async fn gone(socket: Option<OwnedFd>) {
    let watched = socket.and_then(|socket| UnixStream::from_std(socket.into()).ok());
    let Some(watched) = watched else { return std::future::pending().await };
    while let Ok(ready) = watched.ready(Interest::WRITABLE).await {
        if ready.is_write_closed() {
            return;
        }
        take_off(&watched);
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
    async fn a_client_is_waited_for_until_it_has_read() {
        use tokio::io::AsyncWriteExt;
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = ours.as_fd().try_clone_to_owned().unwrap();
        has_read(Some(&socket)).await;
        ours.write_all(b"head").await.unwrap();
        let waiting = async {
            // Half of it is not all of it.
            theirs.read_exact(&mut [0; 2]).await.unwrap();
            tokio::task::yield_now().await;
            assert!(has_unread(&socket));
            theirs.read_exact(&mut [0; 2]).await.unwrap();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = has_read(Some(&socket)) => {}
            () = waiting => {}
        }
        assert!(!has_unread(&socket));
        // One that never reads is not waited for for ever.
        ours.write_all(b"head").await.unwrap();
        has_read(Some(&socket)).await;
        assert!(has_unread(&socket));
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
