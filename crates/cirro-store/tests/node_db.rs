//! What every `NodeDb` promises, on both of them.

use std::sync::Barrier;

use cirro_store::{MAX_KEY_BYTES, MAX_NODE_VALUE_BYTES, MemoryNodeDb, NodeDb, RedbNodeDb, StoreError};

fn each(test: impl Fn(&dyn NodeDb)) {
    test(&MemoryNodeDb::new());
    let directory = tempfile::tempdir().unwrap();
    test(&RedbNodeDb::open(directory.path().join("node.redb")).unwrap());
}

fn keys(db: &dyn NodeDb, table: &str, prefix: &str) -> Vec<String> {
    db.scan(table, prefix).unwrap().into_iter().map(|(key, _)| key).collect()
}

#[test]
fn what_was_written_is_read() {
    each(|db| {
        assert_eq!(db.get("containers", "a").unwrap(), None);
        assert!(db.scan("containers", "").unwrap().is_empty());
        db.write(&[("containers", "a", Some(b"1")), ("images", "a", Some(b"2"))]).unwrap();
        assert_eq!(db.get("containers", "a").unwrap().unwrap(), b"1");
        assert_eq!(db.get("images", "a").unwrap().unwrap(), b"2");
        db.write(&[("containers", "a", None), ("containers", "b", Some(b"")), ("images", "z", None)])
            .unwrap();
        assert_eq!(db.get("containers", "a").unwrap(), None);
        assert_eq!(db.get("containers", "b").unwrap().unwrap(), b"");
        db.write(&[]).unwrap();
    });
}

#[test]
fn the_last_write_of_a_key_in_one_call_counts() {
    each(|db| {
        db.write(&[("t", "k", Some(b"1")), ("t", "k", None), ("t", "k", Some(b"3"))]).unwrap();
        assert_eq!(db.get("t", "k").unwrap().unwrap(), b"3");
    });
}

#[test]
fn a_scan_keeps_to_its_table_and_prefix_in_key_order() {
    each(|db| {
        for key in ["b/2", "a", "b/10", "b", "c", "b/é", "b0"] {
            db.write(&[("t", key, Some(key.as_bytes())), ("t2", key, Some(b"x")), ("s", key, Some(b"x"))])
                .unwrap();
        }
        assert_eq!(keys(db, "t", "b/"), ["b/10", "b/2", "b/é"]);
        assert_eq!(keys(db, "t", ""), ["a", "b", "b/10", "b/2", "b/é", "b0", "c"]);
        assert!(keys(db, "t", "d").is_empty());
        assert!(keys(db, "", "").is_empty());
        assert_eq!(db.scan("t", "a").unwrap(), [("a".to_owned(), b"a".to_vec())]);
    });
}

#[test]
fn limits_are_refused_before_anything_is_written() {
    each(|db| {
        let long = "k".repeat(MAX_KEY_BYTES + 1);
        let large = vec![0; MAX_NODE_VALUE_BYTES + 1];
        for bad in [("t", &*long, Some(&b""[..])), ("t", "k", Some(&large))] {
            let result = db.write(&[("t", "good", Some(b"1")), bad]);
            assert!(matches!(result, Err(StoreError::TooLarge(_))), "{result:?}");
        }
        assert!(matches!(db.write(&[("t", "", None)]), Err(StoreError::Invalid(_))));
        assert_eq!(db.get("t", "good").unwrap(), None);
        db.write(&[("t", &long[1..], Some(&large[1..]))]).unwrap();
        assert_eq!(db.get("t", &long[1..]).unwrap().unwrap(), &large[1..]);
    });
}

#[test]
fn many_threads_write_at_once() {
    each(|db| {
        let start = Barrier::new(16);
        std::thread::scope(|scope| {
            for thread in 0..16 {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    for number in 0..20 {
                        let key = format!("{thread}/{number}");
                        db.write(&[("t", &key, Some(key.as_bytes())), ("t", "last", Some(key.as_bytes()))])
                            .unwrap();
                        assert_eq!(db.get("t", &key).unwrap().unwrap(), key.as_bytes());
                    }
                });
            }
        });
        assert_eq!(db.scan("t", "").unwrap().len(), 16 * 20 + 1);
    });
}

#[test]
fn records_are_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.redb");
    RedbNodeDb::open(&path).unwrap().write(&[("t", "k", Some(b"v"))]).unwrap();
    let db = RedbNodeDb::open(&path).unwrap();
    assert_eq!(db.get("t", "k").unwrap().unwrap(), b"v");
    let second = RedbNodeDb::open(&path);
    assert!(matches!(second, Err(StoreError::Io(_))), "the file is open already");
}
