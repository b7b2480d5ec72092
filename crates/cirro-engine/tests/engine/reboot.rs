//! A reboot: every process, mount, link and file of the run directory is gone, and the engine starts from what the disk has.

use std::process::Command;

use cirro_seams::container::{ContainerSpec, NetworkMode, Phase, RestartPolicy};

use super::lab::{command, with_engine, within};

fn named(name: &str, restart: RestartPolicy) -> ContainerSpec {
    ContainerSpec {
        name: Some(name.into()),
        network: NetworkMode::Default,
        restart,
        ..command(&["sleep", "1000"])
    }
}

/// Leaves of the host what a reboot does: what is on the disk.
fn reboot(directory: &std::path::Path, name: &str) {
    crate::sweep::sweep(name, directory);
    let mut netlink = cirro_sys::netlink::Netlink::open().unwrap();
    for link in netlink.links().unwrap().iter().filter(|link| link.name != "lo") {
        // A veth goes with its other end.
        let _ = netlink.delete_link(link.index);
    }
    assert!(Command::new("nft").args(["flush", "ruleset"]).status().unwrap().success());
    std::fs::remove_dir_all(directory.join("run")).unwrap();
}

#[test]
fn after_a_reboot_policies_bring_containers_back_and_nothing_else_as_root() {
    with_engine(|lab| async move {
        let mut before = Vec::new();
        for (name, restart) in [
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("stopped", RestartPolicy::UnlessStopped),
            ("none", RestartPolicy::No),
        ] {
            before.push((name, lab.run(named(name, restart)).await));
        }
        lab.run(ContainerSpec { auto_remove: true, ..named("brief", RestartPolicy::No) }).await;
        lab.engine.stop_container("stopped", None, Some(0)).await.unwrap();
        let lab = lab.replaced(async |directory, name| reboot(directory, name)).await;
        for name in ["always", "unless-stopped"] {
            let container = lab.phase(name, Phase::Running).await;
            assert!(!container.endpoints.is_empty(), "{name} is on its network");
        }
        for (name, code) in [("stopped", 137), ("none", 255)] {
            let container = lab.engine.container(name).unwrap();
            assert_eq!((container.phase, container.exit_code), (Phase::Exited, Some(code)), "{name}");
        }
        assert!(lab.engine.container("brief").is_err(), "what removes itself at its end is gone");
        assert_eq!(lab.engine.leaks().await.unwrap(), Vec::<String>::new());
        for (name, id) in before {
            assert_eq!(lab.engine.container(name).unwrap().id, id);
            within(lab.engine.remove_container(&id, true, true)).await.unwrap();
        }
        lab
    });
}
