//! Several control planes on one API: one leads at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cirro_apiserver::ApiServer;
use cirro_client::{Candidate, text};
use cirro_seams::Pending;
use cirro_seams::api::{Api, ApiError, DeleteOptions, ObjectEvent, ObjectKey, ObjectList, Resource};
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);

/// The API, from which one can be cut off.
struct Line {
    api: Arc<dyn Api>,
    cut: AtomicBool,
}

impl Line {
    async fn check(&self) -> Result<(), ApiError> {
        if !self.cut.load(Ordering::SeqCst) {
            return Ok(());
        }
        // As a network does that drops everything: no word for a while.
        tokio::time::sleep(Duration::from_secs(5)).await;
        Err(ApiError {
            code: 503,
            reason: "ServiceUnavailable".into(),
            message: "cut off".into(),
            details: None,
        })
    }
}

impl Api for Line {
    fn get(&self, key: &ObjectKey) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let key = key.clone();
        Box::pin(async move {
            self.check().await?;
            self.api.get(&key).await
        })
    }

    fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
    ) -> Pending<'_, Result<ObjectList, ApiError>> {
        self.api.list(resource, namespace)
    }

    fn watch(
        &self,
        resource: &Resource,
        revision: u64,
    ) -> Pending<'_, Result<mpsc::Receiver<ObjectEvent>, ApiError>> {
        self.api.watch(resource, revision)
    }

    fn create(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let resource = resource.clone();
        Box::pin(async move {
            self.check().await?;
            self.api.create(&resource, object).await
        })
    }

    fn update(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        let resource = resource.clone();
        Box::pin(async move {
            self.check().await?;
            self.api.update(&resource, object).await
        })
    }

    fn update_status(&self, resource: &Resource, object: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.update_status(resource, object)
    }

    fn merge_patch(
        &self,
        key: &ObjectKey,
        status: bool,
        patch: Value,
    ) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        self.api.merge_patch(key, status, patch)
    }

    fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Pending<'_, Result<(), ApiError>> {
        self.api.bind(namespace, pod, uid, node)
    }

    fn request_token(
        &self,
        namespace: &str,
        account: &str,
        request: Value,
    ) -> Pending<'_, Result<Value, ApiError>> {
        self.api.request_token(namespace, account, request)
    }

    fn delete(&self, key: &ObjectKey, options: DeleteOptions) -> Pending<'_, Result<(), ApiError>> {
        self.api.delete(key, options)
    }
}

/// A control plane whose work is to say that it works.
struct Plane {
    line: Arc<Line>,
    stop: CancellationToken,
    works: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

/// How many work, now and at most.
#[derive(Default)]
struct Working {
    now: AtomicUsize,
    most: AtomicUsize,
}

fn plane(api: &Arc<dyn Api>, identity: &str, working: &Arc<Working>) -> Plane {
    let line = Arc::new(Line { api: api.clone(), cut: AtomicBool::new(false) });
    let (stop, works) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let candidate = Candidate::new(line.clone(), "control", identity);
    let work = {
        let (works, working) = (works.clone(), working.clone());
        move |end: CancellationToken| {
            let (works, working) = (works.clone(), working.clone());
            async move {
                works.store(true, Ordering::SeqCst);
                let now = working.now.fetch_add(1, Ordering::SeqCst) + 1;
                working.most.fetch_max(now, Ordering::SeqCst);
                end.cancelled().await;
                works.store(false, Ordering::SeqCst);
                working.now.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
    let task = tokio::spawn(candidate.run(stop.clone(), work));
    Plane { line, stop, works, task }
}

async fn until(what: &str, condition: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begun.elapsed()
}

async fn lease(api: &Arc<dyn Api>) -> Arc<Value> {
    let resource = Resource::new("coordination.k8s.io", "leases");
    api.get(&ObjectKey { resource, namespace: "kube-system".into(), name: "control".into() }).await.unwrap()
}

async fn api() -> Arc<dyn Api> {
    ApiServer::open(Arc::new(MemoryObjectStore::new()), Default::default()).await.unwrap().client()
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_at_once() {
    let (api, working) = (api().await, Arc::new(Working::default()));
    let one = plane(&api, "one", &working);
    let works = one.works.clone();
    until("one works", || works.load(Ordering::SeqCst)).await;
    let other = plane(&api, "other", &working);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(one.works.load(Ordering::SeqCst) && !other.works.load(Ordering::SeqCst));
    let held = lease(&api).await;
    assert_eq!(text(&held, "/spec/holderIdentity"), "one");
    assert_eq!(
        (&held["spec"]["leaseDurationSeconds"], &held["spec"]["leaseTransitions"]),
        (&json!(15), &json!(0))
    );
    one.stop.cancel();
    one.task.await.unwrap();
    let waited = until("the other works", || other.works.load(Ordering::SeqCst)).await;
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    assert_eq!(working.most.load(Ordering::SeqCst), 1);
    assert_eq!(text(&(*lease(&api).await), "/spec/holderIdentity"), "other");
    other.stop.cancel();
    other.task.await.unwrap();
    assert_eq!(text(&(*lease(&api).await), "/spec/holderIdentity"), "");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_ends_its_work_before_another_begins() {
    let (api, working) = (api().await, Arc::new(Working::default()));
    let planes = [plane(&api, "one", &working), plane(&api, "two", &working), plane(&api, "three", &working)];
    for _ in 0..6 {
        until("somebody works", || working.now.load(Ordering::SeqCst) == 1).await;
        let leader = planes.iter().find(|plane| plane.works.load(Ordering::SeqCst)).unwrap();
        leader.line.cut.store(true, Ordering::SeqCst);
        until("it ends", || !leader.works.load(Ordering::SeqCst)).await;
        until("another works", || {
            planes
                .iter()
                .any(|plane| plane.works.load(Ordering::SeqCst) && !Arc::ptr_eq(&plane.works, &leader.works))
        })
        .await;
        leader.line.cut.store(false, Ordering::SeqCst);
    }
    assert_eq!(working.most.load(Ordering::SeqCst), 1, "two worked at a time");
    assert_eq!(lease(&api).await["spec"]["leaseTransitions"], json!(6));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_died_is_followed_after_its_lease() {
    let (api, working) = (api().await, Arc::new(Working::default()));
    let one = plane(&api, "one", &working);
    let other = plane(&api, "other", &working);
    until("somebody works", || working.now.load(Ordering::SeqCst) == 1).await;
    let (leader, next) = if one.works.load(Ordering::SeqCst) { (one, other) } else { (other, one) };
    leader.task.abort();
    let waited = until("the next works", || next.works.load(Ordering::SeqCst)).await;
    assert!((12..20).contains(&waited.as_secs()), "{waited:?}");
    assert_eq!(lease(&api).await["spec"]["leaseTransitions"], json!(1));
}
