//! The built-in kinds and our own, as entries of the registry: one file per group.
//!
//! docs/adding-a-kind.md is the tick-list.

use crate::registry::{Kind, Registry};

mod apps;
mod autoscaling;
mod batch;
mod certificates;
mod classes;
mod compute;
mod coordination;
mod core;
mod definition;
mod discovery;
mod event;
mod extension;
mod flowcontrol;
mod limits;
mod metrics;
mod network;
mod networking;
mod pod;
mod policy;
mod rbac;
mod retired;
mod reviews;
mod service;
mod storage;
mod volume;
mod workload;

pub(crate) use classes::system_priorities;
pub(crate) use definition::{COLUMN_FORMATS, COLUMN_TYPES};
pub(crate) use pod::quality_of_service;

/// Returns the registry of everything that is served.
pub(crate) fn registry() -> Registry {
    let groups: &[fn() -> Vec<Kind>] = &[
        core::kinds,
        limits::kinds,
        volume::kinds,
        workload::core_kinds,
        apps::kinds,
        workload::apps_kinds,
        batch::kinds,
        autoscaling::kinds,
        policy::kinds,
        networking::kinds,
        reviews::kinds,
        rbac::kinds,
        certificates::kinds,
        coordination::kinds,
        discovery::kinds,
        classes::kinds,
        storage::kinds,
        flowcontrol::kinds,
        extension::kinds,
        definition::kinds,
        compute::kinds,
        network::kinds,
        metrics::kinds,
    ];
    Registry::new(groups.iter().flat_map(|kinds| kinds()).collect())
}
