//! Laws of the content keys: what must hit and what must miss.

use std::time::{Duration, SystemTime};

use crate::simulated::Bench;

const TEXT: &str = "FROM base\nWORKDIR /w\nCOPY src /w/src\nRUN write /made x\n";

#[tokio::test]
async fn the_same_input_is_built_once() {
    let bench = Bench::new();
    bench.file("src/a", "1");
    let tag = |request: &mut cirro_build::BuildRequest| request.tags = vec!["app".parse().unwrap()];
    let first = bench.build_with(TEXT, tag).await;
    assert_eq!(first.cached_steps(), 0);
    let second = bench.build_with(TEXT, tag).await;
    assert_eq!(second.cached_steps(), 3);
    assert_eq!(first.id(), second.id(), "a build that changed nothing gives the image that is there");
    assert_eq!(bench.runner.commands().len(), 1);
}

#[tokio::test]
async fn times_do_not_matter_but_content_mode_and_names_do() {
    let bench = Bench::new();
    bench.file("src/a", "1").file("src/b", "2");
    bench.build(TEXT).await.id();
    let file = std::fs::File::options().write(true).open(bench.context.path().join("src/a")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(5000)).unwrap();
    assert_eq!(bench.build(TEXT).await.cached_steps(), 3, "time");
    bench.file("src/a", "changed");
    assert_eq!(bench.build(TEXT).await.cached_steps(), 1, "content: only WORKDIR is left");
    bench.file("src/a", "1");
    assert_eq!(bench.build(TEXT).await.cached_steps(), 3, "the old content is still known");
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(bench.context.path().join("src/a"), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(bench.build(TEXT).await.cached_steps(), 1, "mode");
    std::fs::rename(bench.context.path().join("src/b"), bench.context.path().join("src/c")).unwrap();
    assert_eq!(bench.build(TEXT).await.cached_steps(), 1, "name");
}

#[tokio::test]
async fn ignored_files_do_not_matter() {
    let bench = Bench::new();
    bench.file("src/a", "1").file(".dockerignore", "**/*.log\nDockerfile\n");
    let text = "FROM base\nCOPY . /w/\n";
    bench.build(text).await.id();
    bench.file("src/x.log", "noise");
    let again = bench.build(&format!("{text}# a comment\n")).await;
    assert_eq!(again.cached_steps(), 1);
    assert!(!bench.library.has(again.id(), "/w/src/x.log"));
    assert!(!bench.library.has(again.id(), "/w/Dockerfile"));
    assert!(bench.library.has(again.id(), "/w/.dockerignore"));
}

#[tokio::test]
async fn a_run_depends_on_its_command_variables_user_directory_and_what_is_below() {
    let bench = Bench::new();
    bench.build("FROM base\nRUN write /x 1\n").await.id();
    let variants = [
        ("FROM base\nRUN write /x 1\n", 1),
        ("FROM base\nRUN write /x 2\n", 0),
        ("FROM base\nENV A=1\nRUN write /x 1\n", 0),
        ("FROM base\nUSER node\nRUN write /x 1\n", 0),
        ("FROM base\nRUN --network=none write /x 1\n", 0),
        ("FROM base\nARG A=1\nRUN write /x 1\n", 1),
        ("FROM base\nARG A=2\nRUN write /x 1\n", 0),
        ("FROM scratch\nRUN write /x 1\n", 0),
        ("FROM base\nLABEL a=b\nCMD x\nRUN write /x 1\n", 1),
    ];
    for (text, cached) in variants {
        // A declared variable of the value that `ENV` had gives the same environment, and so the same step.
        assert_eq!(bench.build(text).await.cached_steps(), cached, "{text}");
    }
}

#[tokio::test]
async fn proxies_do_not_matter() {
    let bench = Bench::new();
    let text = "FROM base\nRUN write /x 1\n";
    bench.build(text).await.id();
    let again = bench
        .build_with(text, |request| drop(request.build_args.insert("HTTP_PROXY".into(), Some("p".into()))))
        .await;
    assert_eq!(again.cached_steps(), 1);
}

#[tokio::test]
async fn no_cache_builds_again_and_is_remembered() {
    let bench = Bench::new();
    bench.file("src/a", "1");
    bench.build(TEXT).await.id();
    let forced = bench.build_with(TEXT, |request| request.no_cache = true).await;
    assert_eq!(forced.cached_steps(), 0);
    assert_eq!(bench.runner.commands().len(), 2);
    assert_eq!(bench.build(TEXT).await.cached_steps(), 3);
}

#[tokio::test]
async fn owner_and_destination_of_a_copy_matter() {
    let bench = Bench::new();
    bench.file("a", "1");
    bench.build("FROM base\nCOPY a /x/\n").await.id();
    let variants = [
        ("FROM base\nCOPY a /x/\n", 1),
        ("FROM base\nCOPY ./a /x/\n", 1),
        ("FROM base\nWORKDIR /\nCOPY a x/\n", 1),
        ("FROM base\nCOPY a /y/\n", 0),
        ("FROM base\nCOPY a /x\n", 0),
        ("FROM base\nCOPY --chown=node a /x/\n", 0),
        ("FROM base\nCOPY --chown=1000:1001 a /x/\n", 1),
        ("FROM base\nCOPY --chmod=600 a /x/\n", 0),
        ("FROM base\nADD a /x/\n", 0),
    ];
    for (text, cached) in variants {
        assert_eq!(bench.build(text).await.cached_steps(), cached, "{text}");
    }
}

#[tokio::test]
async fn the_cache_is_left_alone_for_the_stages_that_are_named() {
    let bench = Bench::new();
    let text = "FROM base AS One\nRUN write /a 1\nFROM base AS two\nRUN write /b 2\nCOPY --from=one /a /a\n";
    bench.build(text).await.id();
    let forced = bench.build_with(text, |request| request.no_cache_stages = vec!["ONE".into()]).await;
    assert_eq!(forced.cached_steps(), 2, "{}", forced.lines);
    assert_eq!(bench.build(text).await.cached_steps(), 3);
}
