//! Options of containers, mounts and builds that only a whole cloud can show.

use std::path::Path;

use crate::cloud::Cloud;
use crate::commands::program;

#[test]
fn options_of_logs_mounts_and_builds_act_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    lines_carry_what_was_asked_for(&cloud);
    read_only_goes_all_the_way_down(&cloud);
    a_place_in_a_volume_is_mounted_and_no_link_leads_out(&cloud);
    a_step_of_a_build_is_held_to_its_limits(&cloud);
    a_prune_of_the_build_cache_leaves_images(&cloud);
    cloud.end();
}

fn busybox(cloud: &Cloud, options: &[&str], command: &[&str]) -> crate::commands::Said {
    let words = [&["run", "--rm", "--network", "none"][..], options, &["busybox"], command].concat();
    cloud.docker(&words)
}

fn lines_carry_what_was_asked_for(cloud: &Cloud) {
    let options = "--name tagged --network none --label tier=front -e MODE=a/b --log-opt labels=tier --log-opt env-regex=^MO \
                   --log-opt tag={{.Name}}";
    let words: Vec<&str> = ["run"].into_iter().chain(options.split_whitespace()).collect();
    cloud.docker(&[&words[..], &["busybox", "echo", "hi"]].concat()).ok();
    let details = cloud.docker(&["logs", "--details", "tagged"]).ok();
    assert_eq!(details, "MODE=a%2Fb,tag=tagged,tier=front hi\n");
    assert_eq!(cloud.docker(&["logs", "tagged"]).ok(), "hi\n");
    cloud.docker(&["rm", "tagged"]).ok();
}

/// A directory with another mount in it, which goes with it.
struct Nested(tempfile::TempDir);

impl Nested {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let inner = directory.path().join("inner");
        std::fs::create_dir(&inner).expect("a directory in it");
        let words = ["-t", "tmpfs", "-o", "size=64k", "cirro-test", inner.to_str().expect("a plain path")];
        program("mount", words).ok();
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        let _ = program("umount", ["-l", self.path().join("inner").to_str().unwrap_or_default()]);
    }
}

fn read_only_goes_all_the_way_down(cloud: &Cloud) {
    let nested = Nested::new();
    let path = nested.path().display();
    let touch = ["touch", "/a/inner/file"];
    let refused = busybox(cloud, &["-v", &format!("{path}:/a:ro")], &touch).fails();
    assert!(refused.contains("Read-only file system"), "{refused}");
    let writable = format!("type=bind,source={path},target=/a,readonly,bind-recursive=writable");
    busybox(cloud, &["--mount", &writable], &touch).ok();
    assert!(nested.path().join("inner/file").exists());
}

fn a_place_in_a_volume_is_mounted_and_no_link_leads_out(cloud: &Cloud) {
    let make = "mkdir -p /v/a/b && echo in > /v/a/b/file && ln -s / /v/out";
    busybox(cloud, &["-v", "place:/v"], &["sh", "-c", make]).ok();
    let at = |subpath: &str| format!("type=volume,source=place,target=/x,volume-subpath={subpath}");
    assert_eq!(busybox(cloud, &["--mount", &at("a/b")], &["cat", "/x/file"]).ok(), "in\n");
    // The host's root as the volume sees it is the volume itself.
    assert_eq!(busybox(cloud, &["--mount", &at("out")], &["ls", "/x"]).ok(), "a\nout\n");
    busybox(cloud, &["--mount", &at("absent")], &["true"]).fails();
    let refused = busybox(cloud, &["--mount", &at("../b")], &["true"]).fails();
    assert!(refused.contains("subpath must be a relative path within the volume"), "{refused}");
    let refused =
        busybox(cloud, &["--pull", "never", "--volume-driver", "nope", "-v", "place:/v"], &["true"]).fails();
    assert!(refused.contains("plugin \"nope\" not found"), "{refused}");
    cloud.docker(&["volume", "rm", "place"]).ok();
}

fn build(cloud: &Cloud, dockerfile: &str, options: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("Dockerfile"), dockerfile).expect("a Dockerfile");
    let path = directory.path().to_str().expect("a plain path");
    cloud.docker(&[&["build", "-q"][..], options, &[path]].concat()).ok().trim().to_owned()
}

fn a_step_of_a_build_is_held_to_its_limits(cloud: &Cloud) {
    let dockerfile = "FROM busybox\nRUN ulimit -n > /files && df -k /dev/shm | tail -n 1 > /shm\n";
    let options = ["--ulimit", "nofile=77:99", "--shm-size", "1m", "--memory", "64m", "--cpu-shares", "512"];
    let image = build(cloud, dockerfile, &options);
    let said = cloud.docker(&["run", "--rm", "--network", "none", &image, "cat", "/files", "/shm"]).ok();
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("77", "1024"), "{said}");
    cloud.docker(&["rmi", &image]).ok();
}

fn a_prune_of_the_build_cache_leaves_images(cloud: &Cloud) {
    let image = build(cloud, "FROM busybox\nRUN echo dangling > /here\n", &[]);
    cloud.docker(&["builder", "prune", "--force", "--all"]).ok();
    let said = cloud.docker(&["run", "--rm", "--network", "none", &image, "cat", "/here"]).ok();
    assert_eq!(said, "dangling\n");
    // The next whole second: the prune was in this one.
    let until = (std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs() + 1).to_string();
    let seen = cloud.docker(&["events", "--since", "0", "--until", &until, "--filter", "type=builder"]).ok();
    assert!(seen.contains("builder prune"), "{seen}");
    cloud.docker(&["rmi", &image]).ok();
}
