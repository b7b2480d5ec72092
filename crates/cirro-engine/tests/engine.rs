//! The engine on the real kernel: root, namespaces, cgroups, overlayfs, nftables and `/bin/busybox` (static) are needed.
//!
//! Every test has a cloud of its own in a network namespace of its own, and looks at its end that nothing is left.

#[path = "../../cirro-container/tests/containers/sweep.rs"]
mod sweep;

mod engine {
    pub(crate) mod bench;
    pub(crate) mod builds;
    pub(crate) mod collection;
    pub(crate) mod crowd;
    pub(crate) mod fail_points;
    pub(crate) mod files;
    pub(crate) mod health;
    pub(crate) mod hostile;
    pub(crate) mod kills;
    pub(crate) mod lab;
    pub(crate) mod life;
    pub(crate) mod machines;
    pub(crate) mod networks;
    pub(crate) mod options;
    pub(crate) mod pods;
    pub(crate) mod reboot;
    pub(crate) mod restarts;
    pub(crate) mod streams;
    pub(crate) mod volumes;
}
