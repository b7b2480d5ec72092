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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_updates_of_leases_do_not_grow_the_file() {
    const LEASES: usize = 400;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let store = Arc::new(EmbeddedStore::open(&path).unwrap());
    let update = async |rounds: usize| {
        let mut renewals = tokio::task::JoinSet::new();
        for lease in 0..LEASES {
            let store = store.clone();
            renewals.spawn(async move {
                for round in 0..rounds {
                    let value = format!("{{\"renewTime\":\"{round:0400}\"}}");
                    let key = format!("/registry/coordination.k8s.io/leases/kube-node-lease/node-{lease}");
                    store.commit(vec![], vec![put(&key, value)]).await.unwrap();
                }
            });
        }
        renewals.join_all().await;
    };
    update(100).await;
    let before = std::fs::metadata(&path).unwrap().len();
    update(100_000 / LEASES).await;
    let after = std::fs::metadata(&path).unwrap().len();
    assert!(after <= before.max(4 << 20), "the file grew from {before} to {after} bytes");
    assert_eq!(store.revision(), (LEASES * (100 + 100_000 / LEASES)) as u64 + 1);
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

/// The child of [`what_was_acknowledged_survives_a_kill`]: writes and says so until it is killed.
#[test]
#[ignore = "is started by another test"]
fn child_that_writes_for_ever() {
    use std::io::Write;
    let path = std::env::var_os("CIRRO_STORE_TEST_PATH").expect("the parent names the file");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = EmbeddedStore::open(path).unwrap();
    for number in 0.. {
        let operation = put(&format!("/{}", number % 50), number.to_string());
        let revision = runtime.block_on(store.commit(vec![], vec![operation])).unwrap();
        std::io::stderr().write_all(format!("committed {number} {revision}\n").as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let mut expected = 0;
    for round in 1..=3 {
        let (number, revision) = write_until_killed(&path, round * 20);
        let store = EmbeddedStore::open(&path).unwrap();
        assert!(store.revision() >= revision && store.revision() > expected);
        let record = store.get(&format!("/{}", number % 50)).await.unwrap().unwrap();
        assert!(record.revision >= revision);
        if record.revision == revision {
            assert_eq!(record.value, number.to_string().as_bytes());
        }
        expected = store.revision();
    }
}

/// Kills the child after so many commits; returns the last that it acknowledged, and its revision.
fn write_until_killed(path: &std::path::Path, commits: usize) -> (u64, u64) {
    use std::io::BufRead;
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_writes_for_ever", "--ignored", "--nocapture"])
        .env("CIRRO_STORE_TEST_PATH", path)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stderr.take().unwrap()).lines();
    let committed = |line: String| -> Option<(u64, u64)> {
        let (number, revision) = line.strip_prefix("committed ")?.split_once(' ')?;
        Some((number.parse().ok()?, revision.parse().ok()?))
    };
    let mut last = lines.by_ref().map_while(Result::ok).filter_map(committed).take(commits).last();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it said before it died counts as well; the last line may be cut short.
    last = lines.map_while(Result::ok).filter_map(committed).last().or(last);
    last.expect("the child commits")
}

/// `cargo test -p cirro-store --release -- --ignored --nocapture a_hundred_thousand`
#[tokio::test]
#[ignore = "a measurement"]
async fn a_hundred_thousand_objects_open_quickly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("objects.redb");
    let store = Arc::new(EmbeddedStore::open(&path).unwrap());
    let value = Bytes::from(vec![7; 1000]);
    let mut commits = tokio::task::JoinSet::new();
    for thousand in 0..1000 {
        let puts = (0..100).map(|number| put(&format!("/registry/pods/{thousand}/{number}"), value.clone()));
        let (store, puts) = (store.clone(), puts.collect());
        commits.spawn(async move { store.commit(vec![], puts).await.unwrap() });
    }
    commits.join_all().await;
    drop(store);
    let start = std::time::Instant::now();
    let store = EmbeddedStore::open(&path).unwrap();
    eprintln!("opened in {:?}", start.elapsed());
    let start = std::time::Instant::now();
    assert_eq!(store.list("/registry/", None, 500, 0).await.unwrap().total, 100_000);
    eprintln!("a page of 500 in {:?}", start.elapsed());
}
