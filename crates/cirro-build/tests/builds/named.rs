//! Named contexts: what stands in for images and stages, and what decides about the cache.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use cirro_build::{BuildRequest, NamedContext};
use cirro_seams::Pending;
use cirro_seams::build::{Borrowed, BuildFault, Fetched, Lender};

use crate::simulated::Bench;

/// Lends one directory, and notes what it was asked for.
struct Lends {
    directory: PathBuf,
    asked: Mutex<Vec<(String, String)>>,
}

impl Lender for Lends {
    fn secret(&self, _: String) -> Pending<'_, Result<Option<Arc<[u8]>>, BuildFault>> {
        Box::pin(async { Ok(None) })
    }

    fn agent(&self, _: String) -> Pending<'_, Result<Option<PathBuf>, BuildFault>> {
        Box::pin(async { Ok(None) })
    }

    fn directory(&self, name: String, directory: String) -> Pending<'_, Result<Option<Fetched>, BuildFault>> {
        Box::pin(async move {
            let known = directory == "src";
            self.asked.lock().unwrap().push((name, directory));
            let root = self.directory.clone();
            Ok(known.then(|| Fetched { root, file: None, digest: None, hold: Box::new(()) }))
        })
    }

    fn credentials(&self, _: String) -> Pending<'_, Result<Option<(String, String)>, BuildFault>> {
        Box::pin(async { Ok(None) })
    }
}

fn lent() -> (tempfile::TempDir, Arc<Lends>) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("sub")).unwrap();
    std::fs::write(directory.path().join("sub/f"), "F").unwrap();
    std::fs::write(directory.path().join("g"), "G").unwrap();
    let lends = Lends { directory: directory.path().into(), asked: Mutex::default() };
    (directory, Arc::new(lends))
}

fn with(lends: &Arc<Lends>, contexts: &[(&str, NamedContext)]) -> impl FnOnce(&mut BuildRequest) {
    let lender = Borrowed(lends.clone());
    let contexts = contexts.iter().map(|(name, context)| ((*name).to_owned(), context.clone())).collect();
    |request| {
        request.lender = Some(lender);
        request.contexts = contexts;
    }
}

#[tokio::test]
async fn a_directory_stands_in_for_an_image_wherever_one_can_be_named() {
    let bench = Bench::new();
    let (directory, lends) = lent();
    let context = [("other", NamedContext::Lent("src".into()))];
    let text = "FROM base\nCOPY --from=other sub /got/\nRUN --mount=from=other,target=/m mount /m\n";
    let built = bench.build_with(text, with(&lends, &context)).await;
    assert_eq!(bench.library.text(built.id(), "/got/f"), "F");
    assert!(built.lines.contains("<g sub>"), "{}", built.lines);
    assert_eq!(lends.asked.lock().unwrap().len(), 1, "asked for once in a build");

    assert_eq!(bench.build_with(text, with(&lends, &context)).await.cached_steps(), 2);
    std::fs::write(directory.path().join("sub/f"), "changed").unwrap();
    let changed = bench.build_with(text, with(&lends, &context)).await;
    assert_eq!(bench.library.text(changed.id(), "/got/f"), "changed");

    // To build on: the files are the image, and nothing else is.
    let on = bench.build_with("FROM other\nCOPY --from=base /bin/sh /sh\n", with(&lends, &context)).await;
    assert_eq!(bench.library.text(on.id(), "/g"), "G");
    let image = bench.library.image(on.id());
    assert_eq!((image.rootfs.diff_ids.len(), image.history.len()), (2, 2));
    assert!(bench.library.open_layers().is_empty());
}

#[tokio::test]
async fn an_image_or_an_address_stands_in_too() {
    let bench = Bench::new();
    let (_directory, lends) = lent();
    bench.library.add("real", |root| std::fs::write(root.join("r"), "R").unwrap(), |_| {});
    bench.sources.files.lock().unwrap().insert("https://h/dir/tool".into(), "tool".into());
    let key = ("https://h/r.git".to_owned(), Some("v1".to_owned()));
    let files = [("docs/a".to_owned(), "A".to_owned()), ("b".to_owned(), "B".to_owned())];
    bench.sources.repositories.lock().unwrap().insert(key, files.into());
    let contexts = [
        ("alpine", NamedContext::Image("real".into())),
        ("file", NamedContext::Remote("https://h/dir/tool".into())),
        ("repo", NamedContext::Remote("https://h/r.git#v1:docs".into())),
    ];
    let text = "FROM alpine:latest\nCOPY --from=file tool /t/\nCOPY --from=repo / /docs/\nCOPY --from=docker.io/library/alpine r /r2\n";
    let built = bench.build_with(text, with(&lends, &contexts)).await;
    for (path, content) in [("/r", "R"), ("/t/tool", "tool"), ("/docs/a", "A"), ("/r2", "R")] {
        assert_eq!(bench.library.text(built.id(), path), content, "{path}");
    }
    assert!(!bench.library.has(built.id(), "/docs/b") && lends.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_stage_gives_way_to_the_context_of_its_name() {
    let bench = Bench::new();
    let (_directory, lends) = lent();
    let text = "FROM base AS deps\nRUN write /built here\nFROM base\nCOPY --from=deps / /d/\n";
    let stage = bench.build_with(text, with(&lends, &[])).await;
    assert!(bench.library.has(stage.id(), "/d/built"));
    let context = [("deps", NamedContext::Lent("src".into()))];
    let replaced = bench.build_with(text, with(&lends, &context)).await;
    assert!(bench.library.has(replaced.id(), "/d/g") && !bench.library.has(replaced.id(), "/d/built"));
    assert_eq!(bench.runner.commands().len(), 1);
}

#[tokio::test]
async fn a_context_that_is_not_there_fails_the_step_that_asks() {
    let bench = Bench::new();
    let (_directory, lends) = lent();
    let context = [("other", NamedContext::Lent("none".into()))];
    let unused = bench.build_with("FROM base\nCOPY Dockerfile /x\n", with(&lends, &context)).await;
    unused.id();
    for (text, line) in [("FROM base\nCOPY --from=other a /b\n", "line 2"), ("FROM other\n", "line 1")] {
        let error = bench.build_with(text, with(&lends, &context)).await.error();
        assert!(error.contains(line) && error.contains("no directory none"), "{error}");
    }
}
