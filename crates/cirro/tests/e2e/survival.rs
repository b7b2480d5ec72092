//! The walk, part five: with a container, a deployment behind a Service and a machine running, the daemon or the
//! supervisor is killed; everything goes on answering.

use std::time::{Duration, Instant};

use crate::cloud::Cloud;
use crate::commands::{page, program, wait_for};
use crate::walk_container::{free_port, sample};
use crate::walk_kubernetes::{SERVED, build_helloworld, manifest};

const PATIENCE: Duration = Duration::from_secs(180);

/// Everything that the walk runs, and how to see that it answers.
struct Everything {
    cloud: Cloud,
    container: String,
    service: String,
    pids: Vec<String>,
}

impl Everything {
    fn start() -> Self {
        let cloud = Cloud::up();
        cloud.load("busybox");
        build_helloworld(&cloud);
        let port = free_port();
        cloud.docker(&["run", "-d", "--name", "one", "-p", &format!("{port}:80"), "helloworld"]).ok();
        let kubectl = |words: &str| cloud.kubectl(&words.split(' ').collect::<Vec<_>>()).ok();
        kubectl(&format!("apply -f {}", manifest(&cloud, "served.yaml", SERVED)));
        let machine =
            std::fs::read_to_string(sample("machine").join("machine.yaml")).expect("the sample's manifest");
        kubectl(&format!("apply -f {}", manifest(&cloud, "machine.yaml", &machine)));
        kubectl("rollout status deployment/served --timeout=90s");
        let node_port = kubectl("get service served -o jsonpath={.spec.ports[0].nodePort}");
        let mut this = Self {
            container: format!("http://127.0.0.1:{port}/"),
            service: format!("http://127.0.0.1:{node_port}/"),
            pids: Vec::new(),
            cloud,
        };
        this.answers();
        this.pids = this.pids();
        this
    }

    /// Container, service and machine answer.
    fn answers(&self) {
        wait_for("the container", PATIENCE, || page(&self.container));
        wait_for("the service", PATIENCE, || page(&self.service));
        wait_for("the machine", PATIENCE, || {
            let words = [
                "run",
                "--rm",
                "--network",
                "default/web",
                "busybox",
                "timeout",
                "5",
                "wget",
                "-qO-",
                "http://hello/",
            ];
            (self.cloud.docker(&words).code == 0).then_some(())
        });
    }

    /// Process ids of every container, the pods' too, and of the machine.
    fn pids(&self) -> Vec<String> {
        let ids = self.cloud.docker(&["ps", "-q", "--no-trunc"]).ok();
        let words: Vec<&str> = ["inspect", "-f", "{{.State.Pid}}"].into_iter().chain(ids.lines()).collect();
        let mut pids: Vec<String> = self.cloud.docker(&words).ok().lines().map(str::to_owned).collect();
        let machines =
            program("pgrep", ["-f", &format!("qemu-system.*{}", self.cloud.directory.path().display())]);
        pids.extend(machines.stdout.lines().map(str::to_owned));
        pids.sort();
        pids
    }

    /// The same processes run, and clients see the same.
    fn unchanged(&self) {
        assert_eq!(self.pids(), self.pids, "other processes run");
        let kubectl = |words: &str| self.cloud.kubectl(&words.split(' ').collect::<Vec<_>>()).ok();
        let pods = kubectl("get pods -l app=served");
        assert_eq!(pods.matches("Running").count(), 3, "{pods}");
        assert_eq!(kubectl("get instance hello -o jsonpath={.status.phase}"), "Running");
        let restarts = kubectl("get pods -o jsonpath={.items[*].status.containerStatuses[*].restartCount}");
        assert!(restarts.split(' ').all(|count| count == "0"), "{restarts}");
    }
}

fn kill(pid: i32) {
    program("kill", ["-9", &pid.to_string()]).ok();
}

#[test]
fn everything_survives_a_killed_daemon_as_root() {
    let mut everything = Everything::start();
    kill(everything.cloud.daemon_pid());
    for url in [&everything.container, &everything.service] {
        assert!(page(url).is_some(), "{url} does not answer without the daemon");
    }
    let begun = Instant::now();
    everything.cloud.start();
    assert!(begun.elapsed() < Duration::from_secs(10), "back after {:?}", begun.elapsed());
    everything.answers();
    everything.unchanged();
    everything.cloud.end();
}

#[test]
fn everything_survives_a_killed_supervisor_as_root() {
    let mut everything = Everything::start();
    kill(everything.cloud.role_pid("supervisor"));
    for url in [&everything.container, &everything.service] {
        assert!(page(url).is_some(), "{url} does not answer without the supervisor");
    }
    everything.answers();
    everything.unchanged();
    everything.cloud.end();
}
