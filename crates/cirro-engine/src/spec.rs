//! From a container's record to the OCI runtime's words: pure functions, docker's defaults.

pub(crate) mod capabilities;
pub(crate) mod cdi;
pub(crate) mod devices;
pub(crate) mod document;
pub(crate) mod files;
pub(crate) mod health;
pub(crate) mod host;
pub(crate) mod limits;
pub(crate) mod links;
pub(crate) mod log;
pub(crate) mod merge;
pub(crate) mod mounts;
pub(crate) mod namespaces;
pub(crate) mod project;
pub(crate) mod resources;
pub(crate) mod seccomp;
pub(crate) mod security;
pub(crate) mod support;
pub(crate) mod users;
