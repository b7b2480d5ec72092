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
//! | `options` | what a docker network's options say |
//! | `plan` | records to links, routes, sysctls and nftables tables |
//! | `apply`, `nft` | tables and links to the kernel |
//! | `worker`, `network` | the thread and the handle to it |
//! | `dns`, `dhcp` | answer the workloads |
//! | `relay` | carries from IPv6 to workloads that have IPv4 only |
//! | `flows`, `restore` | forgets stale UDP flows; puts back what others took |
//! | `leaks`, `drift` | finds and removes by name; finds what the packet filter holds beside the plan |

#![forbid(unsafe_code)]

mod apply;
mod dhcp;
mod dns;
mod docker;
mod drift;
mod error;
mod flows;
mod hostports;
mod ipam;
mod leaks;
mod model;
mod names;
mod network;
mod nft;
mod options;
mod plan;
mod ports;
mod ranges;
mod relay;
mod restore;
mod state;
mod tenants;
mod worker;

use std::fmt::Write as _;
use std::io::Read as _;

pub use dns::{EMBEDDED_DNS, resolve_host};
pub use error::NetError;
pub use model::{
    CreateDockerNetwork, CreatePort, DockerNetwork, NetworkOptions, Port, PortTarget, SubnetId, Tenants,
};
pub use network::Network;

/// Returns 64 random hexadecimal digits, as docker's ids are.
fn random_id() -> Result<String, NetError> {
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|error| NetError::kernel("read /dev/urandom", error))?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}
