//! Which revision a read must have seen: the newest one of all servers when it was asked.
//!
//! Reads that come while etcd is being asked wait for the next question together.

use std::sync::Arc;

use cirro_grpc::{Code, Status};
use tokio::sync::{mpsc, oneshot};

use super::client::Client;
use super::layout::newest;

/// Reads that wait for the next question; more wait for a place.
const WAITING: usize = 4096;

type Answer = oneshot::Sender<Result<i64, Status>>;

/// Asks etcd for its newest revision.
pub(super) struct Barrier(mpsc::Sender<Answer>);

impl Barrier {
    /// A barrier, and the work behind it, which ends when the barrier is dropped.
    pub(super) fn new(client: Arc<Client>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, mut waiting) = mpsc::channel::<Answer>(WAITING);
        let work = async move {
            let mut together = Vec::new();
            while waiting.recv_many(&mut together, WAITING).await > 0 {
                let answer = newest(&client).await;
                for one in together.drain(..) {
                    // Who asked may have gone.
                    let _ = one.send(answer.clone());
                }
            }
        };
        (Self(sender), work)
    }

    /// Returns a revision of etcd that is not older than this call.
    pub(super) async fn newest(&self) -> Result<i64, Status> {
        let stopped = || Status::new(Code::Unavailable, "the store is being closed");
        let (sender, answer) = oneshot::channel();
        self.0.send(sender).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }
}
