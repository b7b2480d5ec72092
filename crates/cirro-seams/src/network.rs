//! What the network is asked for by the other parts: published ports and services.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// Transport of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Returns `tcp`, `udp` or `sctp`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// A port of a workload published on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPublish {
    /// Host address; every one when absent.
    pub host_address: Option<IpAddr>,
    /// Host port; a free one is taken when absent or 0.
    pub host_port: Option<u16>,
    /// Last of the host ports of which the first free one is taken; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_host_port: Option<u16>,
    /// Port of the workload.
    pub port: u16,
    /// Transport.
    pub protocol: Protocol,
}

/// A virtual address in front of several ports: one port of a Kubernetes Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ServicePort {
    /// Virtual address; absent for a headless service.
    pub cluster_ip: Option<Ipv4Addr>,
    /// Port at the virtual address.
    pub port: u16,
    /// Port at every address of the node.
    pub node_port: Option<u16>,
    /// Transport.
    pub protocol: Protocol,
    /// Ready backends: address and port.
    pub backends: Vec<(Ipv4Addr, u16)>,
    /// Whether a client's connections stay with one backend.
    pub client_ip_affinity: bool,
}

/// A name in the cluster's DNS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NameRecord {
    /// Fully qualified, lower case, no final dot: `web.default.svc.cluster.local`.
    pub name: String,
    /// What it stands for.
    pub target: NameTarget,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NameTarget {
    /// Addresses.
    Addresses(Vec<Ipv4Addr>),
    /// Another name.
    Alias(String),
    /// A service's port: port number and host name.
    Service {
        /// Port number.
        port: u16,
        /// Name of the host.
        host: String,
    },
}
