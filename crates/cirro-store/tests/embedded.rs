//! What only the durable store promises.

use std::sync::Arc;

use bytes::Bytes;
use cirro_store::{EmbeddedStore, ObjectStore, Operation, StoreError};

fn put(key: &str, value: impl Into<Bytes>) -> Operation {
    Operation::Put(key.into(), value.into())
}

#[tokio::test]
async fn everything_but_history_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    store.commit(vec![], vec![put("/a", "1"), put("/b", "1")]).await.unwrap();
    store.commit(vec![], vec![put("/a", "2")]).await.unwrap();
    let last = store.commit(vec![], vec![Operation::Delete("/b".into())]).await.unwrap();
    let records = store.list("", None, 0, 0).await.unwrap().records;
    drop(store);

    let store = EmbeddedStore::open(&path).unwrap();
    assert_eq!(store.revision(), last);
    assert_eq!(store.list("", None, 0, 0).await.unwrap().records, records);
    assert!(matches!(store.watch("", last - 1).await, Err(StoreError::Compacted(_))));
    assert!(matches!(store.list("", None, 0, last - 1).await, Err(StoreError::Compacted(_))));
    store.watch("", last).await.unwrap();
    let next = store.commit(vec![], vec![put("/a", "3")]).await.unwrap();
    assert_eq!(next, last + 1);
    assert_eq!(store.get("/a").await.unwrap().unwrap().version, 3);
}

#[tokio::test]
async fn a_file_is_open_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let _store = EmbeddedStore::open(&path).unwrap();
    assert!(matches!(EmbeddedStore::open(&path), Err(StoreError::Io(_))));
    assert!(matches!(
        EmbeddedStore::open(directory.path().join("none/objects.redb")),
        Err(StoreError::Io(_))
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_of_one_key_do_not_grow_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let store = Arc::new(EmbeddedStore::open(&path).unwrap());
    let update = async |count: usize| {
        let commits: Vec<_> = (0..count)
            .map(|number| {
                let store = store.clone();
                let value = Bytes::from(vec![number as u8; 10_000]);
                tokio::spawn(async move { store.commit(vec![], vec![put("/a", value)]).await.unwrap() })
            })
            .collect();
        for commit in commits {
            commit.await.unwrap();
        }
    };
    update(1000).await;
    let before = std::fs::metadata(&path).unwrap().len();
    update(10_000).await;
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after <= before.max(4 << 20), "the file grew from {before} to {after} bytes");
}

#[tokio::test]
async fn a_sparse_file_is_made_smaller_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    let value = Bytes::from(vec![1; 1 << 20]);
    for number in 0..12 {
        store.commit(vec![], vec![put(&format!("/{number}"), value.clone())]).await.unwrap();
    }
    for number in (0..12).filter(|number| *number != 11) {
        store.commit(vec![], vec![Operation::Delete(format!("/{number}"))]).await.unwrap();
    }
    drop(store);
    let before = std::fs::metadata(&path).unwrap().len();
    let store = EmbeddedStore::open(&path).unwrap();
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(before > 8 << 20 && after < before / 4, "{before} bytes became {after}");
    assert_eq!(store.get("/11").await.unwrap().unwrap().value, value);
    assert_eq!(store.list("", None, 0, 0).await.unwrap().total, 1);
}
