//! Containers on the real kernel: root, namespaces, cgroups and overlayfs are needed, and `/bin/busybox` (static).
//!
//! Every test has a cloud of its own and looks at its end that nothing is left: no process, no cgroup, no mount, no file.

#[path = "containers/attacks.rs"]
mod attacks;
#[path = "containers/bench.rs"]
mod bench;
#[path = "containers/cloud.rs"]
mod cloud;
#[path = "containers/exec.rs"]
mod exec;
#[path = "containers/kills.rs"]
mod kills;
#[path = "containers/life.rs"]
mod life;
#[path = "containers/limits.rs"]
mod limits;
#[path = "containers/line.rs"]
mod line;
#[path = "containers/native.rs"]
mod native;
#[path = "containers/plain.rs"]
mod plain;
#[path = "containers/runtime_clients.rs"]
mod runtime_clients;
#[path = "containers/runtime_line.rs"]
mod runtime_line;
#[path = "containers/streams.rs"]
mod streams;
#[path = "containers/sweep.rs"]
mod sweep;
#[path = "containers/upgrade.rs"]
mod upgrade;
