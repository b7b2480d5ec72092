//! Containers on the real kernel: root, namespaces, cgroups and overlayfs are needed, and `/bin/busybox` (static).
//!
//! Every test has a cloud of its own and looks at its end that nothing is left: no process, no cgroup, no mount, no file.

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
#[path = "containers/native.rs"]
mod native;
#[path = "containers/plain.rs"]
mod plain;
#[path = "containers/streams.rs"]
mod streams;
