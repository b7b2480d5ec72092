//! The only crate with `unsafe`: thin, owned wrappers over what the kernel offers only raw, one module per subject;
//! and the fail points, which every other crate may use.

pub mod accept;
pub mod bpf;
pub mod confine;
pub mod descriptors;
pub mod fail_point;
pub mod memory;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod quota;
pub mod readiness;
pub mod socket;
pub mod tap;
pub mod tsc;
pub mod views;
