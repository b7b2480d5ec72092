//! Commands in a running container.

use bytes::Bytes;
use cirro_container::{ContainerError, ExecProcess, Stdio};
use cirro_seams::node::Output;
use oci_spec::runtime::Process;
use serde_json::json;

use crate::cloud::{Cloud, changed_spec, collect, spec, within};

fn process(args: &[&str]) -> Process {
    spec(args).process().clone().expect("process")
}

fn request(args: &[&str], stdio: Stdio) -> ExecProcess {
    ExecProcess { process: process(args), stdio }
}

async fn exec(cloud: &Cloud, id: &str, args: &[&str]) -> Result<(String, String, i32), ContainerError> {
    let (_, session) = within(cloud.supervisor.exec(id, request(args, Stdio::default()))).await?;
    Ok(collect(session).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn output_and_exit_code_come_back() {
    let cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let script = "echo out; echo err >&2; cat /proc/1/cmdline; exit 9";
    let (stdout, stderr, code) = exec(&cloud, "home", &["sh", "-c", script]).await.expect("exec");
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("out\nsleep\u{0}1000\u{0}", "err\n", 9));
    let (stdout, _, code) = exec(&cloud, "home", &["seq", "1", "100000"]).await.expect("exec");
    assert_eq!((stdout.lines().count(), code), (100_000, 0));
    // It lives in the container's cgroups.
    let (stdout, _, _) = exec(&cloud, "home", &["cat", "/proc/self/cgroup"]).await.expect("exec");
    let own = format!("/{}/home", cloud.name);
    assert!(stdout.lines().all(|line| line.ends_with(&own)), "{stdout}");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_commands_are_told_apart() {
    let mut cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let error = exec(&cloud, "home", &["nonsense"]).await.expect_err("refused");
    assert_eq!(
        error,
        ContainerError::CommandNotFound("exec: \"nonsense\": executable file not found in $PATH".to_owned())
    );
    let error = exec(&cloud, "home", &["/etc/data"]).await.expect_err("refused");
    assert!(matches!(error, ContainerError::CommandNotExecutable(_)), "{error:?}");
    let error = exec(&cloud, "home", &["/etc/broken"]).await.expect_err("refused");
    assert!(matches!(error, ContainerError::CommandNotExecutable(_)), "{error:?}");
    assert!(matches!(exec(&cloud, "nobody", &["true"]).await, Err(ContainerError::NotFound(_))));
    within(cloud.supervisor.kill("home", 9, false)).await.expect("kill");
    cloud.exit("home").await;
    assert!(matches!(exec(&cloud, "home", &["true"]).await, Err(ContainerError::State(_))));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_reaches_the_command() {
    let cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let stdio = Stdio { stdin: true, ..Stdio::default() };
    let (_, mut session) =
        within(cloud.supervisor.exec("home", request(&["cat"], stdio))).await.expect("exec");
    let input = session.input.take().expect("input");
    input.send(Bytes::from_static(b"through\n")).await.expect("send");
    drop(input);
    assert_eq!(collect(session).await, ("through\n".to_owned(), String::new(), 0));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_works_for_a_command_too() {
    let cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let stdio = Stdio { tty: true, stdin: true, size: Some((80, 24)), ..Stdio::default() };
    let args = ["sh", "-c", "tty; stty size; read x; stty size; exit 6"];
    let (_, mut session) = within(cloud.supervisor.exec("home", request(&args, stdio))).await.expect("exec");
    let mut text = String::new();
    within(async {
        while !text.contains("24 80") {
            let Some(Output::Stdout(bytes)) = session.output.recv().await else {
                panic!("the terminal closed: {text}")
            };
            text.push_str(&String::from_utf8_lossy(&bytes));
        }
    })
    .await;
    session.resize.send((100, 50)).await.expect("resize");
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    session.input.as_ref().expect("input").send(Bytes::from_static(b"x\n")).await.expect("send");
    let (rest, _, code) = collect(session).await;
    text.push_str(&rest);
    assert!(text.contains("/dev/pts/") && text.contains("50 100"), "{text}");
    assert_eq!(code, 6);
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_who_it_should_be_and_under_the_same_filter() {
    let cloud = Cloud::start().await;
    let args = ["sleep", "1000"];
    let mut container = cloud.container("filtered", &args);
    container.spec = changed_spec(&args, |spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]
        });
    });
    cloud.start_container(container).await;
    let mut wanted = request(
        &["sh", "-c", "id; pwd; grep -E 'Seccomp:|CapEff|NoNewPrivs' /proc/self/status"],
        Stdio::default(),
    );
    wanted.process = serde_json::from_value(json!({
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [44]}, "cwd": "/tmp", "env": ["PATH=/bin"],
        "args": wanted.process.args(), "noNewPrivileges": true,
        "capabilities": {"bounding": ["CAP_KILL"], "effective": [], "permitted": []}
    }))
    .expect("process");
    let (_, session) = within(cloud.supervisor.exec("filtered", wanted)).await.expect("exec");
    let (stdout, stderr, code) = collect(session).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("uid=1000 gid=1001 groups=") && stdout.contains("44"), "{stdout}");
    assert!(
        stdout.contains("/tmp\n") && stdout.contains("Seccomp:\t2") && stdout.contains("NoNewPrivs:\t1"),
        "{stdout}"
    );
    assert!(stdout.contains("CapEff:\t0000000000000000"), "{stdout}");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_commands_at_once() {
    let cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let mut tasks = Vec::new();
    for number in 0..20 {
        let supervisor = cloud.supervisor.clone();
        tasks.push(tokio::spawn(async move {
            let script = format!("echo {number}; exit {number}");
            let (_, session) = supervisor
                .exec("home", request(&["sh", "-c", &script], Stdio::default()))
                .await
                .expect("exec");
            collect(session).await
        }));
    }
    for (number, task) in tasks.into_iter().enumerate() {
        assert_eq!(within(task).await.expect("task"), (format!("{number}\n"), String::new(), number as i32));
    }
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_its_container() {
    let cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let process = request(&["sleep", "1000"], Stdio::default());
    let (_, session) = within(cloud.supervisor.exec("home", process)).await.expect("exec");
    within(cloud.supervisor.delete("home", true)).await.expect("delete");
    assert_eq!(collect(session).await, (String::new(), String::new(), 137));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_session_does_not_end_the_command() {
    let cloud = Cloud::start().await;
    cloud.run("home", "exec sleep 1000").await;
    let script = "seq 1 100000; echo done > /tmp/done; exec sleep 1000";
    let (_, session) =
        within(cloud.supervisor.exec("home", request(&["sh", "-c", script], Stdio::default())))
            .await
            .expect("exec");
    drop(session);
    crate::cloud::until(|| cloud.path("home-upper/tmp/done").exists()).await;
    cloud.end().await;
}
