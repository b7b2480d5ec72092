//! Logs, attaching, stdin, terminals.

use bytes::Bytes;
use cirro_container::{LogFile, LogQuery, Stdio, read_log};
use cirro_seams::node::Output;

use crate::cloud::{Cloud, collect, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_lines_are_all_in_the_log() {
    let mut cloud = Cloud::start().await;
    cloud.run("lines", "seq 1 10000; echo end >&2").await;
    assert_eq!(cloud.exit("lines").await.code, Some(0));
    let lines = cloud.lines("lines").await;
    let numbers: String = lines.iter().filter(|(_, stderr)| !stderr).map(|(line, _)| line.as_str()).collect();
    assert_eq!(numbers, (1..=10_000).map(|number| format!("{number}\n")).collect::<String>());
    assert_eq!(lines.iter().filter(|(_, stderr)| *stderr).count(), 1);
    let file = std::fs::read_to_string(cloud.log("lines")).expect("log");
    assert!(file.starts_with("{\"log\":\"1\\n\",\"stream\":\"stdout\",\"time\":\"2"));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_a_rotated_log_to_its_end() {
    let mut cloud = Cloud::start().await;
    let mut request = cloud.container("rotate", &["sh", "-c", "sleep 0.2; seq 1 3000"]);
    request.log =
        Some(LogFile { path: cloud.log("rotate"), max_size: 40_000, max_files: 20, ..LogFile::default() });
    let (ended, is_ended) = tokio::sync::watch::channel(false);
    std::fs::create_dir_all(cloud.log("rotate").parent().expect("parent")).expect("directory");
    let mut follower =
        read_log(&cloud.log("rotate"), LogQuery { follow: true, ..LogQuery::default() }, is_ended);
    let reading = tokio::spawn(async move {
        let mut text = String::new();
        while let Some(entry) = follower.recv().await {
            text.push_str(std::str::from_utf8(&entry.line).expect("text"));
        }
        text
    });
    cloud.start_container(request).await;
    cloud.exit("rotate").await;
    ended.send(true).expect("follower");
    assert_eq!(
        within(reading).await.expect("reading"),
        (1..=3000).map(|number| format!("{number}\n")).collect::<String>()
    );
    assert!(cloud.log("rotate").with_extension("log.5").exists());
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rotated_files_are_compressed_and_read_as_if_they_were_not() {
    let mut cloud = Cloud::start().await;
    let log = cloud.log("packed");
    let script =
        "trap 'echo last; exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.001; done";
    let mut request = cloud.container("packed", &["sh", "-c", script]);
    request.log = Some(LogFile {
        path: log.clone(),
        max_size: 4_000,
        max_files: 5_000,
        compress: true,
        ..LogFile::default()
    });
    std::fs::create_dir_all(log.parent().expect("parent")).expect("directory");
    let (ended, is_ended) = tokio::sync::watch::channel(false);
    let follower = read_log(&log, LogQuery { follow: true, ..LogQuery::default() }, is_ended);
    let following = tokio::spawn(all_lines(follower));
    cloud.start_container(request).await;
    until(|| log.with_extension("log.4.gz").exists()).await;
    within(cloud.supervisor.kill("packed", 15, false)).await.expect("kill");
    assert_eq!(cloud.exit("packed").await.code, Some(0));
    ended.send(true).expect("follower");
    let followed = within(following).await.expect("follower");
    let count = followed.len() - 1;
    let expected: Vec<String> =
        (1..=count).map(|number| format!("line {number}\n")).chain(["last\n".to_owned()]).collect();
    assert_eq!(followed, expected);
    let (_ended, is_ended) = tokio::sync::watch::channel(true);
    let again = all_lines(read_log(&log, LogQuery::default(), is_ended.clone())).await;
    assert_eq!(again, expected);
    let tail = LogQuery { tail: Some(count as u64 - 1), ..LogQuery::default() };
    assert_eq!(all_lines(read_log(&log, tail, is_ended)).await, expected[2..]);
    // Nothing half-done is left once it has ended.
    let names = std::fs::read_dir(log.parent().expect("parent")).expect("directory").flatten();
    assert!(names.map(|entry| entry.file_name()).all(|name| !name.to_string_lossy().ends_with(".new")));
    cloud.end().await;
}

async fn all_lines(mut entries: tokio::sync::mpsc::Receiver<cirro_container::LogEntry>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(entry) = entries.recv().await {
        lines.push(String::from_utf8(entry.line.to_vec()).expect("text"));
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_before_the_start_everything_comes() {
    let cloud = Cloud::start().await;
    let request = cloud.container("watched", &["sh", "-c", "echo out; echo err >&2; seq 1 50000; exit 4"]);
    within(cloud.supervisor.create(request)).await.expect("create");
    let session = within(cloud.supervisor.attach("watched", false)).await.expect("attach");
    assert!(session.input.is_none());
    within(cloud.supervisor.start("watched")).await.expect("start");
    let (stdout, stderr, code) = collect(session).await;
    assert_eq!((stderr.as_str(), code), ("err\n", 4));
    assert_eq!(
        stdout,
        format!("out\n{}", (1..=50_000).map(|number| format!("{number}\n")).collect::<String>())
    );
    // One that comes too late gets the end and the code.
    let late = within(cloud.supervisor.attach("watched", false)).await.expect("attach");
    assert_eq!(collect(late).await, (String::new(), String::new(), 4));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_goes_through_and_its_end_with_it() {
    let cloud = Cloud::start().await;
    let mut request = cloud.container("cat", &["cat"]);
    request.stdio = Stdio { stdin: true, stdin_once: true, ..Stdio::default() };
    within(cloud.supervisor.create(request)).await.expect("create");
    let mut session = within(cloud.supervisor.attach("cat", true)).await.expect("attach");
    within(cloud.supervisor.start("cat")).await.expect("start");
    let input = session.input.take().expect("input");
    let sent: Vec<u8> =
        (0..2_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    let sending = tokio::spawn({
        let sent = Bytes::from(sent.clone());
        async move {
            for start in (0..sent.len()).step_by(100_000) {
                input.send(sent.slice(start..start + 100_000)).await.expect("send");
            }
        }
    });
    let mut got = Vec::new();
    within(async {
        while let Some(output) = session.output.recv().await {
            let Output::Stdout(bytes) = output else { panic!("stderr") };
            got.extend_from_slice(&bytes);
        }
    })
    .await;
    within(sending).await.expect("sending");
    assert!(got == sent, "{} of {} bytes came back as they were", got.len(), sent.len());
    assert_eq!(within(session.exit).await, Ok(0));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_stays_open_when_it_is_not_for_once() {
    let mut cloud = Cloud::start().await;
    let mut request = cloud.container("open", &["sh", "-c", "while read x; do echo got $x; done"]);
    request.stdio = Stdio { stdin: true, ..Stdio::default() };
    cloud.start_container(request).await;
    for word in ["one", "two"] {
        let session = within(cloud.supervisor.attach("open", true)).await.expect("attach");
        let text = Bytes::from(format!("{word}\n"));
        session.input.as_ref().expect("input").send(text).await.expect("send");
        let log = cloud.log("open");
        until(|| std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&format!("got {word}")))).await;
    }
    within(cloud.supervisor.kill("open", 9, false)).await.expect("kill");
    cloud.exit("open").await;
    assert_eq!(cloud.text("open").await, "got one\ngot two\n");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_a_size_and_echoes() {
    let cloud = Cloud::start().await;
    let script = "tty; stty size; read x; stty size; echo you said $x";
    let mut request = cloud.container("tty", &["sh", "-c", script]);
    request.stdio = Stdio { tty: true, stdin: true, size: Some((91, 37)), ..Stdio::default() };
    within(cloud.supervisor.create(request)).await.expect("create");
    let mut session = within(cloud.supervisor.attach("tty", true)).await.expect("attach");
    within(cloud.supervisor.start("tty")).await.expect("start");
    let mut text = String::new();
    within(async {
        while !text.contains("37 91") {
            let Some(Output::Stdout(bytes)) = session.output.recv().await else {
                panic!("the terminal closed: {text}")
            };
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    })
    .await;
    within(cloud.supervisor.resize("tty", 120, 40)).await.expect("resize");
    session.input.as_ref().expect("input").send(Bytes::from_static(b"hi\n")).await.expect("send");
    let (rest, _, code) = collect(session).await;
    text.push_str(&rest);
    assert!(text.contains("40 120") && text.contains("you said hi") && text.contains("hi\r\n"), "{text}");
    assert_eq!(code, 0);
    assert!(cloud.text("tty").await.contains("you said hi\r\n"));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_and_an_attacher_that_sleeps_stall_nobody_else() {
    let mut cloud = Cloud::start().await;
    let mut request = cloud.container("flood", &["yes"]);
    request.log =
        Some(LogFile { path: cloud.log("flood"), max_size: 100_000, max_files: 2, ..LogFile::default() });
    within(cloud.supervisor.create(request)).await.expect("create");
    let sleeper = within(cloud.supervisor.attach("flood", false)).await.expect("attach");
    within(cloud.supervisor.start("flood")).await.expect("start");
    cloud.run("quick", "echo quick").await;
    assert_eq!(cloud.exit("quick").await.code, Some(0));
    drop(sleeper);
    within(cloud.supervisor.delete("flood", true)).await.expect("delete");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_not_root_can_open_its_own_stdout() {
    let mut cloud = Cloud::start().await;
    let args = ["sh", "-c", "echo again > /dev/stdout"];
    let mut request = cloud.container("nobody", &args);
    request.spec = crate::cloud::changed_spec(&args, |spec| {
        spec["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    });
    cloud.start_container(request).await;
    cloud.exit("nobody").await;
    assert_eq!(cloud.text("nobody").await, "again\n");
    cloud.end().await;
}
