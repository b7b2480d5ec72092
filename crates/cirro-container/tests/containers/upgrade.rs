//! The supervisor becomes another executable while everything runs; what nobody waits for any more does not come to be.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use cirro_container::{ExecProcess, Stdio, Supervisor, SupervisorEvent, SupervisorOptions, WorkloadPhase};
use cirro_seams::node::Output;

use crate::cloud::{Cloud, collect, kill_9, spec, until, within};

const MANY: usize = 40;

fn options(cloud: &Cloud, executable: PathBuf) -> SupervisorOptions {
    SupervisorOptions { run_dir: cloud.run_dir(), name: cloud.name.clone(), executable }
}

/// The same program as another file, as a package's upgrade puts it there.
fn newer_executable(cloud: &Cloud) -> PathBuf {
    let copy = cloud.path("newer");
    std::fs::copy(env!("CARGO_BIN_EXE_cirro-container-test"), &copy).expect("copy");
    copy
}

fn runs(pid: i32, executable: &Path) -> bool {
    let identity =
        |path: &Path| std::fs::metadata(path).map(|file| (file.size(), file.mtime(), file.mtime_nsec()));
    identity(Path::new(&format!("/proc/{pid}/exe"))).expect("executable")
        == identity(executable).expect("file")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_under_load_interrupts_nothing() {
    let mut cloud = Cloud::start().await;
    let counting = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo line $n; sleep 0.005; done; exit";
    for number in 0..MANY {
        cloud.run(&format!("count{number}"), &format!("{counting} {number}")).await;
    }
    let mut request = cloud.container("tty", &["sh", "-c", "read x; echo tty got $x; exit 3"]);
    request.stdio = Stdio { tty: true, stdin: true, ..Stdio::default() };
    cloud.start_container(request).await;
    let mut tty = within(cloud.supervisor.attach("tty", true)).await.expect("attach");
    let mut request = cloud.container("pipe", &["cat"]);
    request.stdio = Stdio { stdin: true, stdin_once: true, ..Stdio::default() };
    cloud.start_container(request).await;
    let mut pipe = within(cloud.supervisor.attach("pipe", true)).await.expect("attach");
    let process = spec(&["sh", "-c", "echo before; sleep 1; echo after; exit 21"]).process().clone();
    let exec = ExecProcess { process: process.expect("process"), stdio: Stdio::default() };
    let (_, exec) = within(cloud.supervisor.exec("tty", exec)).await.expect("exec");
    let before = (cloud.supervisor_pid(), cloud.guardian_pid());

    // What is asked for at that moment waits a little, and is done.
    let (supervisor, meanwhile) = (cloud.supervisor.clone(), cloud.container("meanwhile", &["true"]));
    let meanwhile = tokio::spawn(async move {
        supervisor.create(meanwhile).await?;
        supervisor.start("meanwhile").await
    });
    let others = Askers::start(&cloud).await;
    let newer = newer_executable(&cloud);
    let second = within(Supervisor::connect(options(&cloud, newer.clone()))).await.expect("upgrade");
    others.end().await;
    assert_eq!((cloud.supervisor_pid(), cloud.guardian_pid()), before, "the processes are the same");
    assert!(runs(before.0, &newer), "the supervisor is the new executable");
    assert_eq!(second.list().await.expect("list").len(), MANY + 3);
    within(meanwhile).await.expect("task").expect("created and started");

    let feed = pipe.input.take().expect("input");
    for number in 0..100 {
        feed.send(Bytes::from(format!("fed {number}\n"))).await.expect("send");
    }
    drop(feed);
    let fed = collect(pipe).await;
    assert_eq!(fed, ((0..100).map(|number| format!("fed {number}\n")).collect(), String::new(), 0));
    assert_eq!(collect(exec).await, ("before\nafter\n".to_owned(), String::new(), 21));
    tty.input.take().expect("input").send(Bytes::from_static(b"t\n")).await.expect("send");
    let mut said = Vec::new();
    while let Some(Output::Stdout(bytes)) = within(tty.output.recv()).await {
        said.extend_from_slice(&bytes);
    }
    assert!(String::from_utf8_lossy(&said).contains("tty got t"));
    assert_eq!(within(tty.exit).await, Ok(3));
    let all: String = (1..=300).map(|number| format!("line {number}\n")).collect();
    for number in 0..MANY {
        let id = format!("count{number}");
        assert_eq!(cloud.exit(&id).await.code, Some(number as i32));
        assert_eq!(cloud.text(&id).await, all, "{id}");
    }
    while let Ok(event) = cloud.events.try_recv() {
        assert_ne!(event, SupervisorEvent::Reconnected, "the first daemon noticed");
    }

    // From now on the guardian starts the new one.
    kill_9(before.0);
    within(async { while second.list().await.is_err() {} }).await;
    assert_ne!(cloud.supervisor_pid(), before.0);
    assert!(runs(cloud.supervisor_pid(), &newer));
    drop(second);
    cloud.end().await;
}

/// Connections of their own that ask without end: at the moment of an upgrade some have just asked.
struct Askers {
    tasks: Vec<tokio::task::JoinHandle<Result<(), cirro_container::ContainerError>>>,
    enough: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Askers {
    async fn start(cloud: &Cloud) -> Self {
        let enough = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let mut tasks = Vec::new();
        for _ in 0..8 {
            let executable = PathBuf::from(env!("CARGO_BIN_EXE_cirro-container-test"));
            let asker = within(Supervisor::connect(options(cloud, executable))).await.expect("connect");
            let enough = enough.clone();
            tasks.push(tokio::spawn(async move {
                while !enough.load(std::sync::atomic::Ordering::Relaxed) {
                    asker.list().await?;
                }
                Ok(())
            }));
        }
        Self { tasks, enough }
    }

    async fn end(self) {
        self.enough.store(true, std::sync::atomic::Ordering::Relaxed);
        for task in self.tasks {
            within(task).await.expect("task").expect("every list is answered");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executable_that_does_not_work_changes_nothing() {
    let mut cloud = Cloud::start().await;
    let state = cloud.run("stays", "echo here; exec sleep 1000").await;
    let supervisor = cloud.supervisor_pid();
    // Not a program at all: the kernel refuses it.
    let text = cloud.path("text");
    std::fs::write(&text, "no program").expect("write");
    let second = within(Supervisor::connect(options(&cloud, text))).await.expect("connect");
    assert_eq!(cloud.supervisor_pid(), supervisor);
    assert_eq!(second.list().await.expect("list").len(), 1);
    // One that ends at once: the guardian starts the old one again.
    let wrong = cloud.path("wrong");
    std::fs::copy("/bin/busybox", &wrong).expect("copy");
    let third = within(Supervisor::connect(options(&cloud, wrong))).await.expect("connect");
    assert_eq!(third.list().await.expect("list")[0].pid, state.pid);
    assert!(runs(cloud.supervisor_pid(), Path::new(env!("CARGO_BIN_EXE_cirro-container-test"))));
    assert_eq!(cloud.state("stays").await.phase, WorkloadPhase::Running);
    within(cloud.supervisor.kill("stays", 9, false)).await.expect("kill");
    assert_eq!(cloud.exit("stays").await.code, Some(137));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_daemon_asked_for_does_not_come_to_be() {
    let cloud = Cloud::start().await;
    let executable = PathBuf::from(env!("CARGO_BIN_EXE_cirro-container-test"));
    for round in 0..5 {
        let doomed = within(Supervisor::connect(options(&cloud, executable.clone()))).await.expect("connect");
        let creates: Vec<_> = (0..8)
            .map(|number| {
                let (doomed, request) = (doomed.clone(), cloud.container(&format!("n{number}"), &["true"]));
                tokio::spawn(async move { doomed.create(request).await.map(drop) })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(4 + 9 * round)).await;
        creates.iter().for_each(tokio::task::JoinHandle::abort);
        let made = futures(creates).await;
        drop(doomed);
        // Those whose making was told are there; a successor finds them by the list. No other one ever comes.
        within(async {
            loop {
                let listed = cloud.supervisor.list().await.expect("list");
                for state in &listed {
                    let _ = cloud.supervisor.delete(&state.id, true).await;
                }
                if listed.len() <= made && cloud.supervisor.list().await.expect("list").is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        until(|| cloud.cgroups().iter().all(|group| !has_workloads(group))).await;
    }
    // Their names are free.
    for number in 0..8 {
        let request = cloud.container(&format!("n{number}"), &["true"]);
        within(cloud.supervisor.create(request)).await.expect("create");
    }
    cloud.end().await;
}

/// Waits for all; returns how many were answered.
async fn futures(
    creates: Vec<tokio::task::JoinHandle<Result<(), cirro_container::ContainerError>>>,
) -> usize {
    let mut made = 0;
    for create in creates {
        made += usize::from(matches!(create.await, Ok(Ok(()))));
    }
    made
}

fn has_workloads(group: &Path) -> bool {
    let entries = std::fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).any(|entry| entry.file_name() != "supervisor")
}
