//! What happens when parts of us are killed.

use std::process::Stdio as ProcessStdio;
use std::time::Duration;

use bytes::Bytes;
use cirro_container::{ExecProcess, Stdio, Supervisor, SupervisorEvent, WorkloadPhase};
use cirro_seams::node::Output;
use tokio::io::AsyncBufReadExt;

use crate::cloud::{Cloud, collect, find_process, is_alive, kill_9, spec, until, within};

async fn reconnected(cloud: &mut Cloud) {
    let wait = async { while cloud.events.recv().await.expect("event") != SupervisorEvent::Reconnected {} };
    within(wait).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_changes_nothing() {
    let mut cloud = Cloud::start().await;
    let state = cloud.run("worker", "seq 1 100; exec sleep 1000").await;
    let mut client = tokio::process::Command::new(env!("CARGO_BIN_EXE_cirro-container-test"))
        .arg("client")
        .arg(cloud.run_dir())
        .arg(&cloud.name)
        .stderr(ProcessStdio::piped())
        .spawn()
        .expect("client");
    let mut lines = tokio::io::BufReader::new(client.stderr.take().expect("stderr")).lines();
    assert_eq!(within(lines.next_line()).await.expect("line").as_deref(), Some("connected 1"));
    client.kill().await.expect("kill");
    assert_eq!(cloud.state("worker").await.pid, state.pid);
    // Another daemon finds it.
    let options = cirro_container::SupervisorOptions {
        run_dir: cloud.run_dir(),
        name: cloud.name.clone(),
        executable: "/nonexistent: it is not needed".into(),
    };
    let second = within(Supervisor::connect(options)).await.expect("connect");
    assert_eq!(second.list().await.expect("list")[0].phase, WorkloadPhase::Running);
    within(second.kill("worker", 9, false)).await.expect("kill");
    assert_eq!(cloud.exit("worker").await.code, Some(137));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_supervisor_loses_no_line_and_no_exit_code() {
    let mut cloud = Cloud::start().await;
    let counting = "n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo line $n; sleep 0.005; done; exit 11";
    cloud.run("counting", counting).await;
    cloud.run("quiet", "exec sleep 1000").await;
    cloud.run("short", "sleep 0.3; echo last words; exit 5").await;
    within(cloud.supervisor.create(cloud.container("made", &["sh", "-c", "echo late; exit 8"])))
        .await
        .expect("create");
    cloud.run("over", "exit 2").await;
    cloud.exit("over").await;
    let log = cloud.log("counting");
    until(|| std::fs::metadata(&log).is_ok_and(|data| data.len() > 2000)).await;
    let first = cloud.supervisor_pid();
    kill_9(first);
    reconnected(&mut cloud).await;
    assert_ne!(cloud.supervisor_pid(), first);
    assert_eq!(cloud.state("quiet").await.phase, WorkloadPhase::Running);
    assert_eq!(cloud.exit("over").await.code, Some(2));
    // A made container starts under the new one.
    within(cloud.supervisor.start("made")).await.expect("start");
    assert_eq!(cloud.exit("made").await.code, Some(8));
    assert_eq!(cloud.text("made").await, "late\n");
    assert_eq!(cloud.exit("short").await.code, Some(5));
    assert_eq!(cloud.text("short").await, "last words\n");
    assert_eq!(cloud.exit("counting").await.code, Some(11));
    assert_eq!(
        cloud.text("counting").await,
        (1..=400).map(|number| format!("line {number}\n")).collect::<String>()
    );
    within(cloud.supervisor.kill("quiet", 15, true)).await.expect("kill");
    within(cloud.supervisor.kill("quiet", 9, false)).await.expect("kill");
    assert_eq!(cloud.exit("quiet").await.code, Some(137));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_while_no_supervisor_lives_are_known() {
    let mut cloud = Cloud::start().await;
    let state = cloud.run("brief", "sleep 0.3; echo gone; exit 42").await;
    // Stopped, the guardian starts no other one meanwhile.
    let guardian = cloud.guardian_pid();
    let signal = |name: &str| {
        let status =
            std::process::Command::new("kill").args([name, &guardian.to_string()]).status().expect("kill");
        assert!(status.success());
    };
    signal("-STOP");
    kill_9(cloud.supervisor_pid());
    until(|| !is_alive(state.pid.expect("pid"))).await;
    signal("-CONT");
    assert_eq!(cloud.exit("brief").await.code, Some(42));
    assert_eq!(cloud.text("brief").await, "gone\n");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn terminal_stdin_and_exec_survive_the_supervisor() {
    let mut cloud = Cloud::start().await;
    let mut request = cloud.container("tty", &["sh", "-c", "read x; echo tty got $x; exit 3"]);
    request.stdio = Stdio { tty: true, stdin: true, ..Stdio::default() };
    cloud.start_container(request).await;
    let mut request = cloud.container("pipe", &["sh", "-c", "read x; echo pipe got $x; exit 4"]);
    request.stdio = Stdio { stdin: true, ..Stdio::default() };
    cloud.start_container(request).await;
    let script = "echo before; sleep 0.5; echo after; exit 21";
    let process = spec(&["sh", "-c", script]).process().clone().expect("process");
    let exec = ExecProcess { process, stdio: Stdio::default() };
    let (_, session) = within(cloud.supervisor.exec("tty", exec)).await.expect("exec");
    // Attached before, the session goes on with the successor.
    let mut old = within(cloud.supervisor.attach("tty", true)).await.expect("attach");
    kill_9(cloud.supervisor_pid());
    reconnected(&mut cloud).await;
    assert_eq!(collect(session).await, ("before\nafter\n".to_owned(), String::new(), 21));
    let pipe = within(cloud.supervisor.attach("pipe", true)).await.expect("attach");
    pipe.input.as_ref().expect("input").send(Bytes::from_static(b"p\n")).await.expect("send");
    assert_eq!(cloud.exit("pipe").await.code, Some(4));
    assert_eq!(cloud.text("pipe").await, "pipe got p\n");
    old.input.as_ref().expect("input").send(Bytes::from_static(b"t\n")).await.expect("send");
    let mut text = String::new();
    within(async {
        while let Some(output) = old.output.recv().await {
            let (Output::Stdout(bytes) | Output::Stderr(bytes)) = output;
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    })
    .await;
    assert!(text.contains("tty got t"), "{text}");
    assert_eq!(within(old.exit).await, Ok(3));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_killed_while_it_makes_things_leaves_nothing_half_made() {
    let mut cloud = Cloud::start().await;
    for round in 0..6 {
        let mut tasks = Vec::new();
        for number in 0..8 {
            let (supervisor, id) = (cloud.supervisor.clone(), format!("r{round}n{number}"));
            let request = cloud.container(&id, &["sleep", "1000"]);
            tasks.push(tokio::spawn(async move { supervisor.create(request).await.is_ok() }));
        }
        tokio::time::sleep(Duration::from_millis(3 + 7 * round)).await;
        kill_9(cloud.supervisor_pid());
        for task in tasks {
            let _ = within(task).await.expect("task");
        }
        reconnected(&mut cloud).await;
        // What is listed is whole; what is not listed is not there.
        let listed: Vec<String> =
            cloud.supervisor.list().await.expect("list").into_iter().map(|state| state.id).collect();
        for id in &listed {
            within(cloud.supervisor.start(id)).await.expect("start");
            within(cloud.supervisor.delete(id, true)).await.expect("delete");
        }
        until(|| {
            cloud
                .cgroups()
                .iter()
                .all(|group| children(group) == ["supervisor"] || children(group).is_empty())
        })
        .await;
    }
    cloud.end().await;
}

fn children(group: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_daemons_at_once_get_one_supervisor() {
    let cloud = Cloud::start().await;
    let run_dir = cloud.path("elsewhere");
    let name = format!("{}-b", cloud.name);
    let connect = || {
        let executable = env!("CARGO_BIN_EXE_cirro-container-test").into();
        Supervisor::connect(cirro_container::SupervisorOptions {
            run_dir: run_dir.clone(),
            name: name.clone(),
            executable,
        })
    };
    let (a, b, c) = within(async { tokio::join!(connect(), connect(), connect()) }).await;
    let all = [a.expect("a"), b.expect("b"), c.expect("c")];
    for one in &all {
        assert_eq!(one.list().await.expect("list"), []);
    }
    assert!(find_process("supervisor", &run_dir).is_some());
    within(all[0].shut_down()).await.expect("shut down");
    assert_eq!(find_process("", &run_dir), None);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_executable_that_containers_could_reach_cannot_be_written() {
    let cloud = Cloud::start().await;
    // Read-only (30); while it runs the kernel says that first (26).
    let refused = |path: &str| {
        let error = std::fs::OpenOptions::new().write(true).open(path).expect_err("refused");
        assert!(matches!(error.raw_os_error(), Some(26 | 30)), "{error}");
    };
    let mut kept = Vec::new();
    for pid in [cloud.supervisor_pid(), cloud.guardian_pid()] {
        let path = format!("/proc/{pid}/exe");
        refused(&path);
        kept.push(std::fs::File::open(path).expect("readable"));
    }
    cloud.end().await;
    // As CVE-2019-5736 did: keep it, and write when nobody runs it any more.
    for file in kept {
        refused(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file)));
    }
}
