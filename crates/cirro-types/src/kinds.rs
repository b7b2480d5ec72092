//! Our own kinds, first version: machines and their networks.

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

/// Spec of `network.cirro.dev/v1` `Vpc`: a routing domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VpcSpec {
    /// The range that every subnet lies in.
    pub cidr: Ipv4Net,
}

/// Spec of `network.cirro.dev/v1` `Subnet`: a range in a VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetSpec {
    /// Name of the VPC in the same namespace.
    pub vpc: String,
    /// The subnet's range, inside the VPC's.
    pub cidr: Ipv4Net,
}

/// Spec of `network.cirro.dev/v1` `SecurityGroup`: what may reach a port, and what it may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupSpec {
    /// Name of the VPC in the same namespace.
    pub vpc: String,
    /// What is let in; nothing when empty.
    #[serde(default)]
    pub ingress: Vec<IngressRule>,
    /// What is let out; everything when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<EgressRule>>,
}

/// One rule of a group's ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IngressRule {
    /// `tcp`, `udp`, `icmp` or `all`.
    pub protocol: Protocol,
    /// Destination ports: `80` or `8000-8080`; every port when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// Who may come; anybody when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Peer>,
}

/// One rule of a group's egress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EgressRule {
    /// `tcp`, `udp`, `icmp` or `all`.
    pub protocol: Protocol,
    /// Destination ports: `80` or `8000-8080`; every port when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// Where to; anywhere when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Peer>,
}

/// The other side of a rule: exactly one member is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Peer {
    /// Addresses in a range.
    Cidr(Ipv4Net),
    /// Members of a security group of the same VPC.
    Group(String),
}

/// Transport of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP.
    Icmp,
    /// Every protocol.
    All,
}

/// An inclusive range of ports, written `80` or `8000-8080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "PortRangeText", try_from = "PortRangeText")]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port, not below the first.
    pub last: u16,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum PortRangeText {
    Number(u16),
    Text(String),
}

impl From<PortRange> for PortRangeText {
    fn from(range: PortRange) -> Self {
        if range.first == range.last {
            Self::Number(range.first)
        } else {
            Self::Text(format!("{}-{}", range.first, range.last))
        }
    }
}

impl TryFrom<PortRangeText> for PortRange {
    type Error = String;

    fn try_from(text: PortRangeText) -> Result<Self, String> {
        let text = match text {
            PortRangeText::Number(port) => return Ok(Self { first: port, last: port }),
            PortRangeText::Text(text) => text,
        };
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let port = |part: &str| part.trim().parse().map_err(|_| format!("invalid port range `{text}`"));
        let range = Self { first: port(first)?, last: port(last)? };
        if range.first > range.last { Err(format!("invalid port range `{text}`")) } else { Ok(range) }
    }
}

/// Spec of `compute.cirro.dev/v1` `Instance`: a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSpec {
    /// Name of an image in the library.
    pub image: String,
    /// Number of virtual processors.
    #[serde(default = "one")]
    pub cpu: u32,
    /// Memory, as a Kubernetes quantity (`256Mi`).
    #[serde(default = "default_memory")]
    pub memory: String,
    /// Name of the subnet in the same namespace.
    pub subnet: String,
    /// Names of security groups in the same namespace.
    #[serde(default)]
    pub security_groups: Vec<String>,
    /// User data for the guest, at most 16 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Name of a key pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_pair: Option<String>,
    /// Whether it should be running.
    #[serde(default = "yes")]
    pub running: bool,
}

/// Status of an `Instance`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// `Pending`, `Running`, `Stopped` or `Failed`.
    #[serde(default)]
    pub phase: String,
    /// Address on its subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<std::net::Ipv4Addr>,
    /// Host that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it is in this phase, when it is not as asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn one() -> u32 {
    1
}

fn default_memory() -> String {
    "256Mi".into()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_reads_as_a_person_writes_it() {
        let text = r#"{"vpc":"main","ingress":[{"protocol":"tcp","ports":80,"from":{"group":"clients"}},
            {"protocol":"udp","ports":"8000-8080","from":{"cidr":"10.0.0.0/8"}},{"protocol":"icmp"}]}"#;
        let group: SecurityGroupSpec = serde_json::from_str(text).unwrap();
        assert_eq!(group.ingress[0].ports, Some(PortRange { first: 80, last: 80 }));
        assert_eq!(group.ingress[0].from, Some(Peer::Group("clients".into())));
        assert_eq!(group.ingress[1].ports, Some(PortRange { first: 8000, last: 8080 }));
        assert_eq!(group.egress, None);
        assert!(serde_json::from_str::<IngressRule>(r#"{"protocol":"tcp","ports":"9-2"}"#).is_err());
    }
}
