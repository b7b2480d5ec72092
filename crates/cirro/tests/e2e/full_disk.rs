//! A data directory on a small disk that a container, a log, a build, an archive and the host fill.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cloud::{Cloud, base_image};
use crate::commands::{program, run, wait_for};

const PATIENCE: Duration = Duration::from_secs(90);
/// Writes 4 MiB at a time.
const FILL: &str =
    "n=0; while :; do dd if=/dev/zero of=/fill$n bs=1M count=4 2>/dev/null; n=$((n+1)); sleep 0.1; done";

/// A file with a file system, mounted.
struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let image = directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(200 << 20)).expect("an image");
        let path = image.to_str().expect("a plain path");
        program("mkfs.ext4", ["-q", "-F", path]).ok();
        let disk = Self { directory };
        std::fs::create_dir(disk.path()).expect("a directory");
        program("mount", ["-o", "loop", path, disk.path().to_str().expect("a plain path")]).ok();
        disk
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    /// Takes all the space that is left, as another program of the host would.
    fn fill(&self, name: &str) {
        let path = self.path().join(name);
        let said = program("dd", ["if=/dev/zero", &format!("of={}", path.display()), "bs=64k"]);
        assert!(said.fails().contains("No space left"));
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path().join(name)).expect("the file");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may be taken off already; a cloud that could not be ended holds it.
        run(std::process::Command::new("umount").args(["-l"]).arg(self.path()));
    }
}

#[test]
fn a_full_disk_harms_nobody_but_who_fills_it_as_root() {
    let disk = Disk::new();
    let mut cloud = Cloud::prepare();
    cloud.data = disk.path().join("data");
    std::fs::create_dir(&cloud.data).expect("a directory");
    cloud.start();
    cloud.load("busybox");
    let counting = "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.2; done";
    cloud.docker(&["run", "-d", "--name", "quiet", "busybox", "sh", "-c", counting]).ok();
    wait_for("the reserved file", PATIENCE, || reserve(&cloud).exists().then_some(()));

    sizes_need_quotas(&cloud);
    a_container_fills(&cloud);
    a_log_fills(&cloud);
    a_build_fills(&cloud);
    an_archive_does_not_fit(&cloud);
    the_host_fills(&cloud, &disk);

    assert_eq!(state(&cloud, "quiet", "{{.State.Running}} {{.RestartCount}}"), "true 0");
    let log = cloud.docker(&["logs", "quiet"]).ok();
    // Lines that came while nothing could be written are missing; what is there is whole.
    let number = |line: &str| line.strip_prefix("line ").and_then(|number| number.parse::<u64>().ok());
    let numbers: Option<Vec<u64>> = log.lines().map(number).collect();
    assert!(numbers.is_some_and(|numbers| numbers.is_sorted() && numbers[0] == 1), "{log}");
    run(&mut cloud.cirro(&["down"])).ok();
    cloud.start();
    assert_eq!(state(&cloud, "quiet", "{{.State.Running}}"), "true");
    run(&mut cloud.cirro(&["doctor"])).ok();
    cloud.end();
    program("umount", [disk.path()]).ok();
    program("fsck.ext4", ["-fn", disk.directory.path().join("image").to_str().expect("a plain path")]).ok();
}

fn reserve(cloud: &Cloud) -> PathBuf {
    cloud.data_dir().join("reserve")
}

fn state(cloud: &Cloud, container: &str, format: &str) -> String {
    cloud.docker(&["inspect", "-f", format, container]).ok().trim().to_owned()
}

/// Reads answer, whatever the disk is like.
fn reads_go_on(cloud: &Cloud) {
    assert!(cloud.docker(&["ps", "-a"]).ok().contains("quiet"));
    assert!(cloud.docker(&["images"]).ok().contains("busybox"));
    assert!(cloud.docker(&["logs", "--tail", "1", "quiet"]).ok().starts_with("line "));
    assert_eq!(cloud.docker(&["exec", "quiet", "echo", "here"]).ok(), "here\n");
    assert_eq!(state(cloud, "quiet", "{{.State.Running}}"), "true");
}

/// Everything works, and the doctor finds nothing.
fn all_is_well(cloud: &Cloud) {
    wait_for("the doctor to be content", PATIENCE, || {
        (run(&mut cloud.cirro(&["doctor"])).code == 0).then_some(())
    });
    assert_eq!(cloud.docker(&["run", "--rm", "busybox", "echo", "fine"]).ok(), "fine\n");
    cloud.load("busybox");
    wait_for("the reserved file", PATIENCE, || reserve(cloud).exists().then_some(()));
}

fn sizes_need_quotas(cloud: &Cloud) {
    let refused = cloud.docker(&["create", "--storage-opt", "size=10m", "busybox", "true"]).fails();
    assert!(
        refused.contains("--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
        "{refused}"
    );
    let refused = cloud.docker(&["create", "--storage-opt", "inodes=5", "busybox", "true"]).fails();
    assert!(refused.contains("Unknown option inodes"), "{refused}");
}

fn a_container_fills(cloud: &Cloud) {
    cloud.docker(&["run", "-d", "--restart", "always", "--name", "filler", "busybox", "sh", "-c", FILL]).ok();
    stopped(cloud, "filler");
    let doctor = run(&mut cloud.cirro(&["doctor"])).stdout;
    assert!(doctor.contains("the disk is nearly full"), "{doctor}");
    let filters = ["events", "--since", "1h", "--until", "0s", "--filter", "event=disk_full"];
    // `--until` is cut to whole seconds.
    wait_for("the event", PATIENCE, || {
        let events = cloud.docker(&filters).ok();
        (events.contains("filler") && events.contains("wrote most")).then_some(())
    });
    reads_go_on(cloud);
    cloud.docker(&["rm", "-f", "filler"]).ok();
    all_is_well(cloud);
}

/// Waits until a container was stopped for what it wrote, and stays so.
fn stopped(cloud: &Cloud, container: &str) {
    wait_for("its end", PATIENCE, || {
        (state(cloud, container, "{{.State.Status}}") == "exited").then_some(())
    });
    let error = state(cloud, container, "{{.State.Error}} {{.State.ExitCode}}");
    assert!(error.contains("and this container wrote most") && error.ends_with(" 137"), "{error}");
}

fn a_log_fills(cloud: &Cloud) {
    let say = "while :; do head -c 300000 /dev/zero | tr '\\0' x | fold -w 1000; sleep 0.02; done";
    let options = ["run", "-d", "--name", "talker", "--log-opt", "max-size=-1", "busybox", "sh", "-c", say];
    cloud.docker(&options).ok();
    stopped(cloud, "talker");
    reads_go_on(cloud);
    assert!(cloud.docker(&["logs", "--tail", "2", "talker"]).ok().starts_with("xxx"));
    cloud.docker(&["rm", "talker"]).ok();
    all_is_well(cloud);
}

fn a_build_fills(cloud: &Cloud) {
    let dockerfile = format!("FROM busybox\nRUN {FILL}\n");
    let mut build = cloud.docker_command(&["build", "-t", "large", "-"]);
    build.env("DOCKER_BUILDKIT", "0");
    let said = crate::commands::run_with_input(&mut build, dockerfile.as_bytes());
    let text = said.fails();
    assert!(text.contains("the disk is nearly full") || text.contains("No space left"), "{text}");
    reads_go_on(cloud);
    all_is_well(cloud);
    assert!(!cloud.docker(&["images"]).ok().contains("large"));
}

fn an_archive_does_not_fit(cloud: &Cloud) {
    let before = entries(cloud);
    let archive = base_image("node");
    let said = cloud.docker(&["load", "-i", archive.to_str().expect("a plain path")]);
    let text = said.fails();
    assert!(text.to_lowercase().contains("no space left on device"), "{text}");
    reads_go_on(cloud);
    all_is_well(cloud);
    assert_eq!(entries(cloud), before, "nothing is left of it");
}

/// Layers and half-done work.
fn entries(cloud: &Cloud) -> Vec<PathBuf> {
    let list = |name: &str| std::fs::read_dir(cloud.data_dir().join(name)).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        ["layers", "blobs", "temporary"].into_iter().flat_map(list).map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn the_host_fills(cloud: &Cloud, disk: &Disk) {
    disk.fill("host");
    wait_for("the reserved file to be given up", PATIENCE, || (!reserve(cloud).exists()).then_some(()));
    reads_go_on(cloud);
    // The daemon lives on what was reserved.
    cloud.docker(&["volume", "create", "small"]).ok();
    cloud.docker(&["create", "--name", "made", "busybox", "true"]).ok();
    disk.fill("host2");
    let full = cloud.docker_with_input(&["cp", "-", "quiet:/tmp"], &large_tar(disk.directory.path())).fails();
    assert!(full.to_lowercase().contains("no space left on device"), "{full}");
    reads_go_on(cloud);
    disk.remove("host");
    disk.remove("host2");
    all_is_well(cloud);
    assert_eq!(cloud.docker(&["start", "-a", "made"]).ok(), "");
    cloud.docker(&["rm", "made"]).ok();
    cloud.docker(&["volume", "rm", "small"]).ok();
}

fn large_tar(directory: &Path) -> Vec<u8> {
    let file = directory.join("large");
    std::fs::write(&file, vec![7; 8 << 20]).expect("a file");
    program(
        "tar",
        ["-C", &directory.to_string_lossy(), "-cf", &directory.join("tar").to_string_lossy(), "large"],
    )
    .ok();
    std::fs::read(directory.join("tar")).expect("a tar")
}
