//! `cirro doctor`: leaks and faults, and what mends them.

use std::process::ExitCode;

use crate::cli::say;
use crate::config::{Config, Place};
use crate::control;

/// Programs that features start from outside, and the Debian package that brings each.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("nft", "nftables", "networks, published ports, services"),
    ("qemu-system-x86_64", "qemu-system-x86", "virtual machines"),
    ("mkfs.ext4", "e2fsprogs", "disks of virtual machines"),
];

/// Prints what is wrong; fails when something is.
pub(crate) fn run(place: &Place) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let mut faults: Vec<String> = PROGRAMS
        .iter()
        .filter(|(program, ..)| !is_installed(program))
        .map(|(program, package, feature)| {
            format!("program {program} is missing ({feature}): apt install {package}")
        })
        .collect();
    match control::ask::<Vec<String>>(&config.control_socket(), "GET", "/doctor")? {
        Some(leaks) => faults.extend(leaks),
        None => faults.extend(leftovers(&config)),
    }
    if faults.is_empty() {
        say("no leaks, no faults\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    say(&faults.iter().map(|fault| format!("{fault}\n")).collect::<String>())?;
    Ok(ExitCode::FAILURE)
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// What a cloud without a daemon left on the host, found by its name alone.
fn leftovers(config: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let prefixes = [format!("{}-", config.name), format!("{}0", config.name)];
    for link in entries("/sys/class/net") {
        if prefixes.iter().any(|prefix| link.starts_with(prefix)) {
            found.push(format!(
                "link {link}: start the cloud again, or remove it with: ip link delete {link}"
            ));
        }
    }
    for hierarchy in std::iter::once("/sys/fs/cgroup".to_owned())
        .chain(entries("/sys/fs/cgroup").into_iter().map(|name| format!("/sys/fs/cgroup/{name}")))
    {
        let cgroup = format!("{hierarchy}/{}", config.name);
        if std::path::Path::new(&cgroup).is_dir() && hierarchy != format!("/sys/fs/cgroup/{}", config.name) {
            found.push(format!(
                "cgroup {cgroup}: workloads go on; `cirro up` finds them, `cirro down --workloads` ends them"
            ));
        }
    }
    let run_dir = config.run_dir.to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for target in
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| target.starts_with(&run_dir))
    {
        found.push(format!("mount {target}: remove it with: umount {target}"));
    }
    found
}

fn entries(directory: &str) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
