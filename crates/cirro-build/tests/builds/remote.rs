//! `ADD` from elsewhere: what is fetched when, where it goes, what decides about the cache.

use std::os::unix::fs::MetadataExt;

use cirro_types::Digest;

use crate::simulated::{Bench, Outcome};

const URL: &str = "https://example.org/dir/tool.bin?x=1";

fn bench() -> Bench {
    let bench = Bench::new();
    bench.sources.files.lock().unwrap().insert(URL.into(), "tool".into());
    for (reference, text) in [(None, "main"), (Some("v1".to_owned()), "old")] {
        let files =
            [("README", text), ("docs/a/b", text)].map(|(name, text)| (name.to_owned(), text.to_owned()));
        let key = ("https://example.org/r.git".to_owned(), reference);
        bench.sources.repositories.lock().unwrap().insert(key, files.into());
    }
    bench
}

fn mode(bench: &Bench, outcome: &Outcome, path: &str) -> u32 {
    bench.library.path(outcome.id(), path).unwrap().metadata().unwrap().mode() & 0o7777
}

#[tokio::test]
async fn a_file_is_named_by_its_address_and_private() {
    let bench = bench();
    let outcome =
        bench.build(&format!("FROM base\nADD {URL} /opt/\nADD --chmod=u=rwx,go=rx {URL} /bin/tool\n")).await;
    assert_eq!(bench.library.text(outcome.id(), "/opt/tool.bin"), "tool");
    assert_eq!(mode(&bench, &outcome, "/opt/tool.bin"), 0o600);
    assert_eq!(mode(&bench, &outcome, "/bin/tool"), 0o755);
    let history = bench.library.image(outcome.id()).history;
    assert_eq!(history[0].created_by.as_deref(), Some(format!("ADD {URL} /opt/ # buildkit").as_str()));
}

#[tokio::test]
async fn the_content_decides_about_the_cache() {
    let bench = bench();
    let text = format!("FROM base\nADD {URL} /opt/\n");
    bench.build(&text).await.id();
    assert_eq!(bench.build(&text).await.cached_steps(), 1);
    bench.sources.files.lock().unwrap().insert(URL.into(), "newer".into());
    let newer = bench.build(&text).await;
    assert_eq!(newer.cached_steps(), 0);
    assert_eq!(newer.why()[&2], [format!("what is at {URL} changed")]);
    assert_eq!(bench.library.text(newer.id(), "/opt/tool.bin"), "newer");
    let missing = bench.build("FROM base\nADD https://example.org/gone /\n").await;
    assert_eq!(missing.error(), "line 2: ADD failed: https://example.org/gone: 404");
}

#[tokio::test]
async fn a_checksum_is_held_and_makes_a_fetch_needless() {
    let bench = bench();
    let right = Digest::of(b"tool");
    let text = format!("FROM base\nADD --checksum={right} {URL} /opt/\n");
    bench.build(&text).await.id();
    assert_eq!(bench.build(&text).await.cached_steps(), 1);
    assert_eq!(bench.sources.fetched.lock().unwrap().len(), 1);
    let wrong = Digest::of(b"other");
    let error = bench.build(&format!("FROM base\nADD --checksum={wrong} {URL} /x\n")).await.error();
    assert!(error.contains(&format!("digest mismatch {URL}: got {right}, expected {wrong}")), "{error}");
    for (instruction, reason) in [
        (format!("ADD --checksum=md5:1 {URL} /x"), "invalid checksum"),
        ("ADD --checksum=sha256:1 a /x".into(), "non-HTTP(S) and non-git sources"),
        (format!("ADD --checksum={right} {URL} a /x/"), "multiple sources"),
    ] {
        bench.file("a", "A");
        let error = bench.build(&format!("FROM base\n{instruction}\n")).await.error();
        assert!(error.contains(reason), "{instruction}: {error}");
    }
}

#[tokio::test]
async fn a_repository_is_its_tree_at_a_commit() {
    let bench = bench();
    let text = "FROM base\nADD https://example.org/r.git /main\nADD --keep-git-dir=true https://example.org/r.git#v1 /old\nADD https://example.org/r.git#v1:docs/a /docs/\n";
    let outcome = bench.build(text).await;
    let id = outcome.id();
    assert_eq!(bench.library.text(id, "/main/README"), "main");
    assert!(!bench.library.has(id, "/main/.git"));
    assert_eq!(bench.library.text(id, "/old/README"), "old");
    assert!(bench.library.has(id, "/old/.git/HEAD"));
    assert_eq!(bench.library.text(id, "/docs/b"), "old");
    let fetched = bench.sources.fetched.lock().unwrap().len();
    assert_eq!(bench.build(text).await.cached_steps(), 3);
    assert_eq!(bench.sources.fetched.lock().unwrap().len(), fetched, "a commit that is known is not fetched");
    let commit = commit_of_v1(&bench);
    for (checksum, fits) in
        [(&commit[..], true), (&commit[..8], true), (&commit[..3], false), ("0123456789", false)]
    {
        let text = format!("FROM base\nADD --checksum={checksum} https://example.org/r.git#v1 /x\n");
        let checked = bench.build(&text).await;
        assert_eq!(checked.result.is_ok(), fits, "{checksum}");
        if !fits {
            let want = format!("expected checksum to match {checksum}, got {commit}");
            assert!(checked.error().contains(&want), "{}", checked.error());
        }
    }
    let missing = bench.build("FROM base\nADD https://example.org/r.git#v1:none /x\n").await;
    assert!(missing.error().contains("no directory none in it"), "{}", missing.error());
    let copied = bench.build("FROM base\nCOPY https://example.org/r.git /x\n").await;
    assert!(copied.error().contains("source can't be a git ref for COPY"), "{}", copied.error());
}

/// The commit that the repository's `v1` is.
fn commit_of_v1(bench: &Bench) -> String {
    let repositories = bench.sources.repositories.lock().unwrap();
    let files = &repositories[&("https://example.org/r.git".to_owned(), Some("v1".to_owned()))];
    Digest::of(format!("{files:?}").as_bytes()).hex()[..40].to_owned()
}

#[tokio::test]
async fn a_fetched_archive_is_unpacked_only_when_asked() {
    let bench = bench();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    tar.append_data(&mut header, "in/side", b"hello".as_slice()).unwrap();
    let text = String::from_utf8(tar.into_inner().unwrap()).unwrap();
    bench.sources.files.lock().unwrap().insert("http://x/a.tar".into(), text);
    let kept = bench.build("FROM base\nADD http://x/a.tar /x/\n").await;
    assert!(bench.library.has(kept.id(), "/x/a.tar"));
    let unpacked = bench.build("FROM base\nADD --unpack=true http://x/a.tar /x/\n").await;
    assert_eq!(bench.library.text(unpacked.id(), "/x/in/side"), "hello");
}
