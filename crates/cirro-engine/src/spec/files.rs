//! The three files that every container gets: hosts, hostname, resolv.conf.

use std::fmt::Write as _;
use std::net::IpAddr;

/// Who the hosts file is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostsStyle {
    Docker,
    Kubernetes,
}

/// Writes /etc/hosts.
pub(crate) fn hosts(
    style: HostsStyle,
    addresses: &[IpAddr],
    names: &[String],
    extra: &[(String, IpAddr)],
) -> String {
    let mut text = String::new();
    if style == HostsStyle::Kubernetes {
        text.push_str("# Kubernetes-managed hosts file.\n");
    }
    text.push_str(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for address in addresses {
        let _ = writeln!(text, "{address}\t{}", names.join(" "));
    }
    text
}

/// What goes into a resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolver {
    pub servers: Vec<IpAddr>,
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a resolv.conf, the host's.
    pub(crate) fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or("").split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    resolver.servers.extend(words.next().and_then(|word| word.parse::<IpAddr>().ok()))
                }
                Some("search" | "domain") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }

    /// Takes out servers on the loopback, which a container cannot reach.
    pub(crate) fn without_loopback(mut self) -> Self {
        self.servers.retain(|server| !server.is_loopback());
        self
    }

    /// Puts what the request names over this.
    pub(crate) fn overridden(mut self, servers: &[IpAddr], search: &[String], options: &[String]) -> Self {
        if !servers.is_empty() {
            self.servers = servers.to_vec();
        }
        if !search.is_empty() {
            self.search = search.iter().filter(|domain| *domain != ".").cloned().collect();
        }
        if !options.is_empty() {
            self.options = options.to_vec();
        }
        self
    }

    /// Writes it.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for server in &self.servers {
            let _ = writeln!(text, "nameserver {server}");
        }
        if !self.search.is_empty() {
            let _ = writeln!(text, "search {}", self.search.join(" "));
        }
        if !self.options.is_empty() {
            let _ = writeln!(text, "options {}", self.options.join(" "));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_ends_with_the_containers_own_name() {
        let extra = [("db".to_owned(), "10.0.0.9".parse().unwrap())];
        let names = ["web".to_owned(), "abc".to_owned()];
        let text = hosts(HostsStyle::Docker, &[[172, 17, 0, 2].into()], &names, &extra);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.0.0.9\tdb\n172.17.0.2\tweb abc\n"));
        assert!(
            hosts(HostsStyle::Kubernetes, &[], &[], &[]).starts_with("# Kubernetes-managed hosts file.\n")
        );
    }

    #[test]
    fn a_resolver_is_read_and_written_and_overridden() {
        let text = "# host\nnameserver 127.0.0.53\nnameserver 1.1.1.1 # one\nsearch a.example b.example\noptions ndots:2\n";
        let host = Resolver::parse(text).without_loopback();
        assert_eq!(host.to_text(), "nameserver 1.1.1.1\nsearch a.example b.example\noptions ndots:2\n");
        let own = host.overridden(&["9.9.9.9".parse().unwrap()], &[".".into()], &[]);
        assert_eq!(own.to_text(), "nameserver 9.9.9.9\noptions ndots:2\n");
    }
}
