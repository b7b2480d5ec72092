//! Containers: one file per verb, and what creation has to translate.

use cirro_engine::Engine;
use cirro_seams::container::{Container, Owner};

pub(crate) mod archive;
pub(crate) mod attach;
pub(crate) mod attach_ws;
pub(crate) mod changes;
pub(crate) mod create;
pub(crate) mod fields;
pub(crate) mod inspect;
pub(crate) mod lifecycle;
pub(crate) mod list;
pub(crate) mod log_config;
pub(crate) mod logs;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod options;
pub(crate) mod places;
pub(crate) mod ports;
pub(crate) mod prune;
pub(crate) mod request;
pub(crate) mod resources;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod storage;
pub(crate) mod top;
pub(crate) mod update;
pub(crate) mod wait;

/// Lists the containers that docker's clients see: all but those of build steps, the newest first.
pub(crate) fn listed(engine: &Engine) -> Vec<Container> {
    let mut containers = engine.containers();
    containers.retain(|container| container.spec.owner != Owner::Build);
    containers
}
