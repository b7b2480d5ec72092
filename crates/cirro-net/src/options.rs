//! Options of docker's bridge driver, by their names.

use std::net::{IpAddr, Ipv4Addr};

use crate::error::NetError;
use crate::model::DockerNetwork;
use crate::plan::HOST_MTU;

const NAME: &str = "com.docker.network.bridge.name";
const ICC: &str = "com.docker.network.bridge.enable_icc";
const MASQUERADE: &str = "com.docker.network.bridge.enable_ip_masquerade";
const BINDING: &str = "com.docker.network.bridge.host_binding_ipv4";
const MTU: &str = "com.docker.network.driver.mtu";
const HOST_IPV4: &str = "com.docker.network.host_ipv4";
const INTERFACE_PREFIX: &str = "com.docker.network.container_iface_prefix";
const DEFAULT_BRIDGE: &str = "com.docker.network.bridge.default_bridge";
const GATEWAY_MODES: [&str; 2] =
    ["com.docker.network.bridge.gateway_mode_ipv4", "com.docker.network.bridge.gateway_mode_ipv6"];
/// Longest name of a link.
const LINK_NAME: usize = 15;

impl DockerNetwork {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the MTU of its bridge and of its ports.
    pub fn mtu(&self) -> u32 {
        self.option(MTU).and_then(|value| value.parse().ok()).filter(|mtu| *mtu > 0).unwrap_or(HOST_MTU)
    }

    /// Tells whether its containers reach each other.
    pub fn is_open_inside(&self) -> bool {
        self.option(ICC).and_then(boolean).unwrap_or(true)
    }

    /// Tells whether what leaves it gets an address of the host.
    pub fn masquerades(&self) -> bool {
        self.option(MASQUERADE).and_then(boolean).unwrap_or(true)
    }

    /// Returns the address that its ports are published at when none is asked for.
    pub fn binding_address(&self) -> Option<IpAddr> {
        self.option(BINDING).and_then(|value| value.parse().ok())
    }

    /// Returns the address of the host that what leaves it gets, when one is chosen.
    pub(crate) fn source_address(&self) -> Option<Ipv4Addr> {
        self.option(HOST_IPV4).and_then(|value| value.parse().ok())
    }

    /// Returns what the names of its links in containers begin with.
    pub fn interface_prefix(&self) -> &str {
        self.option(INTERFACE_PREFIX).unwrap_or("eth")
    }

    /// Returns the name that its bridge is to have.
    pub(crate) fn wanted_bridge(&self) -> Option<&str> {
        self.option(NAME)
    }

    /// Refuses options that make no sense or that are not there.
    ///
    /// Options that the bridge driver does not know are kept and have no effect, as with dockerd.
    pub(crate) fn check_options(&self) -> Result<(), NetError> {
        for (name, value) in &self.options {
            let sound = match name.as_str() {
                NAME => is_link_name(value),
                INTERFACE_PREFIX => value.is_empty() || (is_link_name(value) && value.len() < LINK_NAME - 3),
                ICC | MASQUERADE => value.is_empty() || boolean(value).is_some(),
                MTU => value.is_empty() || value.parse::<u32>().is_ok_and(|mtu| (68..=65535).contains(&mtu)),
                BINDING | HOST_IPV4 => value.is_empty() || value.parse::<Ipv4Addr>().is_ok(),
                DEFAULT_BRIDGE => boolean(value) == Some(false),
                name if GATEWAY_MODES.contains(&name) && matches!(value.as_str(), "" | "nat") => true,
                name if name.starts_with("com.docker.network.") => {
                    return Err(NetError::NotSupported(format!("the network option {name}={value}")));
                }
                _ => true,
            };
            if !sound {
                return Err(NetError::Invalid(format!("invalid value for option {name}: {value:?}")));
            }
        }
        Ok(())
    }
}

/// Reads a boolean as Go does.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn is_link_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty()
        && name.len() <= LINK_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(plain)
}
