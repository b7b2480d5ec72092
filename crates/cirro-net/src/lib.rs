//! VPCs, subnets, ports, IPAM, firewall, service proxy, DNS, DHCP: three nouns, `plan` and `apply` apart.
//!
//! ```text
//! call ─▶ worker ─▶ records (a copy) ─▶ plan ─▶ apply ─▶ records kept, DNS and DHCP told
//! ```
//!
//! One thread owns the records and the kernel's state; calls are sent to it and answered when the kernel
//! agrees. A change is made on a copy of the records, written down, planned whole (a pure function) and
//! applied as the difference to the last plan; if that fails, the old plan is applied again and the old
//! records are written back. After a crash the records are planned and applied to what the kernel holds.
//!
//! | module | |
//! | --- | --- |
//! | `model`, `error` | what callers see |
//! | `state` | the records; `tenants`, `ipam`, `hostports`, `ranges`: who gets what |
//! | `plan` | records to links, routes, sysctls and nftables tables |
//! | `apply`, `nft` | tables and links to the kernel |
//! | `worker`, `network` | the thread and the handle to it |
//! | `dns`, `dhcp` | answer the workloads |
//! | `leaks`, `drift` | finds and removes by name; finds what the packet filter holds beside the plan |

#![forbid(unsafe_code)]

mod apply;
mod dhcp;
mod dns;
mod drift;
mod error;
mod hostports;
mod ipam;
mod leaks;
mod model;
mod names;
mod network;
mod nft;
mod plan;
mod ports;
mod ranges;
mod state;
mod tenants;
mod worker;

pub use dns::resolve_host;
pub use error::NetError;
pub use model::{
    CreateDockerNetwork, CreatePort, DockerNetwork, NetworkOptions, Port, PortTarget, SubnetId, Tenants,
};
pub use network::Network;
