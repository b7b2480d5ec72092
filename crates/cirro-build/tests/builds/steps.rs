//! Steps, configuration, history, progress, failures.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;

use crate::simulated::Bench;

const EXPRESS: &str = r#"FROM base:latest
WORKDIR /usr/src/app
COPY package.json ./
RUN write /usr/src/app/node_modules/express ok
COPY . .
EXPOSE 3000
CMD [ "node", "index.js" ]
"#;

#[tokio::test]
async fn the_express_application_of_the_books_builds() {
    let bench = Bench::new();
    bench.file("package.json", "{}").file("index.js", "listen(3000)");
    let outcome =
        bench.build_with(EXPRESS, |request| request.tags = vec!["my-express-app".parse().unwrap()]).await;
    let id = outcome.id();
    let image = bench.library.image(id);
    assert_eq!(image.config.cmd, ["node", "index.js"]);
    assert_eq!(image.config.working_dir, "/usr/src/app");
    assert_eq!(image.config.exposed_ports["3000/tcp"], json!({}));
    assert_eq!(image.config.env, ["PATH=/bin", "LANG=C"]);
    assert_eq!(image.rootfs.diff_ids.len(), 5);
    assert_eq!(bench.library.text(id, "/usr/src/app/index.js"), "listen(3000)");
    assert_eq!(bench.library.text(id, "/usr/src/app/node_modules/express"), "ok");
    let history: Vec<(String, bool)> =
        image.history.iter().map(|entry| (entry.created_by.clone().unwrap(), entry.empty_layer)).collect();
    let expected = [
        ("WORKDIR /usr/src/app", false),
        ("COPY package.json ./ # buildkit", false),
        ("RUN /bin/sh -c write /usr/src/app/node_modules/express ok # buildkit", false),
        ("COPY . . # buildkit", false),
        ("EXPOSE map[3000/tcp:{}]", true),
        (r#"CMD ["node" "index.js"]"#, true),
    ];
    assert_eq!(history, expected.map(|(text, empty)| (text.to_owned(), empty)));
    assert!(outcome.lines.starts_with("Step 1/7 : FROM base:latest\n ---> "), "{}", outcome.lines);
    assert!(
        outcome
            .lines
            .contains("Step 4/7 : RUN write /usr/src/app/node_modules/express ok\n ---> Running in ")
    );
    let end = format!("Successfully built {}\nSuccessfully tagged my-express-app:latest\n", id.short());
    assert!(outcome.lines.ends_with(&end), "{}", outcome.lines);
}

#[tokio::test]
async fn metadata_instructions_make_no_layer() {
    let bench = Bench::new();
    let text = r#"FROM base
MAINTAINER Somebody <some@body>
LABEL one=1 "two"="2 $LANG"
ENV A=1 B="x y" LANG=de
ENV OLD form of $A
USER node
VOLUME /data ["/not json"]
EXPOSE 53/udp 8000-8002
STOPSIGNAL SIGINT
SHELL ["/bin/bash", "-c"]
HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost
ENTRYPOINT exec run
CMD arg
ONBUILD RUN write /triggered yes
"#;
    let image = bench.library.image(bench.build(text).await.id());
    let config = &image.config;
    assert_eq!(image.rootfs.diff_ids.len(), 1);
    assert!(image.history.iter().all(|entry| entry.empty_layer));
    assert_eq!(image.history.len(), 13);
    assert_eq!(image.author.as_deref(), Some("Somebody <some@body>"));
    assert_eq!(config.labels["one"], "1");
    assert_eq!(config.labels["two"], "2 C");
    assert_eq!(config.env, ["PATH=/bin", "LANG=de", "A=1", "B=x y", "OLD=form of 1"]);
    assert_eq!(config.user, "node");
    assert_eq!(config.volumes.keys().collect::<Vec<_>>(), ["/data", "[/not json]"]);
    assert_eq!(
        config.exposed_ports.keys().collect::<Vec<_>>(),
        ["53/udp", "8000/tcp", "8001/tcp", "8002/tcp"]
    );
    assert_eq!(config.stop_signal.as_deref(), Some("SIGINT"));
    assert_eq!(config.shell, ["/bin/bash", "-c"]);
    assert_eq!(
        config.healthcheck,
        Some(
            json!({"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 90_000_000_000_u64, "Retries": 3})
        )
    );
    assert_eq!(config.entrypoint, ["/bin/bash", "-c", "exec run"]);
    assert_eq!(config.cmd, ["/bin/bash", "-c", "arg"]);
    assert_eq!(config.on_build, ["RUN write /triggered yes"]);
}

#[tokio::test]
async fn an_entrypoint_takes_an_inherited_command_away_but_not_the_own() {
    let bench = Bench::new();
    let inherited = bench.library.image(bench.build("FROM base\nENTRYPOINT [\"x\"]\n").await.id());
    assert!(inherited.config.cmd.is_empty());
    let own = bench.library.image(bench.build("FROM base\nCMD [\"y\"]\nENTRYPOINT [\"x\"]\n").await.id());
    assert_eq!(own.config.cmd, ["y"]);
}

#[tokio::test]
async fn a_failed_command_says_its_code_and_leaves_nothing() {
    let bench = Bench::new();
    let outcome = bench.build("FROM base\nRUN fail 3\nRUN say no\n").await;
    assert_eq!(outcome.error(), "The command '/bin/sh -c fail 3' returned a non-zero code: 3");
    assert_eq!(bench.runner.commands(), ["fail 3"]);
    assert_eq!(bench.library.images(), 1);
}

#[tokio::test]
async fn output_comes_between_the_lines_of_its_step() {
    let outcome = Bench::new().build("FROM base\nRUN say hello\n").await;
    let running = outcome.lines.find(" ---> Running in").unwrap();
    let hello = outcome.lines.find("hello\n ---> Removed intermediate container").unwrap();
    assert!(running < hello, "{}", outcome.lines);
}

#[tokio::test]
async fn run_sees_only_declared_arguments_and_proxies() {
    let bench = Bench::new();
    let text = "ARG BASE=base\nARG SHARED=global\nFROM $BASE\nARG ONE\nARG TWO=${ONE}-2\nARG SHARED\nARG UNSET\nENV LANG=en\nARG LANG=fr\nRUN env\n";
    let outcome = bench
        .build_with(text, |request| {
            for (name, value) in [("ONE", "1"), ("HIDDEN", "secret"), ("http_proxy", "p:1"), ("NOWHERE", "x")]
            {
                request.build_args.insert(name.into(), Some(value.into()));
            }
            request.build_args.insert("UNSET".into(), None);
        })
        .await;
    let env = bench.library.text(outcome.id(), "/env");
    assert_eq!(env, "PATH=/bin\nLANG=en\nONE=1\nTWO=1-2\nSHARED=global\nhttp_proxy=p:1");
    let image = bench.library.image(outcome.id());
    let run = image.history.last().unwrap().created_by.clone().unwrap();
    assert_eq!(run, "RUN |4 ONE=1 TWO=1-2 SHARED=global LANG=en /bin/sh -c env # buildkit");
    assert!(
        outcome.lines.contains("[Warning] One or more build-args [HIDDEN NOWHERE] were not consumed\n"),
        "{}",
        outcome.lines
    );
}

#[tokio::test]
async fn a_run_gets_user_directory_network_and_hosts() {
    let bench = Bench::new();
    let text = "FROM base\nUSER node\nWORKDIR srv\nWORKDIR app\nRUN say a\nRUN --network=none [\"say\", \"say b\"]\n";
    let outcome = bench
        .build_with(text, |request| {
            request.network = "host".into();
            request.extra_hosts = vec!["db:10.0.0.1".into()];
            request.limits.resources.memory = Some(1 << 20);
        })
        .await;
    outcome.id();
    let steps = bench.runner.steps.lock().unwrap();
    assert_eq!((steps[0].user.as_str(), steps[0].working_dir.as_str()), ("node", "/srv/app"));
    assert_eq!(steps[0].network, "host");
    assert_eq!(steps[0].extra_hosts, ["db:10.0.0.1"]);
    assert_eq!(steps[0].limits.resources.memory, Some(1 << 20));
    assert_eq!(steps[1].network, "none");
    assert_eq!(steps[1].args, ["say", "say b"]);
}

#[tokio::test]
async fn here_documents_reach_the_shell() {
    let bench = Bench::new();
    let text = "FROM base\nRUN <<EOF\nsay one\nEOF\nRUN say <<-'A' two <<B\n\tx\n\tA\ny\nB\n";
    bench.build(text).await.id();
    assert_eq!(bench.runner.commands(), ["say one\n", "say <<-'A' two <<B\nx\nA\ny\nB\n"]);
}

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name_before_anything_runs() {
    let cases = [
        ("RUN --device=vendor/gpu true", "line 3: RUN --device=vendor/gpu: not supported"),
        ("RUN --security=insecure true", "line 3: RUN --security=insecure: security.insecure is not allowed"),
        ("RUN --network=other true", "line 3: RUN --network=other: not supported"),
    ];
    for (instruction, error) in cases {
        let bench = Bench::new();
        let outcome = bench.build(&format!("FROM base\nRUN say hi\n{instruction}\n")).await;
        assert_eq!(outcome.error(), error);
        assert!(bench.runner.commands().is_empty());
    }
    let bench = Bench::new();
    let error = bench.build("FROM base\nCOPY https://example.org/x /x\n").await.error();
    assert_eq!(error, "line 2: COPY failed: source can't be a URL for COPY");
    let error = bench.build("FROM --platform=linux/s390x base\n").await.error();
    assert!(error.contains("not supported"), "{error}");
}

#[tokio::test]
async fn errors_name_the_instruction_and_the_line() {
    let bench = Bench::new();
    let cases = [
        ("FROM base\n\nRUUN x\n", "dockerfile parse error on line 3: unknown instruction: RUUN"),
        ("FROM nothing:here\n", "line 1: FROM failed: No such image: nothing:here"),
        (
            "FROM base\nCOPY gone /x\n",
            "line 2: COPY failed: file not found in build context or excluded by .dockerignore: stat gone: file does not exist",
        ),
        ("FROM base\nSTOPSIGNAL SIGNOTHING\n", "line 2: STOPSIGNAL failed: invalid signal: SIGNOTHING"),
        (
            "FROM base\nCOPY --chown=nobody . /x\n",
            "line 2: COPY failed: can't find uid for user nobody: no such user: nobody",
        ),
        (
            "FROM base\nCOPY --chmod=9 . /x\n",
            "line 2: COPY failed: invalid chmod parameter: '9'. it should be octal string and between 0 and 07777, or a symbolic mode",
        ),
        (
            "FROM base\nENV A=${B\n",
            "line 2: ENV failed: failed to process \"${B\": syntax error: missing '}'",
        ),
        ("RUN x\n", "dockerfile parse error on line 1: no build stage in current context"),
    ];
    for (text, error) in cases {
        assert_eq!(bench.build(text).await.error(), error);
    }
    let missing = bench.build_with("FROM base\n", |request| request.dockerfile = "other".into()).await;
    assert_eq!(missing.error(), "Cannot locate specified Dockerfile: other");
    let target = bench.build_with("FROM base\n", |request| request.target = Some("x".into())).await;
    assert_eq!(target.error(), "target stage \"x\" could not be found");
}

#[tokio::test]
async fn dropping_the_build_ends_the_step_and_gives_the_layer_back() {
    let bench = Bench::new();
    bench.file("Dockerfile", "FROM base\nRUN hang\n");
    let (sender, mut receiver) = mpsc::channel(64);
    let build = cirro_build::build(
        bench.request(),
        bench.library.clone(),
        bench.runner.clone(),
        bench.sources.clone(),
        sender,
    );
    let task = tokio::spawn(build);
    let mut hanging = bench.runner.hanging.subscribe();
    hanging.wait_for(|count| *count == 1).await.unwrap();
    assert_eq!(bench.library.open_layers().len(), 1);
    task.abort();
    hanging.wait_for(|count| *count == 0).await.unwrap();
    bench.settled().await;
    while receiver.recv().await.is_some() {}
    assert_eq!(bench.library.images(), 1);
}

#[tokio::test]
async fn a_build_goes_on_when_nobody_listens() {
    let bench = Bench::new();
    bench.file("Dockerfile", "FROM base\nRUN say x\n");
    let (sender, receiver) = mpsc::channel(1);
    drop(receiver);
    let runner = Arc::clone(&bench.runner);
    let id =
        cirro_build::build(bench.request(), bench.library.clone(), runner, bench.sources.clone(), sender)
            .await
            .unwrap();
    assert_eq!(bench.library.image(id).rootfs.diff_ids.len(), 2);
}

#[tokio::test]
async fn scratch_and_source_date_epoch_give_the_same_image_twice() {
    let bench = Bench::new();
    bench.file("x", "1");
    let text = "FROM scratch\nCOPY x /x\nWORKDIR /w\n";
    let epoch = |request: &mut cirro_build::BuildRequest| {
        request.no_cache = true;
        request.build_args.insert("SOURCE_DATE_EPOCH".into(), Some("1700000000".into()));
    };
    let first = bench.build_with(text, epoch).await;
    let second = bench.build_with(text, epoch).await;
    assert_eq!(first.id(), second.id());
    let image = bench.library.image(first.id());
    assert_eq!(image.created.as_deref(), Some("2023-11-14T22:13:20Z"));
    assert!(image.history.iter().all(|entry| entry.created == image.created));
    assert_eq!(image.config.env.len(), 1);
    let modified = bench.library.path(first.id(), "/x").unwrap().metadata().unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs(), 1_700_000_000);
    assert!(!first.lines.contains("Warning"), "{}", first.lines);
}
