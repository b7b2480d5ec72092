//! Crashes, full disks, failing disks and flipped bits under both durable stores.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::embedded::EmbeddedStore;
use crate::fault::{Dice, FaultyDisk};
use crate::object_file::ObjectFile;
use crate::{NodeDb, ObjectStore, Operation, RedbNodeDb, StoreError};

/// Every run crashes at another step of another workload.
const CRASHES: u64 = 50;
const LAST_STEP: u64 = 400;
const LAST_SYNC: u64 = 20;
/// A store that neither writes nor syncs would never see the disk fail.
const MOST_COMMITS: u64 = 500;

type Objects = BTreeMap<String, Vec<u8>>;

fn open_store(disk: &FaultyDisk) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::over(ObjectFile::over(disk.open()?), |_, _| {})
}

fn open_db(disk: &FaultyDisk) -> Result<RedbNodeDb, StoreError> {
    Ok(RedbNodeDb::over(disk.open()?))
}

async fn objects(store: &EmbeddedStore) -> Objects {
    let records = store.list("", None, 0, 0).await.unwrap().records;
    records.into_iter().map(|record| (record.key.to_string(), record.value.to_vec())).collect()
}

/// Writes or deletes one to four of a few keys.
fn some_writes(dice: &mut Dice) -> Vec<(String, Option<Vec<u8>>)> {
    let writes: BTreeMap<_, _> = (0..=dice.roll(4))
        .map(|_| {
            let value = (dice.roll(4) > 0).then(|| vec![dice.roll(256) as u8; dice.roll(6000) as usize]);
            (format!("/{}", dice.roll(12)), value)
        })
        .collect();
    writes.into_iter().collect()
}

/// In the middle of anything, or when everything is written but not synced.
fn fail_some_time(disk: &FaultyDisk, dice: &mut Dice) {
    match dice.roll(2) {
        0 => disk.fail_after(dice.roll(LAST_STEP)),
        _ => disk.fail_at_sync(dice.roll(LAST_SYNC)),
    }
}

fn apply(objects: &Objects, writes: &[(String, Option<Vec<u8>>)]) -> Objects {
    let mut objects = objects.clone();
    for (key, value) in writes {
        match value {
            Some(value) => objects.insert(key.clone(), value.clone()),
            None => objects.remove(key),
        };
    }
    objects
}

fn operations(writes: &[(String, Option<Vec<u8>>)]) -> Vec<Operation> {
    let operation = |(key, value): &(String, Option<Vec<u8>>)| match value {
        Some(value) => Operation::Put(key.clone(), Bytes::from(value.clone())),
        None => Operation::Delete(key.clone()),
    };
    writes.iter().map(operation).collect()
}

fn write_all(db: &RedbNodeDb, writes: &[(String, Option<Vec<u8>>)]) -> Result<(), StoreError> {
    let writes: Vec<_> = writes.iter().map(|(key, value)| ("t", &**key, value.as_deref())).collect();
    db.write(&writes)
}

fn scanned(db: &RedbNodeDb) -> Objects {
    db.scan("t", "").unwrap().into_iter().collect()
}

#[tokio::test]
async fn a_power_cut_keeps_what_was_acknowledged_and_halves_nothing() {
    let mut crashes_between = 0;
    for seed in 0..CRASHES {
        let mut dice = Dice::new(seed);
        let disk = FaultyDisk::new();
        let Ok(store) = open_store(&disk) else { panic!("seed {seed}: an empty disk opens") };
        fail_some_time(&disk, &mut dice);
        let mut acknowledged = (store.revision(), Objects::new());
        let mut commits = 0;
        let tried = loop {
            commits += 1;
            if commits == MOST_COMMITS {
                disk.fail_after(0);
            }
            let writes = some_writes(&mut dice);
            let after = apply(&acknowledged.1, &writes);
            match store.commit(vec![], operations(&writes)).await {
                Ok(revision) => acknowledged = (revision, after),
                Err(StoreError::Io(_)) => break after,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        };
        assert_eq!(objects(&store).await, acknowledged.1, "seed {seed}: reads go on");
        let disk = disk.cut_power(&mut dice);
        drop(store);

        let store = open_store(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let found = objects(&store).await;
        assert!(found == acknowledged.1 || found == tried, "seed {seed}: neither before nor after");
        assert!(store.revision() >= acknowledged.0, "seed {seed}: the revision went back");
        crashes_between += u64::from(found == tried && found != acknowledged.1);
        let revision = store.commit(vec![], vec![Operation::Put("/new".into(), Bytes::new())]).await.unwrap();
        assert!(revision > acknowledged.0);
    }
    assert!(crashes_between > 0, "no crash hit a write that was on disk but not acknowledged");
}

#[test]
fn the_node_database_survives_a_power_cut() {
    for seed in 0..CRASHES {
        let mut dice = Dice::new(seed + 1_000_000);
        let disk = FaultyDisk::new();
        let db = open_db(&disk).unwrap();
        fail_some_time(&disk, &mut dice);
        let mut acknowledged = Objects::new();
        let mut commits = 0;
        let tried = loop {
            commits += 1;
            if commits == MOST_COMMITS {
                disk.fail_after(0);
            }
            let writes = some_writes(&mut dice);
            let after = apply(&acknowledged, &writes);
            match write_all(&db, &writes) {
                Ok(()) => acknowledged = after,
                Err(StoreError::Io(_)) => break after,
                Err(error) => panic!("seed {seed}: {error}"),
            }
        };
        let disk = disk.cut_power(&mut dice);
        drop(db);
        let found = scanned(&open_db(&disk).unwrap());
        assert!(found == acknowledged || found == tried, "seed {seed}: neither before nor after");
    }
}

#[tokio::test]
async fn after_a_disk_failure_memory_and_disk_agree() {
    for seed in 0..CRASHES {
        let mut dice = Dice::new(seed + 2_000_000);
        let disk = FaultyDisk::new();
        let store = open_store(&disk).unwrap();
        let mut watched = Objects::new();
        let mut watcher = store.watch("", 0).await.unwrap();
        for _ in 0..3 {
            match dice.roll(2) {
                0 => disk.fail_after(dice.roll(60)),
                _ => disk.fail_at_sync(dice.roll(3)),
            }
            let mut commits = 0;
            while store.commit(vec![], operations(&some_writes(&mut dice))).await.is_ok() {
                commits += 1;
                assert!(commits < MOST_COMMITS, "seed {seed}: the disk never fails");
            }
            assert!(store.commit(vec![], operations(&some_writes(&mut dice))).await.is_err());
            disk.mend();
            store.commit(vec![], operations(&some_writes(&mut dice))).await.unwrap();
        }
        while let Ok(crate::WatchItem::Changes(_, changes)) = watcher.try_recv() {
            for change in changes.iter() {
                match change {
                    crate::Change::Put(record, _) => {
                        watched.insert(record.key.to_string(), record.value.to_vec());
                    }
                    crate::Change::Delete(_, record) => {
                        watched.remove(&*record.key);
                    }
                }
            }
        }
        let (revision, found) = (store.revision(), objects(&store).await);
        assert_eq!(watched, found, "seed {seed}: a watcher has what a reader has");
        drop(store);
        let store = open_store(&disk).unwrap();
        assert_eq!((store.revision(), objects(&store).await), (revision, found), "seed {seed}");
    }
}

#[tokio::test]
async fn a_full_disk_stops_writes_only_while_it_is_full() {
    let disk = FaultyDisk::new();
    let store = open_store(&disk).unwrap();
    let value = Bytes::from(vec![1; 100_000]);
    let mut written = 0;
    let mut write = async || {
        let key = format!("/{written:03}");
        let result = store.commit(vec![], vec![Operation::Put(key, value.clone())]).await;
        written += usize::from(result.is_ok());
        result.map(|_| written)
    };
    write().await.unwrap();
    disk.fill_up(1_000_000);
    let full = loop {
        if let Err(error) = write().await {
            break error;
        }
    };
    assert!(matches!(full, StoreError::Io(_)), "{full}");
    let before = objects(&store).await.len();
    assert!(before > 1 && write().await.is_err());
    assert_eq!(objects(&store).await.len(), before);
    disk.mend();
    let after = write().await.unwrap();
    assert_eq!(after, before + 1);
    drop(store);
    assert_eq!(objects(&open_store(&disk).unwrap()).await.len(), after);
}

#[test]
fn the_node_database_reads_from_a_full_or_failing_disk() {
    let disk = FaultyDisk::new();
    let db = open_db(&disk).unwrap();
    db.write(&[("t", "first", Some(b"1"))]).unwrap();
    let value = vec![1; 100_000];
    disk.fill_up(1_000_000);
    let mut written = 0;
    while db.write(&[("t", &format!("{written:03}"), Some(&value))]).is_ok() {
        written += 1;
    }
    assert!(written > 0);
    assert_eq!(db.get("t", "first").unwrap().unwrap(), b"1");
    assert!(db.write(&[("t", "large", Some(&vec![1; 10_000_000]))]).is_err());
    assert_eq!(db.scan("t", "0").unwrap().len(), written);
    disk.mend();
    db.write(&[("t", "later", Some(b"2"))]).unwrap();
    disk.fail_after(0);
    assert!(matches!(db.write(&[("t", "never", Some(b"3"))]), Err(StoreError::Io(_))));
    disk.mend();
    assert_eq!(db.get("t", "later").unwrap().unwrap(), b"2");
    assert_eq!(db.get("t", "never").unwrap(), None);
}

#[tokio::test]
async fn a_flipped_bit_is_never_served() {
    let disk = FaultyDisk::new();
    let store = open_store(&disk).unwrap();
    let all: Objects = (0..60).map(|number| (format!("/key/{number}"), vec![number; 700])).collect();
    for (key, value) in &all {
        store.commit(vec![], vec![Operation::Put(key.clone(), value.clone().into())]).await.unwrap();
    }
    drop(store);
    let content = disk.content();
    let (mut refused, mut set_apart) = (0, 0);
    for seed in 0..400 {
        let mut dice = Dice::new(seed);
        let mut content = content.clone();
        let byte = dice.roll(content.len() as u64) as usize;
        content[byte] ^= 1 << dice.roll(8);
        let Ok(store) = open_store(&FaultyDisk::of(content)) else {
            refused += 1;
            continue;
        };
        let damaged = store.damaged();
        for (key, value) in &all {
            match store.get(key).await {
                Ok(record) => assert_eq!(record.unwrap().value, value, "seed {seed}"),
                Err(StoreError::Damaged(named)) => {
                    assert!(named == *key && damaged.contains(&Arc::from(named)))
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        let listing = store.list("/key/", None, 0, 0).await;
        assert_eq!(listing.is_err(), !damaged.is_empty(), "seed {seed}: a list does not leave out");
        set_apart += damaged.len();
    }
    assert!(set_apart > 5, "{set_apart} records were damaged, {refused} files refused");
}

#[tokio::test]
async fn a_damaged_object_can_be_deleted_or_replaced() {
    let disk = FaultyDisk::new();
    let store = open_store(&disk).unwrap();
    for key in ["/a", "/b", "/c"] {
        let value = format!("value of {key}").into();
        store.commit(vec![], vec![Operation::Put(key.into(), value)]).await.unwrap();
    }
    drop(store);
    let mut content = disk.content();
    for value in ["value of /a", "value of /b"] {
        let places: Vec<_> =
            (0..content.len()).filter(|at| content[*at..].starts_with(value.as_bytes())).collect();
        places.iter().for_each(|at| content[*at] ^= 1);
    }
    let disk = FaultyDisk::of(content);
    let store = open_store(&disk).unwrap();
    assert_eq!(store.damaged(), [Arc::from("/a"), Arc::from("/b")]);
    let guarded = store.commit(vec![crate::Condition::Absent("/a".into())], vec![]).await;
    assert!(matches!(guarded, Err(StoreError::Damaged(key)) if key == "/a"));
    let revision = store.revision();
    store.commit(vec![], vec![Operation::Delete("/a".into())]).await.unwrap();
    store.commit(vec![], vec![Operation::Put("/b".into(), Bytes::from_static(b"new"))]).await.unwrap();
    assert!(store.damaged().is_empty());
    assert!(matches!(store.list("", None, 0, revision).await, Err(StoreError::Compacted(_))));
    let expected: Objects = [("/b".into(), b"new".to_vec()), ("/c".into(), b"value of /c".to_vec())].into();
    assert_eq!(objects(&store).await, expected);
    drop(store);
    assert_eq!(objects(&open_store(&disk).unwrap()).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_share_a_sync() {
    let disk = FaultyDisk::new();
    let store = Arc::new(open_store(&disk).unwrap());
    let before = disk.syncs();
    let commits: Vec<_> = (0..200)
        .map(|number| {
            let store = store.clone();
            let operation = Operation::Put(format!("/{number}"), Bytes::new());
            tokio::spawn(async move { store.commit(vec![], vec![operation]).await.unwrap() })
        })
        .collect();
    let mut revisions = Vec::new();
    for commit in commits {
        revisions.push(commit.await.unwrap());
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..202).collect::<Vec<_>>(), "each has a revision of its own");
    let syncs = disk.syncs() - before;
    assert!(syncs < 100, "200 commits took {syncs} syncs");
}

#[test]
fn threads_that_wait_share_a_sync() {
    let disk = FaultyDisk::new();
    let db = open_db(&disk).unwrap();
    let before = disk.syncs();
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let db = &db;
            scope.spawn(move || {
                for number in 0..20 {
                    db.write(&[("t", &format!("{thread}/{number}"), Some(b""))]).unwrap();
                }
            });
        }
    });
    let syncs = disk.syncs() - before;
    assert!(syncs < 160, "320 writes took {syncs} syncs");
}

#[test]
fn the_node_database_names_a_damaged_record() {
    let disk = FaultyDisk::new();
    let db = open_db(&disk).unwrap();
    db.write(&[("t", "a", Some(b"value of a")), ("t", "b", Some(b"value of b"))]).unwrap();
    drop(db);
    let mut content = disk.content();
    let places: Vec<_> = (0..content.len()).filter(|at| content[*at..].starts_with(b"value of a")).collect();
    assert!(!places.is_empty());
    places.iter().for_each(|at| content[*at] ^= 1);
    let db = open_db(&FaultyDisk::of(content)).unwrap();
    assert!(matches!(db.get("t", "a"), Err(StoreError::Damaged(key)) if key == "t/a"));
    assert!(matches!(db.scan("t", ""), Err(StoreError::Damaged(_))));
    assert_eq!(db.get("t", "b").unwrap().unwrap(), b"value of b");
}
