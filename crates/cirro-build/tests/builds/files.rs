//! What `COPY`, `ADD` and `WORKDIR` put where.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::simulated::Bench;

#[tokio::test]
async fn copy_places_files_and_directories_as_docker_does() {
    let cases = [
        ("COPY a /x", "/x"),
        ("COPY a /x/", "/x/a"),
        ("COPY a /srv", "/srv/a"),
        ("COPY a .", "/a"),
        ("COPY d /x", "/x/f"),
        ("COPY d /srv", "/srv/f"),
        ("COPY a d /x/", "/x/a"),
        ("COPY a d /x/", "/x/f"),
        ("COPY d/f e/g /x/", "/x/g"),
        ("COPY *.txt /x/", "/x/one.txt"),
        ("COPY ?/[fg] /x/", "/x/g"),
        ("COPY [\"with space\", \"/x/\"]", "/x/with space"),
        ("COPY \"with space\" /x/", "/x/with space"),
        ("COPY ../../a /x", "/x"),
        ("COPY /a /x", "/x"),
        ("COPY link /x", "/x/f"),
        ("COPY a /app/a", "/srv/app/a"),
        ("WORKDIR /app\nCOPY a b", "/srv/app/b"),
        ("COPY a /deep/er/x", "/deep/er/x"),
        ("COPY <<one.conf /etc/\nhello\none.conf", "/etc/one.conf"),
    ];
    for (instruction, path) in cases {
        let bench = Bench::new();
        bench.file("a", "A").file("d/f", "F").file("e/g", "G").file("one.txt", "1").file("with space", "S");
        std::os::unix::fs::symlink("d", bench.context.path().join("link")).unwrap();
        let outcome = bench.build(&format!("FROM base\n{instruction}\n")).await;
        assert!(bench.library.has(outcome.id(), path), "{instruction} does not make {path}");
    }
}

#[tokio::test]
async fn a_link_in_a_lower_layer_is_followed_inside_of_the_image_only() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    bench.library.add(
        "hostile",
        |root| {
            std::os::unix::fs::symlink(outside.path(), root.join("out")).unwrap();
            std::os::unix::fs::symlink("../../../../../etc", root.join("up")).unwrap();
        },
        |_| {},
    );
    bench.file("a", "A");
    let outcome = bench.build("FROM hostile\nCOPY a /out/a\nCOPY a /up/a\nWORKDIR /out/w\n").await;
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    assert!(bench.library.has(outcome.id(), &format!("{}/a", outside.path().display())));
    assert!(bench.library.has(outcome.id(), "/etc/a"));
    let stolen = bench.build("FROM scratch\nCOPY --from=hostile /out /x\n").await;
    assert!(stolen.error().contains("file does not exist"), "{}", stolen.error());
}

#[tokio::test]
async fn links_of_the_context_never_lead_out_of_it() {
    let bench = Bench::new();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    std::os::unix::fs::symlink(outside.path(), bench.context.path().join("out")).unwrap();
    let error = bench.build("FROM base\nCOPY out/secret /x\n").await.error();
    assert!(error.contains("file not found in build context"), "{error}");
    let copied = bench.build("FROM base\nCOPY . /all/\n").await;
    let link = bench.library.path(copied.id(), "/all/out").unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink(), "a link inside of a tree is copied as a link");
}

#[tokio::test]
async fn modes_and_owners_are_set() {
    let bench = Bench::new();
    bench.file("d/f", "F");
    std::os::unix::fs::chown(bench.context.path().join("d/f"), Some(33), Some(33)).unwrap();
    std::fs::set_permissions(bench.context.path().join("d/f"), PermissionsExt::from_mode(0o4750)).unwrap();
    let stat = |outcome: &crate::simulated::Outcome, path: &str| {
        let meta = bench.library.path(outcome.id(), path).unwrap().metadata().unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid())
    };
    let plain = bench.build("FROM base\nCOPY d /n/d\n").await;
    assert_eq!(stat(&plain, "/n/d/f"), (0o4750, 0, 0));
    assert_eq!(stat(&plain, "/n/d"), (0o755, 0, 0));
    let named = bench.build("FROM base\nCOPY --chown=node:staff d /n/d\n").await;
    assert_eq!(stat(&named, "/n/d/f"), (0o4750, 1000, 50));
    assert_eq!(stat(&named, "/n"), (0o755, 1000, 50));
    let own_group = bench.build("FROM base\nARG WHO=node\nCOPY --chown=$WHO --chmod=0640 d /n/d\n").await;
    assert_eq!(stat(&own_group, "/n/d/f"), (0o640, 1000, 1001));
    let number = bench.build("FROM base\nCOPY --chown=7 d /n/d\n").await;
    assert_eq!(stat(&number, "/n/d/f"), (0o4750, 7, 7));
    let workdir = bench.build("FROM base\nUSER node\nWORKDIR /mine\n").await;
    assert_eq!(stat(&workdir, "/mine"), (0o755, 1000, 1001));
}

#[tokio::test]
async fn parents_that_are_copied_up_keep_mode_and_owner() {
    let bench = Bench::new();
    bench.library.add(
        "odd",
        |root| {
            std::fs::create_dir_all(root.join("opt/inner")).unwrap();
            std::fs::set_permissions(root.join("opt"), PermissionsExt::from_mode(0o1770)).unwrap();
            std::os::unix::fs::chown(root.join("opt"), Some(5), Some(6)).unwrap();
        },
        |_| {},
    );
    bench.file("a", "A");
    let outcome = bench.build("FROM odd\nCOPY a /opt/inner/a\n").await;
    let meta = bench.library.path(outcome.id(), "/opt").unwrap().metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o1770, 5, 6));
}

#[tokio::test]
async fn files_and_directories_do_not_replace_each_other() {
    let bench = Bench::new();
    bench.file("f/srv", "file").file("d/bin/sh/x", "under a file").file("a", "A").file("b", "B");
    let cases = [
        ("COPY f /", "cannot replace to directory /srv with file"),
        ("COPY d /", "cannot copy to non-directory: /bin/sh"),
        ("COPY d /bin/sh", "cannot copy to non-directory: /bin/sh"),
        ("COPY a b /x", "the destination must be a directory and end with a /"),
        ("COPY *.none /x/", "no source files were specified"),
        ("COPY [a- /x/", "syntax error in pattern [a-"),
    ];
    for (instruction, error) in cases {
        let found = bench.build(&format!("FROM base\n{instruction}\n")).await.error();
        assert!(found.contains(error), "{instruction}: {found}");
    }
    let replaced = bench.build("FROM base\nCOPY a /bin/sh\n").await;
    assert_eq!(bench.library.text(replaced.id(), "/bin/sh"), "A");
}

#[tokio::test]
async fn exceptions_bring_files_of_an_ignored_directory_back() {
    let bench = Bench::new();
    bench.file("docs/README.md", "r").file("docs/b", "b").file("docs/deep/x", "x").file("src/a", "a");
    bench.file(".dockerignore", "*\n!docs/README.md\n");
    let outcome = bench.build("FROM base\nCOPY . /w/\n").await;
    assert!(bench.library.has(outcome.id(), "/w/docs/README.md"));
    for gone in ["/w/docs/b", "/w/docs/deep", "/w/src", "/w/Dockerfile"] {
        assert!(!bench.library.has(outcome.id(), gone), "{gone}");
    }
    let error = bench.build("FROM base\nCOPY src/a /w/\n").await.error();
    assert!(error.contains("excluded by .dockerignore"), "{error}");
    bench.file("Dockerfile.dockerignore", "docs\n");
    let own = bench.build("FROM base\nCOPY . /w/\n").await;
    assert!(bench.library.has(own.id(), "/w/src/a") && !bench.library.has(own.id(), "/w/docs"));
}

#[tokio::test]
async fn add_unpacks_local_archives_and_nothing_else() {
    let bench = Bench::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o640);
    header.set_uid(12);
    header.set_gid(13);
    header.set_mtime(1_000_000_000);
    tar.append_data(&mut header, "in/side", &b"tar!"[..]).unwrap();
    let tar = tar.into_inner().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    std::fs::write(bench.context.path().join("a.tar"), &tar).unwrap();
    std::fs::write(bench.context.path().join("a.tgz"), gzip.finish().unwrap()).unwrap();
    std::fs::write(bench.context.path().join("a.xz"), b"\xfd7zXZ\0rest").unwrap();
    bench.file("plain", "no archive");
    for archive in ["a.tar", "a.tgz"] {
        let outcome = bench.build(&format!("FROM base\nADD {archive} /app/x\n")).await;
        let meta = bench.library.path(outcome.id(), "/srv/app/x/in/side").unwrap().metadata().unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (0o640, 12, 13));
        assert_eq!(meta.mtime(), 1_000_000_000);
    }
    let copied = bench.build("FROM base\nCOPY a.tar /x/\n").await;
    assert!(bench.library.has(copied.id(), "/x/a.tar"));
    let plain = bench.build("FROM base\nADD plain /x/\n").await;
    assert_eq!(bench.library.text(plain.id(), "/x/plain"), "no archive");
    // What only begins like an archive is a file like another, as with dockerd.
    let broken = bench.build("FROM base\nADD a.xz /x/\n").await;
    assert!(bench.library.has(broken.id(), "/x/a.xz"));
}

#[tokio::test]
async fn workdir_makes_a_layer_only_when_the_directory_is_missing() {
    let bench = Bench::new();
    let there = bench.library.image(bench.build("FROM base\nWORKDIR /app\n").await.id());
    assert_eq!(there.rootfs.diff_ids.len(), 1);
    assert!(there.history[0].empty_layer);
    assert_eq!(there.config.working_dir, "/app");
    let made = bench.build("FROM base\nWORKDIR /app\nWORKDIR new/$LANG\n").await;
    assert_eq!(bench.library.image(made.id()).config.working_dir, "/app/new/C");
    assert!(bench.library.path(made.id(), "/srv/app/new/C").unwrap().is_dir());
    let error = bench.build("FROM base\nWORKDIR /bin/sh\n").await.error();
    assert_eq!(error, "line 2: WORKDIR failed: Cannot mkdir: /bin/sh is not a directory");
}

#[tokio::test]
async fn here_documents_become_files() {
    let bench = Bench::new();
    let text = "FROM base\nENV WHO=me\nCOPY <<EOF <<'RAW' /d/\nhello \"$WHO\" \\$WHO\nEOF\n$WHO\nRAW\n";
    let outcome = bench.build(text).await;
    assert_eq!(bench.library.text(outcome.id(), "/d/EOF"), "hello \"me\" $WHO\n");
    assert_eq!(bench.library.text(outcome.id(), "/d/RAW"), "$WHO\n");
}

#[tokio::test]
async fn parents_are_kept_below_the_pivot() {
    let cases = [
        ("COPY --parents x/a.txt y/a.txt /p/", "/p/x/a.txt /p/y/a.txt"),
        ("COPY --parents ./x/./deep/b.txt /p/", "/p/deep/b.txt"),
        ("COPY --parents x/deep /p/", "/p/x/deep/b.txt"),
        ("COPY --parents */a.txt /p", "/p/x/a.txt /p/y/a.txt"),
        ("COPY --parents ./x/./** /p/", "/p/a.txt /p/deep/b.txt"),
        ("COPY --parents **/b.txt /p/", "/p/x/deep/b.txt"),
        ("COPY --parents=false x/a.txt /p/", "/p/a.txt"),
    ];
    for (instruction, paths) in cases {
        let bench = Bench::new();
        bench.file("x/a.txt", "xa").file("x/deep/b.txt", "xb").file("y/a.txt", "ya");
        let outcome = bench.build(&format!("FROM base\n{instruction}\n")).await;
        for path in paths.split(' ') {
            assert!(bench.library.has(outcome.id(), path), "{instruction} does not make {path}");
        }
    }
}

#[tokio::test]
async fn what_is_excluded_is_left_out() {
    let bench = Bench::new();
    bench
        .file("d/a.txt", "A")
        .file("d/b.md", "B")
        .file("d/deep/c.txt", "C")
        .file("home.txt", "H")
        .file("home.md", "M");
    let outcome = bench
        .build(
            "FROM base\nCOPY --exclude=**/*.txt --exclude=!deep/c.txt d /d/\nCOPY --exclude=*.txt hom* /h/\n",
        )
        .await;
    let has = |path: &str| bench.library.has(outcome.id(), path);
    assert!(has("/d/b.md") && has("/d/deep/c.txt") && has("/h/home.md"));
    assert!(!has("/d/a.txt") && !has("/h/home.txt"));
}

#[tokio::test]
async fn a_linked_layer_does_not_depend_on_what_is_below() {
    let bench = Bench::new();
    bench.file("a", "A");
    let first = bench.build("FROM base\nCOPY --link a /app/a\n").await;
    // /app is a link in the base image; a linked layer does not see it.
    assert!(bench.library.has(first.id(), "/app/a"));
    assert!(!bench.library.has(first.id(), "/srv/app/a"));
    let other = bench.build("FROM base\nRUN write /x 1\nCOPY --link a /app/a\n").await;
    assert_eq!(other.cached_steps(), 1, "{}", other.lines);
}
