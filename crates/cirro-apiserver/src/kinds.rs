//! The built-in kinds and our own, as entries of the registry: one file per group.
//!
//! docs/adding-a-kind.md is the tick-list.

use crate::registry::{Kind, Registry};

mod apps;
mod compute;
mod coordination;
mod core;
mod discovery;
mod event;
mod network;
mod pod;
mod rbac;
mod retired;
mod reviews;
mod service;

/// Returns the registry of everything that is served.
pub(crate) fn registry() -> Registry {
    let groups: [fn() -> Vec<Kind>; 8] = [
        core::kinds,
        apps::kinds,
        reviews::kinds,
        rbac::kinds,
        coordination::kinds,
        discovery::kinds,
        compute::kinds,
        network::kinds,
    ];
    Registry::new(groups.into_iter().flat_map(|kinds| kinds()).collect())
}
