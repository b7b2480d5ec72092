//! Plain processes, as QEMU is one.

use std::io::{Read, Write};

use cirro_container::{ContainerError, CreateProcess, LogFile};

use crate::cloud::{Cloud, within};

fn process(cloud: &Cloud, id: &str, script: &str) -> CreateProcess {
    CreateProcess {
        id: id.to_owned(),
        args: ["/bin/busybox", "sh", "-c", script].map(str::to_owned).to_vec(),
        env: vec!["GREETING=hello".to_owned()],
        fd_numbers: Vec::new(),
        netns: None,
        log: Some(LogFile { path: cloud.log(id), max_size: 0, max_files: 1, ..LogFile::default() }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn descriptors_get_their_numbers_and_output_is_kept() {
    let mut cloud = Cloud::start().await;
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let (other, mut feeder) = std::io::pipe().expect("pipe");
    let mut request =
        process(&cloud, "qemu", "read x <&4; echo $GREETING $x >&9; ls -l /proc/self/fd >&2; exit 3");
    request.fd_numbers = vec![9, 4];
    let state =
        within(cloud.supervisor.spawn(request, vec![writer.into(), other.into()])).await.expect("spawn");
    assert!(state.pid.is_some());
    feeder.write_all(b"world\n").expect("write");
    drop(feeder);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello world\n");
    assert_eq!(cloud.exit("qemu").await.code, Some(3));
    // Nothing of ours leaked (3 is the directory that ls itself reads).
    let kept = cloud.text("qemu").await;
    let numbers: Vec<&str> =
        kept.lines().filter_map(|line| line.split_once(" -> ")?.0.rsplit(' ').next()).collect();
    assert_eq!(numbers, ["0", "1", "2", "4", "9"], "{kept}");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_has_a_session_and_cgroups_and_dies_by_force() {
    let cloud = Cloud::start().await;
    let script = "busybox sleep 1000 & exec /bin/busybox sleep 1000";
    let state =
        within(cloud.supervisor.spawn(process(&cloud, "vm", script), Vec::new())).await.expect("spawn");
    let pid = state.pid.expect("pid");
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("cgroup");
    assert!(groups.lines().all(|line| line.ends_with(&format!("/{}/vm", cloud.name))), "{groups}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("stat").1.split(' ').collect();
    assert_eq!((fields[2], fields[3]), (&*pid.to_string(), &*pid.to_string()), "own group and session");
    within(cloud.supervisor.delete("vm", true)).await.expect("delete");
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_live_in_another_network() {
    let mut cloud = Cloud::start().await;
    let home = cloud.run("home", "exec sleep 1000").await.pid.expect("pid");
    let mut request =
        process(&cloud, "vm", "for n in net mnt; do /bin/busybox readlink /proc/self/ns/$n; done");
    request.netns = Some(format!("/proc/{home}/ns/net").into());
    within(cloud.supervisor.spawn(request, Vec::new())).await.expect("spawn");
    cloud.exit("vm").await;
    let link =
        |pid: &str, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespace");
    let (network, mounts) = (link(&home.to_string(), "net"), link("self", "mnt"));
    assert_ne!(network, link("self", "net"));
    assert_eq!(cloud.text("vm").await, format!("{}\n{}\n", network.display(), mounts.display()));
    cloud.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_and_mismatched_descriptors_are_refused() {
    let cloud = Cloud::start().await;
    let mut request = process(&cloud, "none", "");
    request.args = vec!["/nonexistent/qemu".to_owned()];
    let error = within(cloud.supervisor.spawn(request, Vec::new())).await.expect_err("refused");
    assert!(matches!(error, ContainerError::CommandNotFound(_)), "{error:?}");
    let mut request = process(&cloud, "none", "");
    request.fd_numbers = vec![5];
    let error = within(cloud.supervisor.spawn(request, Vec::new())).await.expect_err("refused");
    assert!(matches!(error, ContainerError::State(_)), "{error:?}");
    assert_eq!(cloud.supervisor.list().await.expect("list"), []);
    cloud.end().await;
}
