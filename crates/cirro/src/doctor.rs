//! `cirro doctor`: leaks and faults, and what mends them.

use std::path::Path;
use std::process::ExitCode;

use cirro_engine::Fault;

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

/// How faults are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// A line each.
    Text,
    /// A list of objects with `kind`, `text`, `mend`.
    Json,
}

/// Prints what is wrong (`fix`: after mending what can be); fails when something is.
pub(crate) fn run(place: &Place, fix: bool, form: Form) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let mut faults = missing_programs();
    match control::ask::<Vec<Fault>>(&config.control_socket(), if fix { "POST" } else { "GET" }, "/doctor")? {
        Some(found) => faults.extend(found),
        None => faults.extend(leftovers(&config)?),
    }
    match form {
        Form::Json => say(&format!("{}\n", serde_json::to_string_pretty(&faults)?))?,
        Form::Text if faults.is_empty() => say("no leaks, no faults\n")?,
        Form::Text => {
            let line = |fault: &Fault| format!("{}: {}; mend it: {}\n", fault.kind, fault.text, fault.mend);
            say(&faults.iter().map(line).collect::<String>())?;
        }
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn fault(kind: &str, text: String, mend: String) -> Fault {
    Fault { kind: kind.into(), text, mend }
}

fn missing_programs() -> Vec<Fault> {
    let missing = PROGRAMS.iter().filter(|(program, ..)| !is_installed(program));
    missing
        .map(|(program, package, feature)| {
            let text = format!("program {program} is missing ({feature})");
            fault("program", text, format!("apt install {package}"))
        })
        .collect()
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

/// What a cloud without a daemon left on the host.
fn leftovers(config: &Config) -> anyhow::Result<Vec<Fault>> {
    let again = "`cirro up` goes on with it, `cirro down --workloads` ends it";
    let mut found: Vec<Fault> = cirro_net::Network::leftovers(daemon::network_options(config))?
        .into_iter()
        .map(|left| {
            let kind = match left.split(' ').next() {
                Some("link") => "link",
                Some("nftables") => "rule",
                _ => "namespace",
            };
            fault(kind, left, again.into())
        })
        .collect();
    let hierarchies = entries("/sys/fs/cgroup").into_iter().map(|name| format!("/sys/fs/cgroup/{name}"));
    for hierarchy in hierarchies.chain(["/sys/fs/cgroup".to_owned()]) {
        let cgroup = format!("{hierarchy}/{}", config.name);
        if Path::new(&cgroup).join("cgroup.procs").is_file() {
            found.push(fault(
                "cgroup",
                format!("cgroup {cgroup}: workloads go on without a daemon"),
                again.into(),
            ));
        }
    }
    let run_dir = config.run_dir.to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    found.extend(
        targets
            .filter(|target| target.starts_with(&run_dir))
            .map(|target| fault("mount", format!("mount {target}"), format!("umount {target}"))),
    );
    let sockets = config.docker_sockets.iter().chain([&config.control_socket()]).cloned().collect::<Vec<_>>();
    for socket in sockets.iter().filter(|socket| socket.exists()) {
        let text = format!("socket {} and nobody who listens", socket.display());
        found.push(fault("socket", text, "`cirro up` takes it over, or remove it".into()));
    }
    Ok(found)
}

fn entries(directory: &str) -> Vec<String> {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
