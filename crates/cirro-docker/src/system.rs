//! Endpoints about the engine as a whole: ping, version, info, disk usage.

pub(crate) mod disk_usage;
pub(crate) mod info;
pub(crate) mod ping;
pub(crate) mod version;
