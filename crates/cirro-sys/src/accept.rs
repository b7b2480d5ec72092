//! Accepts connections: so many at a time, with patience when the kernel has no room, until it is told to stop.
//!
//! One piece for the servers of every face; what is spoken on a connection is their own.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream, unix};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Wait after an accept that failed for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What connections come from.
pub trait Listener {
    /// A connection.
    type Stream;
    /// Who is at its other end.
    type Peer;

    /// Waits for the next connection.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = std::net::SocketAddr;

    async fn next(&self) -> io::Result<(TcpStream, std::net::SocketAddr)> {
        self.accept().await
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Peer = unix::SocketAddr;

    async fn next(&self) -> io::Result<(UnixStream, unix::SocketAddr)> {
        self.accept().await
    }
}

/// Connections that are still served.
pub struct Connections(JoinSet<()>);

/// Serves every connection in a task, at most `limit` at a time (more wait in the socket's backlog), until `shutdown`
/// resolves. Returns those that are open then.
pub async fn accept_all<L: Listener, F: Future<Output = ()> + Send + 'static>(
    listener: &L,
    limit: usize,
    shutdown: impl Future<Output = ()>,
    mut serve: impl FnMut(L::Stream, L::Peer) -> F,
) -> Connections {
    let places = Arc::new(Semaphore::new(limit));
    let mut connections = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let place = Arc::clone(&places).acquire_owned();
        let accepted = async {
            let place = place.await.expect("the semaphore is never closed");
            (place, listener.next().await)
        };
        let (place, accepted) = tokio::select! {
            () = &mut shutdown => return Connections(connections),
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve(stream, peer);
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Connections {
    /// Waits until all have ended, and `also` what they began; after `patience` ends those that are left.
    pub async fn drain(mut self, patience: Duration, also: impl Future<Output = ()>) {
        let ended = async {
            while self.0.join_next().await.is_some() {}
            also.await;
        };
        let _ = tokio::time::timeout(patience, ended).await;
        self.0.shutdown().await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::io::AsyncWriteExt as _;
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    #[tokio::test]
    async fn who_finds_no_place_waits_and_the_end_comes_after_patience() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (told, mut served) = mpsc::channel(8);
        let (end, ended) = oneshot::channel::<()>();
        let mut ended = Some(ended);
        let serving = tokio::spawn(async move {
            let serve = |mut stream: TcpStream, _| {
                let (told, ended) = (told.clone(), ended.take());
                async move {
                    stream.write_all(b"x").await.unwrap();
                    told.send(()).await.unwrap();
                    match ended {
                        Some(ended) => drop(ended.await),
                        None => pending().await,
                    }
                }
            };
            let shutdown = async { drop(stopped.await) };
            accept_all(&listener, 1, shutdown, serve).await.drain(Duration::from_millis(10), async {}).await;
        });
        let _first = TcpStream::connect(address).await.unwrap();
        served.recv().await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        tokio::task::yield_now().await;
        assert!(served.try_recv().is_err());
        end.send(()).unwrap();
        served.recv().await.unwrap();
        // The second would never end by itself.
        stop.send(()).unwrap();
        serving.await.unwrap();
    }
}
