//! Attacks on builders that are known, replayed.

use cirro_seams::build::StepSource;

use crate::simulated::Bench;

/// CVE-2024-23651: two steps share a cache mount, and while one checks a sub-path of it the other makes it a link to
/// the host. BuildKit mounted `source=` of a cache by path.
///
/// There is no sub-path to race for: a cache is mounted whole, and `source` only says what a new one is filled with.
#[tokio::test]
async fn a_cache_mount_has_no_sub_path_that_could_lead_elsewhere() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s3cret").unwrap();
    bench.build("FROM base\nRUN --mount=type=cache,id=shared,target=/c mount /c\n").await.id();
    let cache = |bench: &Bench| {
        let steps = bench.runner.steps.lock().unwrap();
        let StepSource::Path(path) = steps.last().unwrap().mounts[0].source.clone() else { panic!("a path") };
        path
    };
    let whole = cache(&bench);
    std::os::unix::fs::symlink(outside.path(), whole.join("sub")).unwrap();
    let text = "FROM base\nRUN --mount=type=cache,id=shared,source=sub,target=/c mount /c\n";
    let outcome = bench.build(text).await;
    outcome.id();
    assert_eq!(cache(&bench), whole, "the link in the cache is not followed");
    assert!(!outcome.lines.contains("secret"), "{}", outcome.lines);
}

/// The same by `from=`: what fills a new cache is found within the image.
#[tokio::test]
async fn a_cache_is_filled_from_within_the_image_only() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s3cret").unwrap();
    let link = outside.path().to_owned();
    bench.library.add("evil", |root| std::os::unix::fs::symlink(link, root.join("out")).unwrap(), |_| {});
    let text = "FROM base\nRUN --mount=type=cache,id=filled,from=evil,source=/out,target=/c mount /c\n";
    let outcome = bench.build(text).await;
    assert!(outcome.result.is_err() || !outcome.lines.contains("secret"), "{}", outcome.lines);
}

/// CVE-2024-23653: a frontend named by `# syntax=` asked for a privileged container. No frontend is fetched or run,
/// and no instruction gets privileges.
#[tokio::test]
async fn a_syntax_line_runs_nothing_and_privileges_are_refused() {
    let bench = Bench::new();
    let outcome = bench.build("# syntax=evil/frontend:latest\nFROM base\nRUN say hi\n").await;
    outcome.id();
    assert_eq!(bench.runner.commands(), ["say hi"]);
    let asked = bench.build("FROM base\nRUN --security=insecure say hi\n").await;
    assert!(asked.error().contains("security.insecure is not allowed"), "{}", asked.error());
    let device = bench.build("FROM base\nRUN --device=all say hi\n").await;
    assert!(device.error().contains("not supported"), "{}", device.error());
}

/// CVE-2024-23650: a crafted request crashed the builder. Whatever a Dockerfile or its arguments are, there is an error
/// or an image.
#[tokio::test]
async fn strange_requests_end_in_errors() {
    let bench = Bench::new();
    for text in [
        "",
        "\0",
        "FROM",
        "FROM \"\"",
        "FROM base AS \u{202e}",
        "FROM base\nCOPY --from=99999999999999999999 a b",
        "FROM base\nCOPY --from= a b",
        "FROM base\nRUN --mount=",
        "FROM base\nRUN --mount=type=cache,target=/,size=99999999999999999999",
        "FROM base\nRUN --mount=type=tmpfs,target=/x,size=99999999999999999999t x",
        "FROM base\nHEALTHCHECK --interval=999999999999999h CMD x",
        "FROM base\nEXPOSE 99999-1",
        "FROM base\nSTOPSIGNAL RTMIN+9999999999",
        "FROM base\nADD --checksum=sha256: https://x/y /z",
        "FROM base\nCOPY --chmod=77777777777777777777 a b",
        "FROM base\nCOPY --chown=99999999999:99999999999 . b",
        "FROM base\nENV A=${A:-${A:-${A:-",
        "FROM base\nSHELL []\nRUN x",
        "FROM base\nWORKDIR \n",
        "FROM base\nONBUILD ONBUILD RUN x",
        "FROM base\nCOPY <<A <<B /x/\nA\n",
    ] {
        let outcome = bench.build(text).await;
        assert!(outcome.result.is_err(), "{text:?} built");
    }
    let deep = format!("FROM base\nENV A={}x{}\n", "${A:-".repeat(10_000), "}".repeat(10_000));
    assert!(bench.build(&deep).await.result.is_err());
    let many = |request: &mut cirro_build::BuildRequest| {
        request.build_args.insert(String::new(), Some("x".into()));
        request.build_args.insert("A=B".into(), None);
        request.target = Some("\u{0}".into());
        request.extra_hosts = vec![":".into()];
    };
    assert!(bench.build_with("FROM base\n", many).await.result.is_err());
}

/// CVE-2024-24557: a cache entry of a foreign image was taken because only its configuration matched. A key is over the
/// layers themselves: another image of the same history and configuration has nothing in common with it.
#[tokio::test]
async fn an_image_of_the_same_history_is_no_cache_of_another() {
    let bench = Bench::new();
    let text = "FROM base\nRUN write /app right\nRUN say done\n";
    let first = bench.build_with(text, |request| request.tags = vec!["app".parse().unwrap()]).await;
    // The attacker's: what the victim's builder would compare is the same, the files are not.
    let mut forged = bench.library.image(first.id());
    let evil = bench.library.add("evil", |root| std::fs::write(root.join("app"), "wrong").unwrap(), |_| {});
    let evil_layer = bench.library.image(evil).rootfs.diff_ids[0];
    forged.rootfs.diff_ids[1] = evil_layer;
    bench.library.put(forged.clone(), &["app".parse().unwrap()]);
    let from_forged = bench.build("FROM app\nRUN say done\n").await;
    assert_eq!(from_forged.cached_steps(), 0, "the forged image's layers are in the key");
    let mut base = bench.library.image(first.id());
    base.rootfs.diff_ids = vec![evil_layer];
    bench.library.put(base, &["base".parse().unwrap()]);
    let rebuilt = bench.build(text).await;
    assert_eq!(rebuilt.cached_steps(), 0, "a base of the same configuration is another base");
    assert_eq!(bench.library.text(rebuilt.id(), "/app"), "right");
}

/// A secret is in no layer, no history, no event, no key and no trace.
#[tokio::test]
async fn a_secret_is_nowhere_but_in_the_step() {
    let bench = Bench::new();
    let text = "FROM base\nRUN --mount=type=secret,id=token,required say used\nRUN --mount=type=secret,id=token,env=TOKEN say env\n";
    let with = |secret: &'static str| {
        move |request: &mut cirro_build::BuildRequest| {
            request.secrets.insert("token".into(), secret.as_bytes().into());
        }
    };
    let outcome = bench.build_with(text, with("s3cret-value")).await;
    let image = serde_json::to_string(&bench.library.image(outcome.id())).unwrap();
    assert!(!image.contains("s3cret-value"));
    assert!(
        !outcome.lines.contains("s3cret-value") && !format!("{:?}", outcome.steps).contains("s3cret-value")
    );
    assert!(!bench.library.notes().contains("s3cret-value"));
    assert_eq!(bench.build_with(text, with("another")).await.cached_steps(), 2);
}
