//! Collection, alone and against pushes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cirro_image::distribution::{
    Algorithm, Distribution, DistributionError, GRACE, Manifest, RepositoryName,
};

use crate::fixture::{Fixture, OCI, manifest, sha256};

const NOW: Duration = Duration::ZERO;

fn files(registry: &Fixture) -> usize {
    std::fs::read_dir(registry.path().join("distribution/blobs/sha256")).unwrap().count()
}

#[tokio::test]
async fn what_no_manifest_names_goes_after_its_grace() {
    let registry = Fixture::new();
    let digest = registry.push("a", "v1", b"kept").await;
    registry.push_blob("a", b"alone").await;
    registry.push_blob("b", b"alone").await;
    assert_eq!(registry.distribution.collect(GRACE).unwrap().blobs, 0);
    let collected = registry.distribution.collect(NOW).unwrap();
    assert_eq!((collected.blobs, collected.bytes), (2, 5));
    assert_eq!(files(&registry), 2);
    registry.get(&format!("/v2/a/blobs/{}", sha256(b"kept"))).await.expect(200);
    assert_eq!(registry.get("/v2/_catalog").await.json()["repositories"], serde_json::json!(["a"]));
    registry.delete(&format!("/v2/a/manifests/{digest}")).await.expect(202);
    assert_eq!(registry.distribution.collect(NOW).unwrap().blobs, 2);
    assert_eq!(files(&registry), 0);
    registry.get("/v2/a/tags/list").await.refused(404, "NAME_UNKNOWN");
}

#[tokio::test]
async fn a_file_that_a_crash_left_goes() {
    let registry = Fixture::new();
    let left = sha256(b"left");
    let path = registry.path().join("distribution/blobs/sha256").join(left.trim_start_matches("sha256:"));
    std::fs::write(&path, b"left").unwrap();
    assert_eq!(registry.distribution.collect(GRACE).unwrap().bytes, 4);
    assert!(!path.exists());
}

#[tokio::test]
async fn retention_removes_tags_and_what_only_they_named() {
    let registry = Fixture::with(
        "[[retention]]\nrepositories = \"ci/*\"\nkeep-last = 1\nuntagged-after = \"0s\"\n\
         [[immutable]]\nrepositories = \"ci/*\"\ntags = \"release-*\"\n",
    );
    for tag in ["a", "b", "release-1"] {
        registry.push("ci/app", tag, tag.as_bytes()).await;
        registry.push("other", tag, tag.as_bytes()).await;
    }
    registry.distribution.collect(NOW).unwrap();
    let tags = |name: &str| {
        let name: RepositoryName = name.parse().unwrap();
        registry.distribution.tags(&name).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    // Of those pushed in one second the greatest name is the newest; a clock may tick in between.
    let left = tags("ci/app");
    assert!(left.contains(&"release-1".to_owned()) && left.len() <= 2, "{left:?}");
    assert_eq!(tags("other").len(), 3);
    // A manifest is older than no time at all only after the clock has moved on: then it goes with its blob.
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while registry.head(&format!("/v2/ci/app/blobs/{}", sha256(b"a"))).await.status == 200 {
        assert!(std::time::Instant::now() < deadline, "the blob stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
        registry.distribution.collect(NOW).unwrap();
    }
}

/// One push as a client does it: blobs that are said to be there are not sent.
fn push(distribution: &Distribution, name: &RepositoryName, round: usize) -> Result<(), DistributionError> {
    // Shared by all rounds, by some, and by none: each may be taken away under the push.
    let blobs =
        [b"{}".to_vec(), format!("layer {}", round % 3).into_bytes(), format!("layer {round}").into_bytes()];
    let mut described = Vec::new();
    for bytes in &blobs {
        let digest = sha256(bytes);
        if distribution.look_up_blob(name, &digest.parse().unwrap()).is_err() {
            let mut upload = distribution.start_upload(name, Algorithm::Sha256)?;
            upload.write(bytes)?;
            upload.finish(&digest.parse().unwrap())?;
        }
        described.push((digest, bytes.len()));
    }
    let blobs: Vec<_> = described.iter().map(|(digest, size)| (digest.as_str(), *size)).collect();
    let document = manifest(&blobs, None).to_string();
    let tag = format!("v{}", round % 5).parse().unwrap();
    distribution.put_manifest(name, &tag, document.as_bytes(), Some(OCI)).map(drop)
}

/// Every tag has all that its manifest names; a tag that retention takes away while it is looked at has nothing.
fn assert_complete(distribution: &Distribution, name: &RepositoryName) {
    for tag in distribution.tags(name).unwrap() {
        let reference = cirro_image::distribution::Reference::Tag(tag.clone());
        let read = || distribution.manifest(name, &reference, cirro_image::distribution::Dialect::Oci);
        let stored = match read() {
            Ok(stored) => stored,
            Err(DistributionError::ManifestUnknown(_)) => {
                assert!(!distribution.tags(name).unwrap().contains(&tag), "{tag} names nothing");
                continue;
            }
            Err(error) => panic!("{tag}: {error}"),
        };
        for blob in Manifest::parse(&stored.bytes, Some(&stored.media_type)).unwrap().blobs {
            match distribution.open_blob(name, &blob.digest) {
                Ok(source) => assert_eq!(source.size(), blob.size),
                Err(error) => {
                    let is_there = read().is_ok_and(|now| now.bytes == stored.bytes);
                    assert!(!is_there, "{tag}: {error}");
                }
            }
        }
    }
}

/// Against a collector without any grace a push may have to begin again, but what was taken is complete.
#[test]
fn no_pushed_image_misses_a_blob_in_a_thousand_rounds_against_collection() {
    let registry = Fixture::with("[[retention]]\nrepositories = \"**\"\nkeep-last = 2\n");
    let (distribution, done, again) = (&registry.distribution, AtomicBool::new(false), AtomicUsize::new(0));
    let names: Vec<RepositoryName> = ["a", "b"].map(|name| name.parse().unwrap()).into();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                distribution.collect(NOW).unwrap();
            }
        });
        let pushers: Vec<_> = names
            .iter()
            .map(|name| {
                scope.spawn(|| {
                    for round in 0..500 {
                        loop {
                            match push(distribution, name, round) {
                                Ok(()) => break,
                                Err(DistributionError::ManifestBlobUnknown(_)) => {
                                    again.fetch_add(1, Ordering::Relaxed)
                                }
                                Err(error) => panic!("{error}"),
                            };
                        }
                        if round % 50 == 0 {
                            assert_complete(distribution, name);
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = pushers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        assert!(results.iter().all(Result::is_ok));
    });
    for name in &names {
        assert_complete(distribution, name);
    }
}

/// With the usual grace no push has to begin again.
#[test]
fn no_push_fails_while_collection_runs() {
    let registry = Fixture::new();
    let (distribution, done) = (&registry.distribution, AtomicBool::new(false));
    let name: RepositoryName = "a".parse().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                distribution.collect(GRACE).unwrap();
            }
        });
        let pushed = scope.spawn(|| (0..100).try_for_each(|round| push(distribution, &name, round))).join();
        done.store(true, Ordering::Relaxed);
        pushed.unwrap().unwrap();
    });
    assert_complete(distribution, &name);
}
