//! The doctor finds and mends what is wrong; a newer executable takes over everything that runs.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::cloud::Cloud;
use crate::commands::{program, run, wait_for};

/// Kinds of the faults that the doctor finds.
fn kinds(cloud: &Cloud) -> Vec<String> {
    let said = run(&mut cloud.cirro(&["doctor", "--output", "json"]));
    let faults: Vec<serde_json::Value> = serde_json::from_str(&said.stdout).expect("a list");
    assert_eq!(said.code == 0, faults.is_empty(), "{}", said.stdout);
    assert!(
        faults.iter().all(|fault| fault["mend"].as_str().is_some_and(|mend| !mend.is_empty())),
        "{faults:?}"
    );
    let mut kinds: Vec<String> =
        faults.iter().map(|fault| fault["kind"].as_str().expect("a kind").to_owned()).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// A version 1 hierarchy with a controller, or the unified one.
fn hierarchy() -> &'static str {
    if Path::new("/sys/fs/cgroup/memory").is_dir() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" }
}

fn identity(path: &str) -> (u64, i64, i64) {
    let file = std::fs::metadata(path).expect("an executable");
    (file.size(), file.mtime(), file.mtime_nsec())
}

#[test]
fn the_doctor_mends_and_an_upgrade_interrupts_nothing_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    let counting = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done";
    cloud.docker(&["run", "-d", "--name", "counting", "busybox", "sh", "-c", counting]).ok();
    assert_eq!(kinds(&cloud), Vec::<String>::new());

    let stray = "ab".repeat(32);
    std::fs::create_dir(format!("{}/{}/{stray}", hierarchy(), cloud.name)).expect("a cgroup");
    std::fs::create_dir(cloud.data_dir().join("containers").join(&stray)).expect("a directory");
    program("ip", ["link", "add", &format!("{}-stray", cloud.name), "type", "bridge"]).ok();
    let rules =
        ["add", "set", "inet", &cloud.name, "stray", "{ type ipv4_addr; elements = { 198.51.100.7 }; }"];
    program("nft", rules).ok();
    // What is done to the cloud's own table is undone by the daemon itself.
    let table = ["list", "table", "inet", &cloud.name];
    wait_for("the table as it was", std::time::Duration::from_secs(60), || {
        (!program("nft", table).ok().contains("stray")).then_some(())
    });
    assert_eq!(kinds(&cloud), ["cgroup", "link", "root"]);
    run(&mut cloud.cirro(&["doctor", "--fix"])).ok();
    assert_eq!(kinds(&cloud), Vec::<String>::new());

    let inspect = || cloud.docker(&["inspect", "-f", "{{.State.Pid}} {{.State.Running}}", "counting"]).ok();
    let (before, supervisor) = (inspect(), cloud.role_pid("supervisor"));
    run(&mut cloud.cirro(&["down"])).ok();
    let newer = cloud.directory.path().join("cirro");
    std::fs::copy(env!("CARGO_BIN_EXE_cirro"), &newer).expect("a copy");
    let old = cloud.up_command();
    run(std::process::Command::new(&newer).args(old.get_args())).ok();
    assert_eq!(cloud.role_pid("supervisor"), supervisor, "the same process");
    assert_eq!(
        identity(&format!("/proc/{supervisor}/exe")),
        identity(newer.to_str().expect("a plain path")),
        "another executable"
    );
    assert_eq!(inspect(), before);
    let lines = |cloud: &Cloud| cloud.docker(&["logs", "counting"]).ok().lines().count();
    let seen = lines(&cloud);
    wait_for("more lines", std::time::Duration::from_secs(60), || (lines(&cloud) > seen).then_some(()));
    let log = cloud.docker(&["logs", "counting"]).ok();
    for (number, line) in log.lines().enumerate() {
        assert_eq!(line, format!("line {}", number + 1));
    }
    assert_eq!(kinds(&cloud), Vec::<String>::new());
    cloud.end();
}
