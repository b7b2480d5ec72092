//! Builds of `POST /build?version=2` by the id that the client gave them: to be cancelled, and for contexts that come in
//! a request of their own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;

type Pieces = mpsc::Receiver<Result<Bytes, String>>;

/// Builds that are known by an id at the same time.
const MAX_JOBS: usize = 256;
const MAX_ID: usize = 256;
/// How long a build and its context wait for each other: dockerd's time.
const MEETING: Duration = Duration::from_secs(5);

/// A context on its way from one request to another.
struct Meeting {
    context: mpsc::Sender<Pieces>,
    taken: Option<mpsc::Receiver<Pieces>>,
    /// Becomes true when the build is over.
    over: watch::Sender<bool>,
    cancel: CancellationToken,
    /// How many requests speak of it.
    users: usize,
}

/// All of them.
#[derive(Clone, Default)]
pub(crate) struct Jobs(Arc<Mutex<HashMap<String, Meeting>>>);

/// A request's hold on a job; the last one takes it away.
pub(crate) struct Job {
    jobs: Jobs,
    id: String,
    /// Fires when the client cancels the build.
    pub(crate) cancel: CancellationToken,
}

impl Drop for Job {
    fn drop(&mut self) {
        let mut all = self.jobs.lock();
        if let Some(meeting) = all.get_mut(&self.id) {
            meeting.users -= 1;
            if meeting.users == 0 {
                all.remove(&self.id);
            }
        }
    }
}

impl Jobs {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Meeting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the job of this id, or makes it.
    pub(crate) fn join(&self, id: &str) -> Result<Job, ApiError> {
        if id.len() > MAX_ID {
            return Err(ApiError::invalid("the build's id is too long"));
        }
        let mut all = self.lock();
        if !all.contains_key(id) && all.len() >= MAX_JOBS {
            return Err(ApiError::conflict(format!("more than {MAX_JOBS} builds")));
        }
        let meeting = all.entry(id.to_owned()).or_insert_with(|| {
            let (context, taken) = mpsc::channel(1);
            Meeting {
                context,
                taken: Some(taken),
                over: watch::channel(false).0,
                cancel: CancellationToken::new(),
                users: 0,
            }
        });
        meeting.users += 1;
        Ok(Job { jobs: self.clone(), id: id.to_owned(), cancel: meeting.cancel.clone() })
    }

    /// Cancels a build, if it is there.
    pub(crate) fn cancel(&self, id: &str) {
        if let Some(meeting) = self.lock().get(id) {
            meeting.cancel.cancel();
        }
    }
}

impl Job {
    fn with<T>(&self, look: impl FnOnce(&mut Meeting) -> T) -> Option<T> {
        self.jobs.lock().get_mut(&self.id).map(look)
    }

    /// Gives the build its context and waits until the build is over.
    pub(crate) async fn give(&self, pieces: Pieces) -> Result<(), ApiError> {
        let gone = || ApiError::failed("the build did not take its context: context deadline exceeded");
        let (context, mut over) =
            self.with(|meeting| (meeting.context.clone(), meeting.over.subscribe())).ok_or_else(gone)?;
        let sent = tokio::time::timeout(MEETING, context.send(pieces)).await;
        sent.map_err(|_| gone())?.map_err(|_| gone())?;
        // Whoever reads the context reads it from this request's body, which must stay until then.
        let _ = over.wait_for(|over| *over).await;
        Ok(())
    }

    /// Takes the context that another request gives.
    pub(crate) async fn take(&self) -> Result<Pieces, ApiError> {
        let missing = || ApiError::failed("the build's context did not come: context deadline exceeded");
        let mut taken = self.with(|meeting| meeting.taken.take()).flatten().ok_or_else(missing)?;
        let pieces = tokio::time::timeout(MEETING, taken.recv()).await.map_err(|_| missing())?;
        pieces.ok_or_else(missing)
    }

    /// Says that the build is over.
    pub(crate) fn over(&self) {
        self.with(|meeting| meeting.over.send_replace(true));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_context_meets_its_build() {
        let jobs = Jobs::default();
        let (build, upload) = (jobs.join("a").unwrap(), jobs.join("a").unwrap());
        let (sender, pieces) = mpsc::channel(1);
        sender.send(Ok(Bytes::from_static(b"tar"))).await.unwrap();
        let giving = tokio::spawn(async move { upload.give(pieces).await });
        let mut taken = build.take().await.unwrap();
        assert_eq!(taken.recv().await.unwrap().unwrap(), "tar");
        assert!(!giving.is_finished());
        build.over();
        giving.await.unwrap().unwrap();
        drop(build);
        assert!(jobs.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_context_that_does_not_come_is_an_error_and_a_build_can_be_cancelled() {
        let jobs = Jobs::default();
        let build = jobs.join("a").unwrap();
        assert!(build.take().await.is_err());
        jobs.cancel("b");
        assert!(!build.cancel.is_cancelled());
        jobs.cancel("a");
        assert!(build.cancel.is_cancelled());
    }
}
