//! `cirro doctor`: leaks and faults, and what mends them.

use std::path::Path;
use std::process::ExitCode;

use crate::cli::say;
use crate::config::{Config, Place};
use crate::{control, daemon};

/// Programs that features start from outside, and the Debian package that brings each.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("nft", "nftables", "networks, published ports, services"),
    ("qemu-system-x86_64", "qemu-system-x86", "virtual machines"),
    ("busybox", "busybox-static", "first program of virtual machines"),
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
        None => faults.extend(leftovers(&config)?),
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

/// What a cloud without a daemon left on the host.
fn leftovers(config: &Config) -> anyhow::Result<Vec<String>> {
    let mut found = cirro_net::Network::leftovers(daemon::network_options(config))?;
    let hierarchies = entries("/sys/fs/cgroup").into_iter().map(|name| format!("/sys/fs/cgroup/{name}"));
    for hierarchy in hierarchies.chain(["/sys/fs/cgroup".to_owned()]) {
        let cgroup = format!("{hierarchy}/{}", config.name);
        if Path::new(&cgroup).join("cgroup.procs").is_file() {
            found.push(format!(
                "cgroup {cgroup}: workloads go on; `cirro up` finds them, `cirro down --workloads` ends them"
            ));
        }
    }
    let run_dir = config.run_dir.to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    found.extend(
        targets
            .filter(|target| target.starts_with(&run_dir))
            .map(|target| format!("mount {target}: remove it with: umount {target}")),
    );
    Ok(found)
}

fn entries(directory: &str) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
