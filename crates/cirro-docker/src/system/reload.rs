//! What docker's clients hear when the daemon gets SIGHUP.

use cirro_engine::Engine;

use super::info::daemon_id;
use crate::FaceInfo;

/// Tells of a reload as dockerd does. Nothing has changed by it: the configuration is the command line's.
pub fn tell_reload(engine: &Engine, info: &FaceInfo) {
    let attributes = [
        ("name", info.name.as_str()),
        ("debug", "false"),
        ("default-cgroupns-mode", cirro_engine::default_cgroup_namespace()),
        ("default-ipc-mode", "private"),
        ("default-runtime", "cirro"),
        ("default-shm-size", "67108864"),
        ("labels", "[]"),
        ("live-restore", "true"),
        ("runtimes", "cirro:cirro"),
    ];
    engine.tell_daemon(&daemon_id(info), "reload", &attributes);
}
