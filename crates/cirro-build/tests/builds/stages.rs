//! Several stages, triggers, images to copy from.

use crate::simulated::Bench;

#[tokio::test]
async fn only_needed_stages_are_built_and_their_files_copied() {
    let bench = Bench::new();
    let text = "FROM base AS Build\nRUN write /out/app binary\n\
        FROM base AS unused\nRUN fail 1\n\
        FROM scratch\nCOPY --from=build /out/app /bin/app\nCOPY --from=0 /out /all/\n";
    let outcome = bench.build(text).await;
    assert_eq!(bench.library.text(outcome.id(), "/bin/app"), "binary");
    assert_eq!(bench.library.text(outcome.id(), "/all/app"), "binary");
    assert!(!bench.library.has(outcome.id(), "/etc/passwd"));
    assert_eq!(bench.runner.commands(), ["write /out/app binary"]);
    assert!(outcome.lines.contains("Step 5/5 : COPY --from=0"), "{}", outcome.lines);
    assert!(outcome.lines.contains("Step 1/5 : FROM base AS Build\n"), "{}", outcome.lines);
}

#[tokio::test]
async fn a_stage_goes_on_where_an_earlier_one_ended() {
    let bench = Bench::new();
    let text = "FROM base AS one\nARG WHO=me\nENV A=1\nRUN write /a a\nFROM one AS two\nRUN env\n";
    let outcome = bench.build_with(text, |request| request.target = Some("TWO".into())).await;
    assert_eq!(bench.library.text(outcome.id(), "/a"), "a");
    assert_eq!(bench.library.text(outcome.id(), "/env"), "PATH=/bin\nLANG=C\nA=1\nWHO=me");
}

#[tokio::test]
async fn a_target_ends_the_build_there() {
    let bench = Bench::new();
    let text = "FROM base AS one\nRUN say 1\nFROM one\nRUN fail 1\n";
    for target in ["one", "0"] {
        bench.build_with(text, |request| request.target = Some(target.into())).await.id();
    }
}

#[tokio::test]
async fn independent_stages_run_side_by_side_and_are_told_in_order() {
    let bench = Bench::new();
    let text = "FROM base AS a\nRUN say from-a\nFROM base AS b\nRUN say from-b\nFROM base AS c\nRUN say from-c\n\
        FROM scratch\nCOPY --from=a /bin/sh /a\nCOPY --from=b /bin/sh /b\nCOPY --from=c /bin/sh /c\n";
    let outcome = bench.build(text).await;
    outcome.id();
    assert_eq!(bench.runner.side_by_side.lock().unwrap().1, 3);
    let at =
        |text: &str| outcome.lines.find(text).unwrap_or_else(|| panic!("no {text} in {}", outcome.lines));
    let order =
        ["Step 2/10 :", "from-a\n", "Step 3/10 :", "from-b\n", "Step 5/10 :", "from-c\n", "Step 10/10 :"];
    let places: Vec<usize> = order.iter().map(|text| at(text)).collect();
    assert!(places.is_sorted(), "{}", outcome.lines);
}

#[tokio::test]
async fn a_failing_stage_ends_the_others() {
    let bench = Bench::new();
    let text = "FROM base AS a\nRUN hang\nFROM base AS b\nRUN fail 2\n\
        FROM scratch\nCOPY --from=a /bin/sh /a\nCOPY --from=b /bin/sh /b\n";
    let outcome = bench.build(text).await;
    assert_eq!(outcome.error(), "The command '/bin/sh -c fail 2' returned a non-zero code: 2");
    assert!(outcome.lines.contains("RUN fail 2\n"), "{}", outcome.lines);
    let mut hanging = bench.runner.hanging.subscribe();
    hanging.wait_for(|count| *count == 0).await.unwrap();
}

#[tokio::test]
async fn files_come_from_images_that_are_not_stages() {
    let bench = Bench::new();
    bench.library.add(
        "tools:1",
        |root| {
            std::fs::write(root.join("tool"), "t").unwrap();
            std::os::unix::fs::chown(root.join("tool"), Some(7), Some(8)).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(root.join("tool"), "user.mark", b"m", flags).unwrap();
        },
        |_| {},
    );
    let outcome = bench.build("FROM scratch\nCOPY --from=tools:1 /tool /bin/\n").await;
    let path = bench.library.path(outcome.id(), "/bin/tool").unwrap();
    use std::os::unix::fs::MetadataExt;
    let meta = path.metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (7, 8), "what comes from an image keeps its owner");
    let mut value = [0; 8];
    assert_eq!(
        rustix::fs::getxattr(&path, "user.mark", &mut value[..]),
        Ok(1),
        "and its extended attributes"
    );
    let missing = bench.build("FROM scratch\nCOPY --from=nothing:1 /tool /\n").await;
    assert_eq!(missing.error(), "line 2: COPY failed: No such image: nothing:1");
}

#[tokio::test]
async fn triggers_of_a_base_image_run_first_and_once() {
    let bench = Bench::new();
    bench.file("app.txt", "app");
    let onbuild = "FROM base AS deps\nRUN write /dep d\nFROM base\nONBUILD COPY app.txt /app.txt\nONBUILD RUN write /t 1\n";
    let parent = bench.build_with(onbuild, |request| request.tags = vec!["parent".parse().unwrap()]).await;
    assert!(!bench.library.has(parent.id(), "/t"));
    let child = bench.build("FROM parent\nRUN say after\n").await;
    assert_eq!(bench.library.text(child.id(), "/app.txt"), "app");
    assert_eq!(bench.runner.commands().last().unwrap(), "say after");
    assert!(bench.library.has(child.id(), "/t"));
    assert!(bench.library.image(child.id()).config.on_build.is_empty());
    assert!(
        child.lines.contains("# Executing 2 build triggers\nTrigger 0, COPY app.txt /app.txt\n"),
        "{}",
        child.lines
    );
}

#[tokio::test]
async fn global_and_automatic_arguments_choose_bases() {
    let bench = Bench::new();
    let text = "ARG TAG=nothing\nARG NAME=base:${TAG}\nFROM --platform=$BUILDPLATFORM ${NAME}\nARG TARGETOS\nARG TAG\nRUN env\n";
    let outcome = bench
        .build_with(text, |request| drop(request.build_args.insert("TAG".into(), Some("latest".into()))))
        .await;
    assert_eq!(bench.library.text(outcome.id(), "/env"), "PATH=/bin\nLANG=C\nTARGETOS=linux\nTAG=latest");
}

#[tokio::test]
async fn a_stage_cannot_copy_from_itself_or_a_later_one() {
    let bench = Bench::new();
    let error = bench.build("FROM base AS a\nCOPY --from=a /x /y\n").await.error();
    assert_eq!(error, "line 2: invalid from flag value a: refers to current build stage");
    let error = bench.build("FROM base\nCOPY --from=1 /x /y\nFROM base\n").await;
    error.id();
    let error = bench.build("FROM base AS a\nCOPY --from=1 /x /y\nFROM a\n").await.error();
    assert_eq!(error, "line 2: invalid from flag value 1: not an earlier stage");
}
