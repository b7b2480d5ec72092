//! Calls of etcd: with one answer, and the stream of a watch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cirro_grpc::client::Exchange;
use cirro_grpc::{Code, Status};
use prost::Message;
use tokio::sync::Mutex;

use super::connection::{Connection, Endpoint};
use crate::StoreError;

/// Longest time for the answer to one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a message from etcd that are passed on.
const MAX_REASON: usize = 300;

/// Where etcd is, and not why it refused, is what these say: another member may do better.
const AWAY: [Code; 3] = [Code::DeadlineExceeded, Code::Unavailable, Code::Internal];

fn is_away(status: &Status) -> bool {
    AWAY.iter().any(|code| status.is(*code))
}

impl From<Status> for StoreError {
    fn from(status: Status) -> Self {
        let text: String = status.message.chars().take(MAX_REASON).collect();
        let large = match status.code {
            3 | 8 => text.contains("too large") || text.contains("larger than max"),
            _ => false,
        };
        match large {
            true => Self::TooLarge(text),
            false if is_away(&status) => Self::Unavailable(format!("etcd: {text}")),
            false => Self::Io(format!("etcd: {text}")),
        }
    }
}

/// A client of an etcd cluster: one connection at a time, to whichever member answers.
pub(super) struct Client {
    endpoints: Vec<Endpoint>,
    tls: Option<Arc<rustls::ClientConfig>>,
    open: Mutex<Option<Connection>>,
    next: AtomicUsize,
}

impl Client {
    pub(super) fn new(endpoints: Vec<Endpoint>, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self { endpoints, tls, open: Mutex::new(None), next: AtomicUsize::new(0) }
    }

    /// Returns the open connection, or opens one to the first member that answers.
    async fn connection(&self) -> Result<Connection, Status> {
        let mut open = self.open.lock().await;
        if let Some(connection) = open.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(connection.clone());
        }
        *open = None;
        let mut last = Status::new(Code::Unavailable, "no member is configured");
        for _ in 0..self.endpoints.len() {
            let endpoint = &self.endpoints[self.next.load(Ordering::Relaxed) % self.endpoints.len()];
            match Connection::open(endpoint, self.tls.as_ref()).await {
                Ok(connection) => return Ok(open.insert(connection).clone()),
                Err(why) => {
                    self.next.fetch_add(1, Ordering::Relaxed);
                    last = why;
                }
            }
        }
        Err(last)
    }

    /// Goes to another member next time: this one does not do what it should.
    async fn give_up(&self, connection: &Connection) {
        let mut open = self.open.lock().await;
        if open.as_ref().is_some_and(|present| present.is_same(connection)) {
            *open = None;
            self.next.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes a call with one answer.
    pub(super) async fn call<A: Message + Default>(
        &self,
        path: &str,
        message: &impl Message,
    ) -> Result<A, Status> {
        let connection = self.connection().await?;
        let result = in_time(connection.channel.ask(path, &[], message)).await;
        // A member that has lost the others answers `unavailable`.
        if result.as_ref().is_err_and(is_away) {
            self.give_up(&connection).await;
        }
        result
    }

    /// Begins a call with one message and a stream of answers.
    pub(super) async fn stream(&self, path: &str, message: &impl Message) -> Result<Stream, Status> {
        let connection = self.connection().await?;
        let begin = async {
            let mut exchange = connection.channel.start(path, &[]).await?;
            exchange.questions.send(message).await?;
            exchange.answers.begin().await?;
            Ok(exchange)
        };
        match in_time(begin).await {
            Ok(exchange) => Ok(Stream { exchange, _connection: connection }),
            Err(why) => {
                self.give_up(&connection).await;
                Err(why)
            }
        }
    }
}

async fn in_time<A>(call: impl Future<Output = Result<A, Status>>) -> Result<A, Status> {
    let result = tokio::time::timeout(CALL_TIMEOUT, call).await;
    result.unwrap_or_else(|_| Err(Status::new(Code::DeadlineExceeded, "no answer in time")))
}

/// An open call; it ends when this is dropped.
pub(super) struct Stream {
    exchange: Exchange,
    _connection: Connection,
}

impl Stream {
    /// Returns the next message; `None` at the end.
    pub(super) async fn next<A: Message + Default>(&mut self) -> Result<Option<A>, Status> {
        self.exchange.answers.next().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_become_the_stores_errors() {
        let refused =
            |code, message: &str| Status { code, message: message.into(), details: Vec::new() }.into();
        assert!(matches!(
            refused(3, "etcdserver: request is too large"),
            StoreError::TooLarge(text) if text == "etcdserver: request is too large"
        ));
        let larger = "grpc: received message larger than max (3 vs. 2)";
        assert!(matches!(refused(8, larger), StoreError::TooLarge(_)));
        assert!(matches!(refused(14, "etcdserver: leader changed"), StoreError::Unavailable(_)));
        assert!(matches!(refused(8, "etcdserver: mvcc: database space exceeded"), StoreError::Io(_)));
        let StoreError::Io(text) = refused(2, &"x".repeat(10_000)) else { panic!("an error of etcd") };
        assert!(text.len() < 400);
    }
}
