//! Endpoints about the engine as a whole: ping, version, info, disk usage; what is told of a reload.

pub(crate) mod disk_usage;
pub(crate) mod info;
pub(crate) mod ping;
pub(crate) mod reload;
pub(crate) mod version;
