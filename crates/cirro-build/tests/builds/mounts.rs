//! `RUN --mount`: what a step sees, what it leaves, what decides about the cache.

use cirro_seams::build::StepSource;

use crate::simulated::Bench;

#[tokio::test]
async fn a_bind_shows_the_context_a_stage_or_an_image_and_keeps_nothing() {
    let bench = Bench::new();
    bench.file("src/a", "A").file("src/b", "B");
    let text = "FROM base AS tools\nRUN write /opt/tool T\nFROM base\n\
        RUN --mount=target=/in,source=src mount /in\n\
        RUN --mount=type=bind,target=/in,source=src,rw mount /in\n\
        RUN --mount=from=tools,source=/opt,target=tools mount /tools\n\
        RUN --mount=from=0,source=/opt/tool,target=/one mount /one\n\
        RUN --mount=from=base,source=etc,target=/e mount /e\n";
    let outcome = bench.build(text).await;
    for seen in ["<a b>", "<tool>", "<T>", "<group passwd>"] {
        assert!(outcome.lines.contains(seen), "{seen}: {}", outcome.lines);
    }
    assert!(!bench.library.has(outcome.id(), "/in") && !bench.library.has(outcome.id(), "/opt/tool"));
    assert!(!bench.context.path().join("src/left").exists(), "what was written is thrown away");
    assert_eq!(bench.build(text).await.cached_steps(), 6);
    bench.file("src/c", "C");
    assert_eq!(
        bench.build(text).await.cached_steps(),
        4,
        "a bind decides by its content, for the steps that see it"
    );
}

#[tokio::test]
async fn a_bind_shows_no_ignored_file_and_nothing_outside() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), bench.context.path().join("out")).unwrap();
    bench.file("src/a", "A").file("src/key.pem", "K").file(".dockerignore", "**/*.pem\n");
    let outcome = bench.build("FROM base\nRUN --mount=target=/in,source=src mount /in\n").await;
    assert!(outcome.lines.contains("<a>\n"), "{}", outcome.lines);
    for source in ["out", "out/secret", "src/key.pem", "../etc"] {
        let text = format!("FROM base\nRUN --mount=target=/in,source={source} mount /in\n");
        let error = bench.build(&text).await.error();
        assert!(error.contains("not found"), "{source}: {error}");
    }
}

#[tokio::test]
async fn a_cache_lives_on_and_is_in_no_key() {
    let bench = Bench::new();
    let text = "FROM base\nRUN --mount=type=cache,id=npm,target=/c,mode=0700,uid=5 mount /c\n";
    assert!(bench.build(text).await.lines.contains("<>\n"));
    assert_eq!(bench.build(text).await.cached_steps(), 1);
    let again = bench.build(&text.replace("FROM base", "FROM base\nENV A=1")).await;
    assert!(again.lines.contains("<left>"), "{}", again.lines);
    let steps = bench.runner.steps.lock().unwrap();
    let StepSource::Path(path) = &steps[0].mounts[0].source else { panic!("a path") };
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o700, 5));
}

#[tokio::test]
async fn a_cache_can_begin_with_files() {
    let bench = Bench::new();
    let text = "FROM base\nRUN --mount=type=cache,from=base,source=/etc,target=/c mount /c\n";
    let outcome = bench.build(text).await;
    assert!(outcome.lines.contains("<group passwd>"), "{}", outcome.lines);
}

#[tokio::test]
async fn a_secret_reaches_the_step_and_nothing_else() {
    let bench = Bench::new();
    let text = "FROM base\nRUN --mount=type=secret,id=key,required mount /run/secrets/key\n\
        RUN --mount=type=secret,id=key,env=KEY env\n\
        RUN --mount=type=secret,id=other say without\n";
    let build = |secret: &'static str| {
        bench.build_with(text, move |request| {
            request.secrets.insert("key".into(), secret.as_bytes().into());
        })
    };
    let outcome = build("hunter2").await;
    assert!(outcome.lines.contains("<hunter2>") && outcome.lines.contains("without"), "{}", outcome.lines);
    assert!(bench.library.text(outcome.id(), "/env").contains("KEY=hunter2"), "the step asked for it");
    let config = serde_json::to_string(&bench.library.image(outcome.id())).unwrap();
    assert!(!config.contains("hunter2"));
    assert_eq!(build("another").await.cached_steps(), 3, "a secret is in no key");
    let error = bench.build(text).await;
    assert_eq!(error.cached_steps(), 3, "a cached step needs none");
    let missing = bench.build("FROM base\nRUN --mount=type=secret,id=no,required true\n").await.error();
    assert!(missing.contains("secret no: not found"), "{missing}");
    let agent = bench.build("FROM base\nRUN --mount=type=ssh,required true\n").await.error();
    assert!(agent.contains("ssh"), "{agent}");
}

#[tokio::test]
async fn a_document_with_an_interpreter_is_a_script_of_its_own() {
    let bench = Bench::new();
    bench.build("FROM base\nRUN <<EOF\n#!/bin/sh -e\necho $HOME\nEOF\n").await;
    let steps = bench.runner.steps.lock().unwrap();
    assert_eq!(steps[0].args, ["/dev/pipes/EOF"]);
    let StepSource::Content { content, mode, .. } = &steps[0].mounts[0].source else { panic!("a file") };
    assert_eq!((&**content, *mode), (b"#!/bin/sh -e\necho $HOME\n".as_slice(), 0o755));
}
