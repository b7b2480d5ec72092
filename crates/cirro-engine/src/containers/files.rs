//! Writing a container's hosts, hostname and resolv.conf.

use std::path::Path;

use cirro_net::Port;
use cirro_seams::container::{Container, NetworkMode};

use crate::Engine;
use crate::error::{EngineError, io};
use crate::spec::document::hostname;
use crate::spec::files::{HostsStyle, Resolver, hosts};

const MAX_RESOLV_CONF: usize = 64 << 10;

/// Writes the three files for a container with this place on a network.
pub(crate) fn write_files(
    dir: &Path,
    container: &Container,
    hostname: &str,
    port: Option<&Port>,
) -> Result<(), EngineError> {
    let spec = &container.spec;
    let style = match spec.network {
        NetworkMode::Sandbox(_) => HostsStyle::Kubernetes,
        _ => HostsStyle::Docker,
    };
    let mut names = vec![hostname.to_owned()];
    if let Some(domain) = spec.domainname.as_ref().filter(|domain| !domain.is_empty()) {
        names.insert(0, format!("{hostname}.{domain}"));
    }
    let resolver = resolver(port).overridden(&spec.dns, &spec.dns_search, &spec.dns_options);
    let host_file = matches!(spec.network, NetworkMode::Host) && spec.extra_hosts.is_empty();
    let hosts_text = if host_file { std::fs::read_to_string("/etc/hosts").ok() } else { None };
    let hosts_text =
        hosts_text.unwrap_or_else(|| hosts(style, port.map(|port| port.address), &names, &spec.extra_hosts));
    write_three(dir, &hosts_text, hostname, &resolver.to_text())
}

/// Writes the files with these contents.
pub(crate) fn write_three(
    dir: &Path,
    hosts: &str,
    hostname: &str,
    resolv_conf: &str,
) -> Result<(), EngineError> {
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).map_err(io(format!("write {}", path.display())))
    };
    write("hosts", hosts)?;
    write("hostname", &format!("{hostname}\n"))?;
    write("resolv.conf", resolv_conf)
}

/// What the port says, or the host's resolver as far as it can be reached.
pub(crate) fn resolver(port: Option<&Port>) -> Resolver {
    match port.and_then(|port| Some((port, port.dns?))) {
        Some((port, dns)) => Resolver {
            servers: vec![dns.into()],
            search: port.dns_search.clone(),
            // As docker has it where names are whole; with domains to search, those come first.
            options: if port.dns_search.is_empty() { vec!["ndots:0".into()] } else { Vec::new() },
        },
        None => {
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            let resolver = Resolver::parse(&text[..floor(&text, MAX_RESOLV_CONF)]);
            // On the host's own network its loopback is reached too.
            if port.is_some() { resolver.without_loopback() } else { resolver }
        }
    }
}

fn floor(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0)
}

impl Engine {
    /// Returns the name a container calls itself: a pod's containers take their sandbox's.
    pub(crate) fn hostname_of(&self, container: &Container) -> String {
        if let NetworkMode::Sandbox(uid) = &container.spec.network
            && let Some(name) = self.sandbox_hostname(uid)
        {
            return name;
        }
        hostname(container)
    }
}
