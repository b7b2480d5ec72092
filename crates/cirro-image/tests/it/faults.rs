//! Killed at every step: after the next start the records, the memory and the disk agree.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use cirro_image::Library;
use cirro_store::{NodeDb, RedbNodeDb};
use cirro_sys::fail_point;
use cirro_types::Digest;

use crate::archive::{Tar, docker_archive};
use crate::server::{Server, registry, remote, run};

const DIRECTORY: &str = "CIRRO_IMAGE_TEST_DIRECTORY";
const REGISTRY: &str = "CIRRO_IMAGE_TEST_REGISTRY";

fn open(dir: &Path) -> (Library, Arc<dyn NodeDb>) {
    let db: Arc<dyn NodeDb> = Arc::new(RedbNodeDb::open(dir.join("node.redb")).unwrap());
    (Library::open(&dir.join("library"), Arc::clone(&db)).unwrap(), db)
}

fn layers() -> [Vec<u8>; 3] {
    ["one", "two", "three"]
        .map(|name| Tar::new().dir("d", 0o755).file(&format!("d/{name}"), name.as_bytes()).end())
}

/// The process that is killed: loads, pulls, removes and prunes.
#[test]
#[ignore = "started by the tests of this module"]
fn worker() {
    let dir = std::path::PathBuf::from(std::env::var_os(DIRECTORY).expect("set by the test that starts it"));
    let (library, _db) = open(&dir);
    let [one, two, _] = &layers();
    library.load(&mut &docker_archive(&["loaded:1"], &[one, two])[..], &mut |_| {}).unwrap();
    let name = std::env::var(REGISTRY).unwrap();
    let request = cirro_image::PullRequest {
        reference: name.parse().unwrap(),
        all_tags: false,
        platform: None,
        credentials: cirro_image::Credentials::default(),
    };
    let progress = cirro_image::ProgressSink::nowhere();
    run(async { registry(Default::default()).pull(&library, request, &progress).await.unwrap() });
    library.remove("loaded:1", false, &|_| None).unwrap();
    library.prune(true, &|_| true, &|_| None).unwrap();
}

fn work(dir: &Path, registry: &str, variable: &str, value: &str) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "faults::worker", "--ignored", "--test-threads=1"])
        .env(DIRECTORY, dir)
        .env(REGISTRY, registry)
        .env(variable, value)
        .output()
        .unwrap()
        .status
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn keys(db: &Arc<dyn NodeDb>, table: &str) -> BTreeSet<String> {
    db.scan(table, "").unwrap().into_iter().map(|(key, _)| key).collect()
}

/// Everything that is recorded is whole, and nothing is there that is not recorded.
fn assert_sound(dir: &Path, point: &str) {
    let (library, db) = open(dir);
    let home = dir.join("library");
    assert_eq!(names(&home.join("layers")), keys(&db, "image-layers"), "{point}");
    assert_eq!(names(&home.join("blobs")), keys(&db, "image-blobs"), "{point}");
    for sub in ["temporary", "scratch", "roots"] {
        assert_eq!(names(&home.join(sub)).len(), 0, "{point}: {sub}");
    }
    for image in library.list().unwrap() {
        for tag in image.tags.iter().filter(|tag| tag.digest.is_none()) {
            library
                .save(&[tag.to_string()], &mut std::io::sink())
                .unwrap_or_else(|error| panic!("{point}: {error}"));
        }
        for diff_id in &image.config.rootfs.diff_ids {
            for (digest, _) in library.blobs_of(diff_id) {
                let mut file = library.open_blob(&digest).unwrap();
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut file, &mut bytes).unwrap();
                assert_eq!(Digest::of(&bytes), digest, "{point}");
            }
        }
    }
    let [one, two, _] = &layers();
    library.load(&mut &docker_archive(&["again:1"], &[one, two])[..], &mut |_| {}).unwrap();
}

#[test]
fn a_kill_at_any_step_leaves_records_and_disk_agreeing() {
    let [one, _, three] = layers();
    let server = Server::of(remote(&[&one, &three]).stored);
    let name = server.reference("app");
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("points");
    let first = dir.path().join("first");
    std::fs::create_dir(&first).unwrap();
    assert!(work(&first, &name, fail_point::LOG, log.to_str().unwrap()).success());
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    for line in std::fs::read_to_string(&log).unwrap().lines().filter(|line| line.starts_with("image.")) {
        *met.entry(line.to_owned()).or_default() += 1;
    }
    assert!(met.len() >= 12, "{met:?}");
    for (point, count) in met {
        for turn in BTreeSet::from([1, count]) {
            let here = dir.path().join(format!("{point}-{turn}"));
            std::fs::create_dir(&here).unwrap();
            let status = work(&here, &name, fail_point::ARM, &format!("{point}=kill@{turn}"));
            assert_eq!(status.signal(), Some(9), "{point}@{turn}");
            assert_sound(&here, &format!("{point}@{turn}"));
        }
    }
}
