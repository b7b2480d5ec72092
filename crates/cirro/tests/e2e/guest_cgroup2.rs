//! A host with nothing but version 2 of cgroups: Debian's cloud kernel under QEMU, everything in memory, a dozen docker commands.
//!
//! The guest's first process writes `PASS name` and `FAIL name: why` to its console, which is all that the test looks at.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::cloud::{base_image, guest_kernel};
use crate::commands::{program, run};

const INIT: &str = include_str!("guest_cgroup2/init.sh");
const COMMANDS: &str = include_str!("guest_cgroup2/commands.sh");
/// Modules that the engine needs, with what they need in turn.
const MODULES: [&str; 10] = [
    "overlay",
    "bridge",
    "veth",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
    "nft_fib_inet",
    "loop",
    "quota_v2",
];
/// Under translation on a busy host; on a quiet one it takes less than a minute.
const PATIENCE: Duration = Duration::from_secs(480);
/// A guest in which fewer things were tried has stopped halfway.
const CHECKS: usize = 29;

#[test]
fn docker_commands_work_with_version_2_of_cgroups_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let kernel = guest_kernel();
    let image = std::fs::read_dir(&kernel)
        .expect("the kernel's directory")
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-")))
        .expect("a kernel");
    let version = image.file_name().expect("a name").to_string_lossy()["vmlinuz-".len()..].to_owned();
    let initrd = make_initrd(directory.path(), &kernel.join("lib/modules").join(&version), &version);
    let console = directory.path().join("console");
    boot(&image, &initrd, &console);
    let text =
        std::fs::read_to_string(&console).map_or_else(|_| String::new(), |text| text.replace('\r', ""));
    let count = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(count("FAIL "), 0, "{text}");
    assert!(count("PASS ") >= CHECKS, "{text}");
}

/// An archive with busybox, the binary, the docker CLI, an image and modules.
fn make_initrd(directory: &Path, modules: &Path, version: &str) -> PathBuf {
    let root = directory.join("root");
    for name in ["bin", "etc", "images"] {
        std::fs::create_dir_all(root.join(name)).expect("directory");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static is installed");
    // Symbols are most of an unoptimised binary.
    let cirro = root.join("bin/cirro");
    program("strip", ["-o", &cirro.to_string_lossy(), env!("CARGO_BIN_EXE_cirro")]).ok();
    let docker = program("sh", ["-c", "readlink -f \"$(command -v docker)\""]).ok();
    std::fs::copy(docker.trim(), root.join("bin/docker")).expect("the docker CLI is installed");
    std::fs::copy(base_image("busybox"), root.join("images/busybox.tar")).expect("an image");
    for (name, text) in [("init", INIT), ("commands", COMMANDS), ("etc/passwd", "root:x:0:0::/tmp:/bin/sh\n")]
    {
        let file = root.join(name);
        std::fs::write(&file, text).expect("file");
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode");
    }
    make_quota_disk(directory, &root);
    copy_nft(&root);
    copy_modules(&root, modules, version);
    let initrd = directory.join("initrd");
    let pack = format!(
        "cd {} && find . -mindepth 1 | cpio --quiet -o -H newc >{}",
        root.display(),
        initrd.display()
    );
    program("sh", ["-c", &pack]).ok();
    std::fs::remove_dir_all(&root).expect("remove");
    initrd
}

/// Makes a disk that keeps project quotas, which this host's kernel may not have.
fn make_quota_disk(directory: &Path, root: &Path) {
    let disk = directory.join("quota");
    std::fs::File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("a disk");
    program("mkfs.ext4", ["-q", "-F", "-O", "quota,project", &disk.to_string_lossy()]).ok();
    let pack = format!("gzip -c {} >{}", disk.display(), root.join("images/quota.gz").display());
    program("sh", ["-c", &pack]).ok();
}

/// Copies the program that writes the host's rules, with the libraries that it is linked to.
fn copy_nft(root: &Path) {
    let list = "nft=$(readlink -f \"$(command -v nft)\"); echo \"$nft\"; ldd \"$nft\" | grep -o '/[^ ]*'";
    for (number, path) in program("sh", ["-c", list]).ok().lines().enumerate() {
        let target = if number == 0 { "bin/nft" } else { path.trim_start_matches('/') };
        let target = root.join(target);
        std::fs::create_dir_all(target.parent().expect("a parent")).expect("directory");
        std::fs::copy(path, target).expect("nftables is installed");
    }
}

/// Copies those modules that are needed and lists them for `modprobe`, which the kernel calls when it misses one.
fn copy_modules(root: &Path, modules: &Path, version: &str) {
    let target = root.join("lib/modules").join(version);
    for directory in [
        "net",
        "lib",
        "crypto",
        "fs/overlayfs",
        "drivers/net/veth.ko",
        "fs/fuse",
        "drivers/block/loop.ko",
        "fs/quota",
    ] {
        let source = modules.join("kernel").join(directory);
        if source.exists() {
            let parent = target.join("kernel").join(directory);
            std::fs::create_dir_all(parent.parent().expect("a parent")).expect("directory");
            program("cp", ["-r".as_ref(), source.as_os_str(), parent.as_os_str()]).ok();
        }
    }
    for file in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        let _ = std::fs::copy(modules.join(file), target.join(file));
    }
    program("depmod", ["-b", &root.to_string_lossy(), version]).ok();
    let text = std::fs::read_to_string(root.join("init")).expect("init");
    let text =
        text.replace("hostname guest\n", &format!("hostname guest\nmodprobe -a {}\n", MODULES.join(" ")));
    std::fs::write(root.join("init"), text).expect("init");
}

fn boot(kernel: &Path, initrd: &Path, console: &Path) {
    let mut words = "console=ttyS0 quiet panic=-1 cgroup_no_v1=all no_timer_check".to_owned();
    // Under translation on a busy host the kernel's own measurements fail, of the timer as well (`no_timer_check`).
    if let Some(khz) = cirro_sys::tsc::measure_khz() {
        words.push_str(&format!(" tsc_early_khz={khz} tsc=reliable"));
    }
    let mut command = Command::new("timeout");
    command.arg(PATIENCE.as_secs().to_string()).args([
        "qemu-system-x86_64",
        "-M",
        "q35",
        "-accel",
        "tcg,thread=multi",
    ]);
    command.args(["-cpu", "max", "-smp", "2", "-m", "1536", "-nodefaults", "-no-user-config", "-no-reboot"]);
    command
        .args(["-display", "none", "-append", &words])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd);
    command.arg("-serial").arg(format!("file:{}", console.display())).stdin(Stdio::null());
    run(&mut command);
}
