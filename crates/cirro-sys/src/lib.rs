//! The only crate with `unsafe`: namespaces, links, taps, sockets and what else the kernel offers only raw.

pub mod netlink;
pub mod netns;
pub mod socket;
pub mod tap;
