//! Known ways out of a container, tried on the runtime's command line. Each must fail, and the host must be as before.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::line::{Line, say};

/// CVE-2019-5736: the program of a process that enters a container is within its reach.
#[test]
fn the_runtimes_own_program_cannot_be_overwritten() {
    let line = Line::new().with_own_program();
    let before = std::fs::read(line.program()).expect("program");
    // The container's program is whatever has just entered it; it is the runtime, and works.
    let said = line.run("self", "true", |spec| {
        spec["process"]["args"] = json!(["/proc/self/exe", "runtime", "--version"]);
    });
    assert!(said.code == 0 && said.stdout.starts_with("cirro-runtime version"), "{said:?}");
    // As an attacker: hold it while it is in the container, write when it is not run any more.
    let bundle = line.bundle("held", "true", |_| ());
    let created = line
        .command(&["create", "--bundle", &bundle, "held"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(created.expect("create").success());
    let state: Value = serde_json::from_str(&line.say(&["state", "held"]).ok()).expect("json");
    let held = File::open(format!("/proc/{}/exe", state["pid"])).expect("program");
    line.say(&["delete", "--force", "held"]).ok();
    let written = OpenOptions::new()
        .write(true)
        .open(format!("/proc/self/fd/{}", held.as_raw_fd()))
        .and_then(|mut file| file.write_all(b"overwritten"));
    assert!(written.is_err(), "the program could be opened and written through a container's process");
    assert!(std::fs::read(line.program()).expect("program") == before, "the program has changed");
    // What was refused is the way through the container: the file itself can be written.
    drop(OpenOptions::new().write(true).open(line.program()).expect("nobody runs it any more"));
    line.end();
}

/// CVE-2024-21626: a leaked descriptor of a host directory as the working directory.
#[test]
fn no_descriptor_leads_out_of_the_container() {
    let line = Line::new();
    let canary = line.path("canary");
    std::fs::create_dir(&canary).expect("canary");
    std::fs::write(canary.join("secret"), "host").expect("secret");
    let home = line.bundle("home", "exec sleep 1000", |_| ());
    let started = line
        .command(&["run", "--detach", "--bundle", &home, "home"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status();
    assert!(started.expect("run").success());
    let leaking = |arguments: &[&str]| {
        let mut command = Command::new("bash");
        let script = format!(
            "for n in 3 4 5 6 7 8 9 10 11 12; do eval \"exec $n<{}\"; done; exec \"$@\"",
            canary.display()
        );
        command
            .args(["-c", &script, "bash"])
            .arg(line.program())
            .args(["runtime", "--root"])
            .arg(line.path("root"));
        say(command.args(arguments))
    };
    for number in 3..=12 {
        let directory = format!("/proc/self/fd/{number}");
        let bundle = line.bundle("leak", "cat secret ../../../../../../etc/hostname; pwd", |spec| {
            spec["process"]["cwd"] = json!(directory);
        });
        let said = leaking(&["run", "--bundle", &bundle, "leak"]);
        assert!(said.code != 0 && !said.stdout.contains("host"), "{directory}: {said:?}");
        let said = leaking(&["exec", "--cwd", &directory, "home", "cat", "secret"]);
        assert!(said.code != 0 && !said.stdout.contains("host"), "{directory}: {said:?}");
    }
    let said = leaking(&["exec", "home", "sh", "-c", "ls -l /proc/self/fd"]);
    assert!(said.code == 0 && !said.stdout.contains("canary"), "{said:?}");
    line.say(&["delete", "--force", "home"]).ok();
    line.end();
}

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// CVE-2025-31133: what masks a path is itself the container's.
#[test]
fn a_false_dev_null_masks_nothing_and_opens_nothing() {
    let line = Line::new();
    let before = std::fs::read_to_string(CORE_PATTERN).expect("core_pattern");
    let dev = line.rootfs("null").join("dev");
    symlink(CORE_PATTERN, dev.join("null")).expect("link");
    let script = format!("echo replaced > /proc/keys; echo replaced > {CORE_PATTERN}; cat /proc/keys");
    let said = line.run("null", &script, |spec| {
        remove_mounts(spec, &["/dev", "/dev/pts", "/dev/shm"]);
    });
    let after = std::fs::read_to_string(CORE_PATTERN).expect("core_pattern");
    if after != before {
        std::fs::write(CORE_PATTERN, &before).expect("put back");
    }
    assert_eq!(after, before, "{said:?}");
    assert!(said.stdout.is_empty(), "what is masked can be read: {said:?}");
    line.end();
}

/// CVE-2025-52565: the console's place is a link to a file of the kernel's.
#[test]
fn a_false_console_opens_nothing() {
    let line = Line::new();
    let dev = line.rootfs("console").join("dev");
    std::fs::create_dir_all(dev.join("pts")).expect("pts");
    symlink(CORE_PATTERN, dev.join("console")).expect("link");
    for number in 0..4 {
        symlink(CORE_PATTERN, dev.join(format!("pts/{number}"))).expect("link");
    }
    symlink(CORE_PATTERN, dev.join("ptmx")).expect("link");
    let before = std::fs::read_to_string(CORE_PATTERN).expect("core_pattern");
    let script = format!(
        "echo replaced > /dev/console; echo replaced > {CORE_PATTERN}; echo replaced > /dev/pts/0; true"
    );
    let said = line.run("console", &script, |spec| {
        spec["process"]["terminal"] = json!(true);
        remove_mounts(spec, &["/dev", "/dev/pts", "/dev/shm"]);
    });
    let after = std::fs::read_to_string(CORE_PATTERN).expect("core_pattern");
    if after != before {
        std::fs::write(CORE_PATTERN, &before).expect("put back");
    }
    assert_eq!(after, before, "{said:?}");
    line.end();
}

/// CVE-2025-52881, CVE-2019-16884, CVE-2019-19921, CVE-2023-27561: a `/proc` that is none would turn what is written there into
/// a write somewhere else.
#[test]
fn a_false_proc_is_refused() {
    let line = Line::new();
    let false_proc = line.path("false-proc");
    std::fs::create_dir_all(false_proc.join("self/attr")).expect("directory");
    std::fs::write(false_proc.join("self/attr/exec"), "").expect("file");
    let source = false_proc.to_string_lossy().into_owned();
    for mount in [
        json!({"destination": "/proc", "type": "bind", "source": source, "options": ["rbind"]}),
        json!({"destination": "/proc", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/proc/../proc/", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/proc/sys", "type": "bind", "source": source, "options": ["bind"]}),
    ] {
        let said = line.run("proc", "echo ran", |spec| {
            spec["mounts"].as_array_mut().expect("mounts").push(mount.clone());
        });
        assert!(said.code == 1 && !said.stdout.contains("ran"), "{mount}: {said:?}");
    }
    // A link in the image's root leads the mount astray.
    let rootfs = line.rootfs("link");
    std::fs::create_dir(rootfs.join("elsewhere")).expect("directory");
    std::fs::remove_dir(rootfs.join("proc")).expect("directory");
    symlink("elsewhere", rootfs.join("proc")).expect("link");
    let said = line.run("link", "echo ran", |_| ());
    assert!(said.code == 1 && !said.stdout.contains("ran"), "{said:?}");
    line.end();
}

/// CVE-2021-30465, CVE-2024-45310: the target of a mount becomes a link while it is made.
#[test]
fn a_mounts_target_that_changes_stays_in_the_root() {
    let line = Line::new();
    let outside = line.path("outside");
    std::fs::create_dir(&outside).expect("outside");
    let volume = line.path("volume");
    std::fs::create_dir(&volume).expect("volume");
    std::fs::write(volume.join("mine"), "").expect("file");
    let rootfs = line.rootfs("race");
    let target = rootfs.join("volume");
    let link = format!("../../../../../../..{}", outside.display());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = std::fs::remove_dir_all(&target);
                let _ = std::fs::remove_file(&target);
                let _ = symlink(&link, &target);
                let _ = std::fs::remove_file(&target);
                let _ = std::fs::create_dir(&target);
            }
        });
        for _ in 0..15 {
            let script = "grep -c ' /volume/deep/er ' /proc/self/mountinfo";
            let said = line.run("race", script, |spec| {
                let mount = json!({"destination": "/volume/deep/er", "type": "bind", "source": volume, "options": ["rbind"]});
                spec["mounts"].as_array_mut().expect("mounts").push(mount);
            });
            let left: Vec<_> = std::fs::read_dir(&outside).expect("outside").flatten().collect();
            if !left.is_empty() {
                over.store(true, Ordering::Relaxed);
                panic!("made outside of the root: {left:?}, {said:?}");
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    line.end();
}

fn remove_mounts(spec: &mut Value, destinations: &[&str]) {
    let mounts = spec["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| !destinations.iter().any(|one| mount["destination"] == *one));
}
