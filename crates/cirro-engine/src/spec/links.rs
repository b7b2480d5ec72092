//! Variables that a container gets for those it is linked to.
//!
//! Source: moby `daemon/links/links.go`.

use cirro_seams::container::Container;
use cirro_seams::network::Protocol;

/// Returns the variables for one linked container.
pub(crate) fn environment(own_name: &str, alias: &str, address: &str, linked: &Container) -> Vec<String> {
    let prefix: String = alias.to_uppercase().replace('-', "_");
    let mut env = vec![format!("{prefix}_NAME=/{own_name}/{alias}")];
    let mut ports: Vec<(u16, Protocol)> = linked.exposed_ports.clone();
    ports.sort_by_key(|(port, protocol)| (protocol.as_str() != "tcp", *port));
    if let Some((port, protocol)) = ports.first() {
        env.push(format!("{prefix}_PORT={}://{address}:{port}", protocol.as_str()));
    }
    for (port, protocol) in &ports {
        let name = format!("{prefix}_PORT_{port}_{}", protocol.as_str().to_uppercase());
        env.push(format!("{name}={}://{address}:{port}", protocol.as_str()));
        env.push(format!("{name}_ADDR={address}"));
        env.push(format!("{name}_PORT={port}"));
        env.push(format!("{name}_PROTO={}", protocol.as_str()));
    }
    let own = linked.env.iter().filter_map(|entry| entry.split_once('='));
    let passed = own.filter(|(name, _)| !matches!(*name, "HOME" | "PATH"));
    env.extend(passed.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    env
}
