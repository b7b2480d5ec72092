//! Why steps were not cached, and what a program is told.

use cirro_build::{BuildRequest, StepEvent};

use crate::simulated::Bench;

const TEXT: &str = "FROM base AS app\nARG VERSION=1\nENV MODE=fast\nCOPY a b /x/\nRUN say $VERSION\nRUN --mount=type=secret,id=key say done\n";

fn tagged(request: &mut BuildRequest) {
    request.tags = vec!["app".parse().unwrap()];
}

#[tokio::test]
async fn a_step_that_ran_says_which_input_changed() {
    let bench = Bench::new();
    bench.file("a", "1").file("b", "1");
    let first = bench.build_with(TEXT, tagged).await;
    assert_eq!(first.why()[&4], ["no earlier build of this name is known"]);
    assert!(bench.build_with(TEXT, tagged).await.why().is_empty());

    bench.file("b", "2");
    let file = bench.build_with(TEXT, tagged).await;
    assert_eq!(file.why()[&4], ["file b changed"]);
    assert_eq!(file.why()[&5], ["the result of a step before it changed"]);

    let arg = |request: &mut BuildRequest| {
        tagged(request);
        request.build_args.insert("VERSION".into(), Some("2".into()));
        request.secrets.insert("key".into(), b"s3cret".as_slice().into());
    };
    let argument = bench.build_with(TEXT, arg).await;
    assert_eq!(argument.why().len(), 2, "{:?}", argument.why());
    assert_eq!(argument.why()[&5], ["build arg VERSION changed"]);
    let secret = |request: &mut BuildRequest| {
        arg(request);
        request.secrets.insert("key".into(), b"another".as_slice().into());
    };
    assert!(bench.build_with(TEXT, secret).await.why().is_empty());

    let text = TEXT.replace("MODE=fast", "MODE=slow");
    assert_eq!(bench.build_with(&text, arg).await.why()[&5], ["variable MODE changed"]);
    let text = text.replace("say done", "say end");
    let changed = bench.build_with(&text, arg).await;
    let was = "the instruction changed, it was: RUN --mount=type=secret,id=key say done";
    assert_eq!(changed.why()[&6], [was]);

    let forced = |request: &mut BuildRequest| {
        arg(request);
        request.no_cache = true;
    };
    assert_eq!(bench.build_with(&text, forced).await.why()[&4], ["--no-cache was asked for"]);
}

#[tokio::test]
async fn another_name_has_another_history() {
    let bench = Bench::new();
    bench.build_with("FROM base\nRUN say 1\n", tagged).await.id();
    let other = |request: &mut BuildRequest| request.origin = "/home/me/app".into();
    let text = "FROM base\nRUN say 2\n";
    assert_eq!(bench.build_with(text, other).await.why()[&2], ["no earlier build of this name is known"]);
    let again = bench.build_with("FROM base\nRUN say 3\n", other).await;
    assert_eq!(again.why()[&2], ["the instruction changed, it was: RUN say 2"]);
}

#[tokio::test]
async fn a_program_is_told_where_each_step_is() {
    let bench = Bench::new();
    let outcome = bench.build("FROM base AS one\n\nRUN say hi\nRUN fail 7\n").await;
    let states: Vec<String> = outcome
        .steps
        .iter()
        .map(|event| match event {
            StepEvent::Started { number, total, stage, line, text } => {
                format!("{number}/{total} {stage}:{line} {text}")
            }
            StepEvent::Cached { number } => format!("{number} cached"),
            StepEvent::Missed { number, .. } => format!("{number} missed"),
            StepEvent::Done { number, .. } => format!("{number} done"),
            StepEvent::Failed { number, line, text, code, message } => {
                format!("{number} failed on {line} with {code:?} {text}: {message}")
            }
        })
        .collect();
    let expected = [
        "1/3 one:1 FROM base AS one",
        "1 done",
        "2/3 one:3 RUN say hi",
        "2 missed",
        "2 done",
        "3/3 one:4 RUN fail 7",
        "3 missed",
        "3 failed on 4 with Some(7) RUN fail 7: The command '/bin/sh -c fail 7' returned a non-zero code: 7",
    ];
    assert_eq!(states, expected);
    let document = serde_json::to_value(&outcome.steps[2]).unwrap();
    assert_eq!(document["state"], "started");
    assert_eq!(serde_json::from_value::<StepEvent>(document).unwrap(), outcome.steps[2]);
}
