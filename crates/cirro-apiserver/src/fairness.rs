//! Fairness between users: one who floods waits behind himself.
//!
//! Every user has a few seats; who finds his taken waits in a line of his own, and is told to come
//! later when that is too long. Members of `system:masters` are exempt, as upstream. A seat is held until
//! an answer begins: watches, logs and commands hold none while they run.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use cirro_seams::api::ApiError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::User;
use crate::error;

/// Requests of one user that run at a time.
const SEATS: usize = 16;
/// Requests of one user that wait.
const LINE: usize = 512;
/// Flows that are remembered before those that ended are forgotten.
const SWEEP: usize = 256;

/// The lines of all users.
#[derive(Default)]
pub(crate) struct Fairness(Mutex<HashMap<String, Weak<Flow>>>);

struct Flow {
    seats: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The right to run one request.
pub(crate) struct Seat {
    _permit: Option<OwnedSemaphorePermit>,
    _flow: Option<Arc<Flow>>,
}

impl Fairness {
    /// Waits for a seat.
    ///
    /// # Errors
    /// 429 when too many of the user's requests wait already.
    pub(crate) async fn seat(&self, user: &User) -> Result<Seat, ApiError> {
        if user.is_master() {
            return Ok(Seat { _permit: None, _flow: None });
        }
        let flow = self.flow(&user.name);
        let permit = match flow.seats.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let _place = Place::take(&flow)?;
                flow.seats.clone().acquire_owned().await.expect("the semaphore is never closed")
            }
        };
        Ok(Seat { _permit: Some(permit), _flow: Some(flow) })
    }

    fn flow(&self, user: &str) -> Arc<Flow> {
        let mut flows = self.0.lock().expect("no panic while it is held");
        if let Some(flow) = flows.get(user).and_then(Weak::upgrade) {
            return flow;
        }
        if flows.len() >= SWEEP {
            flows.retain(|_, flow| flow.strong_count() > 0);
        }
        let flow = Arc::new(Flow { seats: Arc::new(Semaphore::new(SEATS)), waiting: AtomicUsize::new(0) });
        flows.insert(user.to_owned(), Arc::downgrade(&flow));
        flow
    }
}

/// A place in a line, left when it is dropped: also when the client goes.
struct Place<'a>(&'a Flow);

impl<'a> Place<'a> {
    fn take(flow: &'a Flow) -> Result<Self, ApiError> {
        let place = Self(flow);
        if flow.waiting.fetch_add(1, Ordering::Relaxed) >= LINE {
            return Err(error::too_many_requests());
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> User {
        User { name: name.into(), ..User::default() }
    }

    #[tokio::test]
    async fn a_flood_waits_behind_itself() {
        let fairness = Arc::new(Fairness::default());
        let (loud, quiet) = (user("loud"), user("quiet"));
        let mut seats = Vec::new();
        for _ in 0..SEATS {
            seats.push(fairness.seat(&loud).await.unwrap());
        }
        let line: Vec<_> = (0..LINE)
            .map(|_| {
                let (fairness, loud) = (fairness.clone(), loud.clone());
                tokio::spawn(async move { fairness.seat(&loud).await.map(drop) })
            })
            .collect();
        let flow = fairness.flow("loud");
        while flow.waiting.load(Ordering::Relaxed) < LINE {
            tokio::task::yield_now().await;
        }
        assert_eq!(fairness.seat(&loud).await.err().unwrap().code, 429);
        fairness.seat(&quiet).await.unwrap();
        fairness.seat(&User::internal()).await.unwrap();
        drop(seats);
        for waiting in line {
            waiting.await.unwrap().unwrap();
        }
        assert_eq!(flow.waiting.load(Ordering::Relaxed), 0);
        assert_eq!(flow.seats.available_permits(), SEATS);
    }
}
