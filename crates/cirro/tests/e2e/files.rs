//! Files and disk space with the docker CLI: cp, diff, export, commit, sizes, volumes, prunes, and `cirro df`.

use std::fs;
use std::time::Duration;

use crate::cloud::Cloud;
use crate::commands::{run, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn files_and_disk_space_as_root() {
    let mut cloud = Cloud::up();
    cloud.load("busybox");
    copies(&cloud);
    images_of_containers(&cloud);
    volumes(&cloud);
    space(&cloud);
    cloud.end();
}

fn copies(cloud: &Cloud) {
    let here = cloud.directory.path().join("here");
    fs::create_dir_all(here.join("dir/sub")).unwrap();
    fs::write(here.join("file"), "from the host").unwrap();
    fs::write(here.join("dir/sub/deep"), "deep").unwrap();
    let path = |name: &str| here.join(name).to_str().expect("a plain path").to_owned();
    cloud.docker(&["run", "-d", "--name", "box", "-v", "store:/store:ro", "busybox", "sleep", "1000"]).ok();
    cloud.docker(&["cp", &path("file"), "box:/tmp/renamed"]).ok();
    cloud.docker(&["cp", &path("dir"), "box:/tmp"]).ok();
    cloud.docker(&["cp", &path("dir/."), "box:/tmp/flat"]).ok();
    let script = "cat /tmp/renamed /tmp/dir/sub/deep /tmp/flat/sub/deep";
    assert_eq!(cloud.docker(&["exec", "box", "sh", "-c", script]).ok(), "from the hostdeepdeep");
    cloud.docker(&["cp", "box:/tmp/dir", &path("back")]).ok();
    assert_eq!(fs::read_to_string(here.join("back/sub/deep")).unwrap(), "deep");
    cloud.docker(&["exec", "box", "ln", "-s", "/tmp/renamed", "/tmp/link"]).ok();
    cloud.docker(&["cp", "-L", "box:/tmp/link", &path("followed")]).ok();
    assert_eq!(fs::read_to_string(here.join("followed")).unwrap(), "from the host");
    let tar = cloud.docker(&["cp", "box:/tmp/dir/sub", "-"]).ok();
    cloud.docker_with_input(&["cp", "-", "box:/var"], tar.as_bytes()).ok();
    assert_eq!(cloud.docker(&["exec", "box", "cat", "/var/sub/deep"]).ok(), "deep");
    for (target, text) in [
        ("box:/store/x", "mounted volume is marked read-only"),
        ("box:/none/x", "Could not find the file /none in container box"),
    ] {
        let refused = cloud.docker(&["cp", &path("file"), target]);
        assert!(refused.code != 0 && refused.stderr.contains(text), "{}", refused.stderr);
    }
    let diff = cloud.docker(&["diff", "box"]).ok();
    for line in ["C /tmp", "A /tmp/renamed", "A /tmp/dir/sub/deep"] {
        assert!(diff.lines().any(|found| found == line), "{line}: {diff}");
    }
    assert!(!diff.contains("/etc"), "{diff}");
    cloud.docker(&["kill", "box"]).ok();
    wait_for("its end", PATIENCE, || {
        cloud
            .docker(&["ps", "-aq", "--filter", "status=exited"])
            .ok()
            .trim()
            .parse::<String>()
            .ok()
            .filter(|id| !id.is_empty())
    });
    cloud.docker(&["cp", "box:/tmp/renamed", &path("stopped")]).ok();
    assert_eq!(fs::read_to_string(here.join("stopped")).unwrap(), "from the host");
}

fn images_of_containers(cloud: &Cloud) {
    let change = "CMD [\"cat\", \"/tmp/renamed\"]";
    cloud.docker(&["commit", "-a", "me", "-m", "remark", "-c", change, "box", "made:one"]).ok();
    assert_eq!(cloud.docker(&["run", "--rm", "made:one"]).ok(), "from the host");
    assert!(cloud.docker(&["history", "made:one"]).ok().contains("remark"));
    let archive = cloud.directory.path().join("root.tar");
    let archive = archive.to_str().expect("a plain path");
    cloud.docker(&["export", "-o", archive, "box"]).ok();
    cloud.docker(&["import", archive, "imported:one"]).ok();
    assert_eq!(cloud.docker(&["run", "--rm", "imported:one", "cat", "/tmp/dir/sub/deep"]).ok(), "deep");
    let ps = cloud.docker(&["ps", "-as", "--format", "{{.Names}} {{.Size}}"]).ok();
    assert!(ps.contains("(virtual ") && !ps.contains("box 0B"), "{ps}");
    let sizes = cloud.docker(&["inspect", "-s", "-f", "{{.SizeRw}} {{.SizeRootFs}}", "box"]).ok();
    let sizes: Vec<u64> = sizes.split_whitespace().map(|size| size.parse().unwrap()).collect();
    assert!(sizes[0] > 0 && sizes[1] > sizes[0], "{sizes:?}");
}

fn volumes(cloud: &Cloud) {
    let elsewhere = cloud.directory.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let device = format!("device={}", elsewhere.display());
    cloud.docker(&["volume", "create", "-o", "type=none", "-o", "o=bind", "-o", &device, "other"]).ok();
    let mount = "type=volume,src=other,dst=/other,volume-nocopy";
    let tmpfs = "type=tmpfs,dst=/memory,tmpfs-size=1m,tmpfs-mode=700";
    let script = "echo kept > /other/x; stat -c %a /memory";
    let said = cloud.docker(&[
        "run", "--name", "first", "--mount", mount, "--mount", tmpfs, "busybox", "sh", "-c", script,
    ]);
    assert_eq!(said.ok(), "700\n");
    assert_eq!(fs::read_to_string(elsewhere.join("x")).unwrap(), "kept\n");
    let said = cloud.docker(&["run", "--rm", "--volumes-from", "first:ro", "busybox", "cat", "/other/x"]);
    assert_eq!(said.ok(), "kept\n");
    let refused = cloud.docker(&["volume", "rm", "other"]);
    assert!(refused.stderr.contains("remove other: volume is in use - ["), "{}", refused.stderr);
    cloud.docker(&["run", "--log-driver", "local", "--name", "said", "busybox", "echo", "hello"]).ok();
    assert_eq!(cloud.docker(&["logs", "said"]).ok(), "hello\n");
}

fn space(cloud: &Cloud) {
    let script = "head -c 3000000 /dev/zero > /zeros";
    cloud.docker(&["run", "--name", "large", "--label", "kind=large", "busybox", "sh", "-c", script]).ok();
    cloud
        .docker(&[
            "run",
            "--rm",
            "-v",
            "filled:/v",
            "busybox",
            "sh",
            "-c",
            "head -c 2000000 /dev/zero > /v/z",
        ])
        .ok();
    let df = cloud.docker(&["system", "df", "-v"]).ok();
    assert!(df.contains("2MB") && df.contains("3MB"), "{df}");
    let pruned = cloud.docker(&["container", "prune", "-f", "--filter", "label=kind=large"]).ok();
    assert!(pruned.contains("Total reclaimed space: 3MB"), "{pruned}");
    let pruned = cloud.docker(&["volume", "prune", "-af"]).ok();
    assert!(pruned.contains("filled") && pruned.contains("Total reclaimed space: 2MB"), "{pruned}");
    let said = run(&mut cloud.cirro(&["df", "--json"])).ok();
    let df: serde_json::Value = serde_json::from_str(&said).unwrap();
    let kinds: u64 = df["kinds"].as_object().unwrap().values().map(|size| size.as_u64().unwrap()).sum();
    assert_eq!(df["total"], kinds);
    assert!(df["kinds"]["layers"].as_u64().unwrap() > 100_000);
    cloud.docker(&["rm", "-fv", "box", "first", "said"]).ok();
}
