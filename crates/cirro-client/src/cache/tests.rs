use std::sync::atomic::{AtomicUsize, Ordering};

use cirro_seams::Pending;
use cirro_seams::api::{DeleteOptions, ObjectKey, ObjectList};
use serde_json::json;
use tokio::sync::mpsc;

use super::*;

/// Lists what it was given, and hands out watches whose senders the test keeps.
#[derive(Default)]
struct Fake {
    items: Mutex<Vec<Arc<Value>>>,
    watches: Mutex<Vec<mpsc::Sender<ObjectEvent>>>,
    lists: AtomicUsize,
}

impl Fake {
    async fn send(&self, event: ObjectEvent) {
        let sender = self.watches.lock().unwrap().last().unwrap().clone();
        sender.send(event).await.unwrap();
    }
}

impl Api for Fake {
    fn list(&self, _: &Resource, _: Option<&str>) -> Pending<'_, Result<ObjectList, ApiError>> {
        self.lists.fetch_add(1, Ordering::Relaxed);
        Box::pin(async {
            Ok(ObjectList {
                items: self.items.lock().unwrap().iter().cloned().map(Packed::from).collect(),
                revision: 1,
            })
        })
    }
    fn watch(&self, _: &Resource, _: u64) -> Pending<'_, Result<mpsc::Receiver<ObjectEvent>, ApiError>> {
        let (sender, receiver) = mpsc::channel(8);
        self.watches.lock().unwrap().push(sender);
        Box::pin(async { Ok(receiver) })
    }
    fn get(&self, _: &ObjectKey) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        unreachable!("a cache does not get")
    }
    fn create(&self, _: &Resource, _: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        unreachable!("a cache does not write")
    }
    fn update(&self, _: &Resource, _: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        unreachable!("a cache does not write")
    }
    fn update_status(&self, _: &Resource, _: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        unreachable!("a cache does not write")
    }
    fn merge_patch(&self, _: &ObjectKey, _: bool, _: Value) -> Pending<'_, Result<Arc<Value>, ApiError>> {
        unreachable!("a cache does not write")
    }
    fn bind(&self, _: &str, _: &str, _: &str, _: &str) -> Pending<'_, Result<(), ApiError>> {
        unreachable!("a cache does not write")
    }
    fn delete(&self, _: &ObjectKey, _: DeleteOptions) -> Pending<'_, Result<(), ApiError>> {
        unreachable!("a cache does not write")
    }
}

fn pod(name: &str, revision: u32, owner: Option<&str>) -> Arc<Value> {
    let owners = owner.map(|uid| json!([{"uid": uid, "controller": true}]));
    Arc::new(
        json!({"metadata": {"namespace": "ns", "name": name, "resourceVersion": revision.to_string(), "uid": format!("{name}-uid"),
        "ownerReferences": owners}}),
    )
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_follows_changes_and_tells_its_handlers() {
    let api = Arc::new(Fake::default());
    api.items.lock().unwrap().push(pod("a", 1, Some("owner")));
    let cache = Cache::start(api.clone(), Resource::new("", "pods"), CancellationToken::new());
    cache.synced().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    cache.on_change(move |old, new| log.lock().unwrap().push((old.is_some(), new.is_some())));
    api.send(ObjectEvent::Applied(pod("b", 2, Some("owner")).into())).await;
    api.send(ObjectEvent::Applied(pod("a", 3, None).into())).await;
    api.send(ObjectEvent::Deleted(pod("b", 4, Some("owner")).into())).await;
    settle().await;
    assert_eq!(*seen.lock().unwrap(), [(false, true), (false, true), (true, true), (true, false)]);
    assert!(cache.get("ns", "a").is_some() && cache.get("ns", "b").is_none());
    assert!(cache.controlled_by("owner").is_empty());
    assert_eq!(cache.by_uid("a-uid"), cache.get("ns", "a"));
    assert!(cache.by_uid("b-uid").is_none() && cache.by_uid("").is_none());
    assert_eq!(cache.in_namespace("ns").len(), 1);
    assert!(cache.in_namespace("n").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_and_reports_only_what_differs() {
    let api = Arc::new(Fake::default());
    *api.items.lock().unwrap() = vec![pod("a", 1, None), pod("b", 1, None), pod("c", 1, None)];
    let cache = Cache::start(api.clone(), Resource::new("", "pods"), CancellationToken::new());
    cache.synced().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = seen.clone();
    cache.on_change(move |old, new| {
        let object = new.or(old).expect("one of them");
        log.lock().unwrap().push((crate::name(object).to_owned(), new.is_some()));
    });
    seen.lock().unwrap().clear();
    *api.items.lock().unwrap() = vec![pod("a", 1, None), pod("b", 2, None)];
    api.send(ObjectEvent::Expired).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(api.lists.load(Ordering::Relaxed), 2);
    assert_eq!(*seen.lock().unwrap(), [("c".to_owned(), false), ("b".to_owned(), true)]);
}
