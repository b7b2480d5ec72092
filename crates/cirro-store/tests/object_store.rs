//! What every `ObjectStore` promises, on all of them.

mod etcd_server;

use std::sync::Arc;

use bytes::Bytes;
use cirro_store::{
    Change, Condition, EmbeddedStore, MAX_KEY_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, MemoryObjectStore,
    ObjectStore, Operation, Record, StoreError, WatchItem,
};
use etcd_server::EtcdServer;
use tokio::sync::mpsc::Receiver;
use tokio::sync::mpsc::error::TryRecvError;

type Store = Arc<dyn ObjectStore>;

async fn each(test: impl AsyncFn(Store)) {
    test(Arc::new(MemoryObjectStore::new())).await;
    let directory = tempfile::tempdir().unwrap();
    test(Arc::new(EmbeddedStore::open(directory.path().join("objects.redb")).unwrap())).await;
    let etcd = EtcdServer::start();
    test(Arc::new(etcd.store("/cloud").await)).await;
}

fn put(key: &str, value: &str) -> Operation {
    Operation::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()))
}

fn delete(key: &str) -> Operation {
    Operation::Delete(key.into())
}

async fn write(store: &Store, operations: Vec<Operation>) -> u64 {
    store.commit(vec![], operations).await.unwrap()
}

/// Keys and values as text.
fn texts(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| format!("{}={}", record.key, String::from_utf8_lossy(&record.value)))
        .collect()
}

async fn listed(store: &Store, prefix: &str, revision: u64) -> Vec<String> {
    texts(&store.list(prefix, None, 0, revision).await.unwrap().records)
}

/// What the watcher has got so far, as text.
fn received(watcher: &mut Receiver<WatchItem>) -> Vec<String> {
    let mut items = Vec::new();
    loop {
        match watcher.try_recv() {
            Ok(WatchItem::Changes(revision, changes)) => {
                let changes: Vec<_> = changes.iter().map(|change| change_text(revision, change)).collect();
                items.push(format!("{revision}: {}", changes.join(" ")));
            }
            Ok(WatchItem::Progress(_)) => {}
            Ok(WatchItem::Lost) => items.push("lost".into()),
            Err(TryRecvError::Empty) => return items,
            Err(TryRecvError::Disconnected) => {
                items.push("end".into());
                return items;
            }
        }
    }
}

fn change_text(revision: u64, change: &Change) -> String {
    let value = |record: &Record| String::from_utf8_lossy(&record.value).into_owned();
    match change {
        Change::Put(record, before) => {
            assert_eq!(record.revision, revision);
            format!("{}:{}->{}", record.key, before.as_ref().map_or("".into(), value), value(record))
        }
        Change::Delete(at, record) => {
            assert_eq!(*at, revision);
            assert!(record.revision < revision);
            format!("{}:{}->", record.key, value(record))
        }
    }
}

#[tokio::test]
async fn a_record_knows_its_revisions() {
    each(async |store| {
        assert_eq!(store.revision(), 1);
        assert_eq!(store.get("/a").await.unwrap(), None);
        let created = write(&store, vec![put("/a", "1")]).await;
        assert_eq!(created, 2);
        write(&store, vec![put("/b", "x")]).await;
        let updated = write(&store, vec![put("/a", "2")]).await;
        let record = store.get("/a").await.unwrap().unwrap();
        assert_eq!(
            record,
            Record {
                key: "/a".into(),
                value: Bytes::from_static(b"2"),
                revision: updated,
                create_revision: created,
                version: 2
            }
        );
        assert_eq!(write(&store, vec![delete("/a")]).await, updated + 1);
        assert_eq!(store.get("/a").await.unwrap(), None);
        let again = write(&store, vec![put("/a", "3")]).await;
        let record = store.get("/a").await.unwrap().unwrap();
        assert_eq!((record.create_revision, record.version), (again, 1));
        assert_eq!(store.revision(), again);
    })
    .await;
}

#[tokio::test]
async fn a_commit_that_changes_nothing_makes_no_revision() {
    each(async |store| {
        let revision = write(&store, vec![put("/a", "1")]).await;
        assert_eq!(write(&store, vec![delete("/none")]).await, revision);
        assert_eq!(write(&store, vec![]).await, revision);
        assert_eq!(store.revision(), revision);
    })
    .await;
}

#[tokio::test]
async fn conditions_guard_the_whole_transaction() {
    each(async |store| {
        let absent = |key: &str| Condition::Absent(key.into());
        let at = |key: &str, revision| Condition::Revision(key.into(), revision);
        let first = store.commit(vec![absent("/a")], vec![put("/a", "1")]).await.unwrap();
        let conflict = |result: Result<u64, StoreError>, revision: u64| match result {
            Err(StoreError::Conflict { key, revision: present }) => {
                assert_eq!((&*key, present), ("/a", revision));
            }
            other => panic!("{other:?}"),
        };
        conflict(store.commit(vec![absent("/a")], vec![put("/a", "2")]).await, first);
        conflict(store.commit(vec![at("/a", first + 1)], vec![put("/a", "2")]).await, first);
        let second = store.commit(vec![at("/a", first)], vec![put("/a", "2")]).await.unwrap();
        conflict(store.commit(vec![at("/a", first)], vec![delete("/a")]).await, second);
        conflict(
            store.commit(vec![absent("/b"), at("/a", first)], vec![put("/b", "x"), put("/c", "x")]).await,
            second,
        );
        assert_eq!(listed(&store, "/", 0).await, ["/a=2"]);
        assert_eq!(store.revision(), second);
        store.commit(vec![at("/a", second)], vec![delete("/a")]).await.unwrap();
        conflict(store.commit(vec![at("/a", second)], vec![put("/a", "3")]).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_transaction_is_one_revision() {
    each(async |store| {
        write(&store, vec![put("/a", "1"), put("/b", "1")]).await;
        let mut watcher = store.watch("/", store.revision()).await.unwrap();
        let revision = write(&store, vec![put("/c", "2"), delete("/a"), put("/b", "2")]).await;
        let listing = store.list("/", None, 0, 0).await.unwrap();
        assert_eq!(listing.revision, revision);
        assert_eq!(texts(&listing.records), ["/b=2", "/c=2"]);
        assert!(listing.records.iter().all(|record| record.revision == revision));
        assert_eq!(received(&mut watcher), [format!("{revision}: /c:->2 /a:1-> /b:1->2")]);
    })
    .await;
}

#[tokio::test]
async fn a_list_is_paged_at_its_revision() {
    each(async |store| {
        for number in 0..5 {
            write(&store, vec![put(&format!("/p/{number}"), "1")]).await;
        }
        write(&store, vec![put("/o", "1"), put("/q", "1")]).await;
        let first = store.list("/p/", None, 2, 0).await.unwrap();
        assert_eq!(
            (texts(&first.records).join(" "), first.more, first.total),
            ("/p/0=1 /p/1=1".into(), true, 5)
        );
        write(&store, vec![delete("/p/2"), put("/p/3", "2"), put("/p/33", "new"), delete("/p/0")]).await;
        let second = store.list("/p/", Some("/p/1"), 2, first.revision).await.unwrap();
        assert_eq!((second.revision, second.more, second.total), (first.revision, true, 5));
        assert_eq!(texts(&second.records), ["/p/2=1", "/p/3=1"]);
        let third = store.list("/p/", Some("/p/3"), 2, first.revision).await.unwrap();
        assert_eq!((texts(&third.records).join(" "), third.more), ("/p/4=1".into(), false));
        assert_eq!(listed(&store, "/p/", 0).await, ["/p/1=1", "/p/3=2", "/p/33=new", "/p/4=1"]);
        let exact = store.list("/p/", None, 4, 0).await.unwrap();
        assert!(!exact.more);
        assert_eq!(listed(&store, "/none/", 0).await, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn an_older_revision_is_listed_as_it_was() {
    each(async |store| {
        let mut states = vec![(store.revision(), Vec::new())];
        for operations in [
            vec![put("/a", "1")],
            vec![put("/b", "1"), put("/a", "2")],
            vec![delete("/a")],
            vec![put("/a", "3"), delete("/b")],
            vec![put("/other", "x")],
        ] {
            let revision = write(&store, operations).await;
            states.push((revision, listed(&store, "/", 0).await));
        }
        for (revision, state) in states {
            assert_eq!(listed(&store, "/", revision).await, state, "at revision {revision}");
        }
        let future = store.revision() + 1;
        assert!(matches!(store.list("/", None, 0, future).await, Err(StoreError::Future(r)) if r == future));
    })
    .await;
}

#[tokio::test]
async fn a_watch_begins_after_its_revision() {
    each(async |store| {
        let first = write(&store, vec![put("/a/1", "1")]).await;
        write(&store, vec![put("/b/1", "1")]).await;
        write(&store, vec![put("/a/1", "2"), put("/b/1", "2")]).await;
        let mut all = store.watch("", 0).await.unwrap();
        let mut of_a = store.watch("/a/", first).await.unwrap();
        let mut of_b = store.watch("/b/", store.revision()).await.unwrap();
        write(&store, vec![delete("/a/1")]).await;
        write(&store, vec![put("/b/1", "3")]).await;
        assert_eq!(received(&mut of_a), ["4: /a/1:1->2", "5: /a/1:2->"]);
        assert_eq!(received(&mut of_b), ["6: /b/1:2->3"]);
        assert_eq!(
            received(&mut all),
            ["2: /a/1:->1", "3: /b/1:->1", "4: /a/1:1->2 /b/1:1->2", "5: /a/1:2->", "6: /b/1:2->3"]
        );
        assert!(matches!(store.watch("/", 7).await, Err(StoreError::Future(7))));
    })
    .await;
}

#[tokio::test]
async fn prefixes_that_contain_each_other_are_told_apart() {
    each(async |store| {
        let mut watchers = Vec::new();
        for prefix in ["", "/", "/é", "/é/", "/é/x", "/z"] {
            watchers.push(store.watch(prefix, 1).await.unwrap());
        }
        write(&store, vec![put("/é/x", "1"), put("/è", "1")]).await;
        let counts: Vec<_> = watchers.iter_mut().map(|watcher| received(watcher).join(" ")).collect();
        let both = "2: /é/x:->1 /è:->1";
        let one = "2: /é/x:->1";
        assert_eq!(counts, [both, both, one, one, one, ""]);
    })
    .await;
}

#[tokio::test]
async fn what_was_compacted_is_refused() {
    each(async |store| {
        for value in ["1", "2", "3"] {
            write(&store, vec![put("/a", value)]).await;
        }
        store.compact(3).await.unwrap();
        store.compact(2).await.unwrap();
        assert!(matches!(store.compact(5).await, Err(StoreError::Future(5))));
        assert!(matches!(store.list("/", None, 0, 2).await, Err(StoreError::Compacted(2))));
        assert!(matches!(store.watch("/", 2).await, Err(StoreError::Compacted(2))));
        assert_eq!(listed(&store, "/", 3).await, ["/a=2"]);
        assert_eq!(received(&mut store.watch("/", 3).await.unwrap()), ["4: /a:2->3"]);
        store.compact(4).await.unwrap();
        assert_eq!(listed(&store, "/", 4).await, ["/a=3"]);
        assert_eq!(received(&mut store.watch("/", 4).await.unwrap()), [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn a_slow_watcher_is_lost_and_others_are_not() {
    each(async |store| {
        let mut slow = store.watch("/a", 1).await.unwrap();
        let mut quiet = store.watch("/b", 1).await.unwrap();
        let mut quick = store.watch("/a", 1).await.unwrap();
        let mut quick_count = 0;
        let writes = 1100;
        let commits: Vec<_> = (0..writes)
            .map(|number| {
                let store = store.clone();
                tokio::spawn(async move { write(&store, vec![put("/a", &number.to_string())]).await })
            })
            .collect();
        for commit in commits {
            commit.await.unwrap();
            quick_count += received(&mut quick).len();
        }
        assert_eq!(quick_count, writes);
        let items = received(&mut slow);
        assert_eq!(items[items.len() - 2..], ["lost", "end"]);
        assert!(
            items[0].starts_with("2: ")
                && items[items.len() - 3].starts_with(&format!("{}: ", items.len() - 1))
        );
        write(&store, vec![put("/b", "1")]).await;
        assert_eq!(received(&mut quiet).len(), 1);
    })
    .await;
}

#[tokio::test]
async fn etcds_limits_hold() {
    each(async |store| {
        let too_large = |result: Result<u64, StoreError>| {
            assert!(matches!(result, Err(StoreError::TooLarge(_))), "{result:?}")
        };
        let invalid = |result: Result<u64, StoreError>| {
            assert!(matches!(result, Err(StoreError::Invalid(_))), "{result:?}")
        };
        let value = Bytes::from(vec![7; MAX_VALUE_BYTES]);
        let puts = |count: usize| (0..count).map(|number| put(&format!("/{number}"), "")).collect::<Vec<_>>();
        let absent = |count: usize| {
            (0..count).map(|number| Condition::Absent(format!("/c{number}"))).collect::<Vec<_>>()
        };
        let long = "k".repeat(MAX_KEY_BYTES);

        too_large(
            store
                .commit(vec![], vec![Operation::Put("/v".into(), vec![7; MAX_VALUE_BYTES + 1].into())])
                .await,
        );
        too_large(
            store.commit(vec![], vec![Operation::Put("/v".into(), value.clone()), put("/w", "1")]).await,
        );
        too_large(store.commit(vec![], puts(MAX_OPERATIONS + 1)).await);
        too_large(store.commit(absent(MAX_OPERATIONS + 1), vec![]).await);
        too_large(store.commit(vec![], vec![put(&format!("{long}k"), "")]).await);
        invalid(store.commit(vec![], vec![put("", "")]).await);
        invalid(store.commit(vec![], vec![put("/a", "1"), delete("/a")]).await);
        assert_eq!(store.revision(), 1);

        store.commit(vec![], vec![Operation::Put("/v".into(), value.clone())]).await.unwrap();
        assert_eq!(store.get("/v").await.unwrap().unwrap().value, value);
        store.commit(absent(MAX_OPERATIONS), puts(MAX_OPERATIONS)).await.unwrap();
        write(&store, vec![put(&long, "")]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_tasks_lose_no_update() {
    each(async |store| {
        write(&store, vec![put("/counter", "0")]).await;
        let mut watcher = store.watch("/counter", store.revision()).await.unwrap();
        let tasks: Vec<_> = (0..100).map(|_| tokio::spawn(increment(store.clone()))).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.get("/counter").await.unwrap().unwrap().value, "100".as_bytes());
        let mut last = 0;
        for number in 1..=100 {
            let Some(WatchItem::Changes(revision, changes)) = watcher.recv().await else { panic!() };
            let [Change::Put(record, Some(before))] = &changes[..] else { panic!("{changes:?}") };
            assert_eq!(record.value, number.to_string().as_bytes());
            assert_eq!(before.value, (number - 1).to_string().as_bytes());
            assert!(revision > last);
            last = revision;
        }
        assert_eq!(store.revision(), 102);
    })
    .await;
}

async fn increment(store: Store) {
    loop {
        let record = store.get("/counter").await.unwrap().unwrap();
        let number: u64 = std::str::from_utf8(&record.value).unwrap().parse().unwrap();
        let condition = Condition::Revision("/counter".into(), record.revision);
        match store.commit(vec![condition], vec![put("/counter", &(number + 1).to_string())]).await {
            Ok(_) => return,
            Err(StoreError::Conflict { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_has_no_gap_to_its_list() {
    each(async |store| {
        let writer = tokio::spawn({
            let store = store.clone();
            async move {
                for number in 0..200 {
                    write(&store, vec![put(&format!("/k/{}", number % 10), &number.to_string())]).await;
                }
            }
        });
        for _ in 0..20 {
            let listing = store.list("/k/", None, 0, 0).await.unwrap();
            let mut watcher = store.watch("/k/", listing.revision).await.unwrap();
            if listing.revision == 201 {
                break;
            }
            let Some(WatchItem::Changes(revision, _)) = watcher.recv().await else { panic!() };
            assert_eq!(revision, listing.revision + 1);
        }
        writer.await.unwrap();
    })
    .await;
}
