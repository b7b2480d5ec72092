//! A queue of keys: each at most once, never two workers on one key, failures tried again with back-off.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

const FIRST_DELAY: Duration = Duration::from_millis(20);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// What a queue needs of a key.
pub trait Key: Clone + Eq + Ord + Hash + Debug + Send + Sync + 'static {}
impl<K: Clone + Eq + Ord + Hash + Debug + Send + Sync + 'static> Key for K {}

/// A queue of keys. Its length is bounded by the number of different keys.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// What is in `ready`.
    queued: HashSet<K>,
    /// Keys that a worker holds; true: added again meanwhile.
    claimed: HashMap<K, bool>,
    delayed: BTreeSet<(Instant, K)>,
    failures: HashMap<K, u32>,
}

/// A key that a worker holds; given back when dropped.
pub struct Claim<K: Key> {
    queue: Arc<WorkQueue<K>>,
    /// The key.
    pub key: K,
}

/// What a reconciler wants next for its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something changes.
    Wait,
    /// Another look after a time, even if nothing changes.
    After(Duration),
}

impl<K: Key> WorkQueue<K> {
    /// Makes an empty queue.
    pub fn new() -> Arc<Self> {
        let state = State {
            ready: VecDeque::new(),
            queued: HashSet::new(),
            claimed: HashMap::new(),
            delayed: BTreeSet::new(),
            failures: HashMap::new(),
        };
        Arc::new(Self { state: Mutex::new(state), changed: Notify::new() })
    }

    /// Adds a key; nothing happens when it waits already.
    pub fn add(&self, key: K) {
        self.state().add(key);
        self.changed.notify_one();
    }

    /// Adds a key after a time.
    pub fn add_after(&self, key: K, delay: Duration) {
        self.state().delayed.insert((Instant::now() + delay, key));
        self.changed.notify_one();
    }

    /// Adds a key after a time that doubles with each call, until `forget`.
    pub fn retry(&self, key: K) {
        let failures = {
            let mut state = self.state();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            *failures
        };
        let delay = FIRST_DELAY.saturating_mul(1 << (failures - 1).min(16)).min(LONGEST_DELAY);
        self.add_after(key, delay);
    }

    /// Forgets a key's failures.
    pub fn forget(&self, key: &K) {
        self.state().failures.remove(key);
    }

    /// Takes the next key that no other worker holds; waits until there is one.
    pub async fn next(self: &Arc<Self>) -> Claim<K> {
        loop {
            let changed = self.changed.notified();
            let due = {
                let mut state = self.state();
                state.take_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.queued.remove(&key);
                    state.claimed.insert(key.clone(), false);
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return Claim { queue: self.clone(), key };
                }
                state.delayed.first().map(|(due, _)| *due)
            };
            match due {
                Some(due) => {
                    let _ = tokio::time::timeout_at(due, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> State<K> {
    fn add(&mut self, key: K) {
        if let Some(again) = self.claimed.get_mut(&key) {
            *again = true;
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    fn take_due(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, key)) = self.delayed.pop_first() {
                self.add(key);
            }
        }
    }
}

impl<K: Key> Drop for Claim<K> {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if state.claimed.remove(&self.key) == Some(true) {
            state.add(self.key.clone());
            drop(state);
            self.queue.changed.notify_one();
        }
    }
}

/// Reconciles keys with so many workers until `stop` is cancelled; a step that has begun is finished.
///
/// A failure is logged and the key tried again with back-off.
pub async fn run<K, F, R, E>(
    name: &'static str,
    queue: Arc<WorkQueue<K>>,
    workers: usize,
    stop: CancellationToken,
    reconcile: F,
) where
    K: Key,
    F: Fn(K) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<Next, E>> + Send,
    E: std::fmt::Display + Send,
{
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (queue, stop, reconcile) = (queue.clone(), stop.clone(), reconcile.clone());
        tasks.spawn(async move {
            while let Some(claim) = stop.run_until_cancelled(queue.next()).await {
                let key = claim.key.clone();
                match reconcile(key.clone()).await {
                    Ok(next) => {
                        queue.forget(&key);
                        if let Next::After(delay) = next {
                            queue.add_after(key, delay);
                        }
                    }
                    Err(error) => {
                        let failures = queue.state().failures.get(&key).copied().unwrap_or(0);
                        // Conflicts with other writers are everyday; only what lasts is worth a line.
                        if failures < 3 {
                            debug!(name, ?key, %error, "reconcile failed");
                        } else {
                            warn!(name, ?key, %error, failures, "reconcile keeps failing");
                        }
                        queue.retry(key);
                    }
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_at_most_once_and_is_held_by_one_worker() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.add(1);
        queue.add(2);
        let one = queue.next().await;
        let two = queue.next().await;
        assert_eq!((one.key, two.key), (1, 2));
        queue.add(1);
        assert!(tokio::time::timeout(Duration::from_secs(1), queue.next()).await.is_err());
        drop(one);
        assert_eq!(queue.next().await.key, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_in_the_order_of_their_time() {
        let queue = WorkQueue::new();
        queue.add_after("late", Duration::from_secs(5));
        queue.add_after("early", Duration::from_secs(1));
        let begun = Instant::now();
        assert_eq!(queue.next().await.key, "early");
        assert_eq!(queue.next().await.key, "late");
        assert_eq!(begun.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_and_success_forgets_them() {
        let queue = WorkQueue::new();
        let (stop, tries) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        queue.add("k");
        let counter = tries.clone();
        let worker = run("test", queue.clone(), 2, stop.clone(), move |_| {
            let counter = counter.clone();
            async move {
                if counter.fetch_add(1, Ordering::Relaxed) < 4 { Err("not yet") } else { Ok(Next::Wait) }
            }
        });
        let worker = tokio::spawn(worker);
        // 20 + 40 + 80 + 160 ms.
        tokio::time::sleep(Duration::from_millis(299)).await;
        assert_eq!(tries.load(Ordering::Relaxed), 4);
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(tries.load(Ordering::Relaxed), 5);
        assert!(queue.state().failures.is_empty());
        stop.cancel();
        worker.await.unwrap();
    }
}
