//! Names as this host itself sees them, for the daemon's own connections.
//!
//! Never getaddrinfo: in a static file it would load what is not there. `/etc/hosts` comes first, then the servers
//! of `/etc/resolv.conf` with its search domains, IPv4 before IPv6.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use hickory_proto::op::{Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::time::timeout;

use super::forward::{exchange, servers};

/// How long each server may take.
const PATIENCE: Duration = Duration::from_secs(3);
const MAX_SEARCH: usize = 6;

/// Finds the addresses of a name, at least one.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when there is none, with the words of Go's resolver.
pub async fn resolve_host(name: &str) -> io::Result<Vec<IpAddr>> {
    let hosts = tokio::fs::read_to_string("/etc/hosts").await.unwrap_or_default();
    let known = in_hosts(&hosts, name);
    if !known.is_empty() {
        return Ok(known);
    }
    if name == "localhost" || name.ends_with(".localhost") {
        return Ok(vec![[127, 0, 0, 1].into()]);
    }
    let configuration = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    let servers = servers(&configuration, &[]);
    let mut silent = false;
    for candidate in candidates(&configuration, name) {
        let Ok(question) = Name::from_ascii(&candidate) else { continue };
        let (v4, v6) = tokio::join!(
            ask(&servers, Query::query(question.clone(), RecordType::A)),
            ask(&servers, Query::query(question, RecordType::AAAA)),
        );
        silent = v4.is_none() && v6.is_none();
        if silent {
            // The next name would not be answered either.
            break;
        }
        let found: Vec<_> = v4.into_iter().chain(v6).flatten().collect();
        if !found.is_empty() {
            return Ok(found);
        }
    }
    let why = if silent { "no answer from the name servers" } else { "no such host" };
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

async fn ask(servers: &[std::net::SocketAddr], question: Query) -> Option<Vec<IpAddr>> {
    for server in servers {
        let Ok(Ok(answer)) = timeout(PATIENCE, exchange(*server, &question)).await else { continue };
        match answer.metadata.response_code {
            ResponseCode::NoError => {
                let address = |data: &RData| match data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                    _ => None,
                };
                return Some(answer.answers.iter().filter_map(|record| address(&record.data)).collect());
            }
            ResponseCode::NXDomain => return Some(Vec::new()),
            _ => {}
        }
    }
    None
}

fn in_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse::<IpAddr>) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) {
            found.push(address);
        }
    }
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// A name with a dot is tried as it is first; one without is looked for in the search domains first.
fn candidates(configuration: &str, name: &str) -> Vec<String> {
    let whole = format!("{}.", name.trim_end_matches('.'));
    if name.ends_with('.') {
        return vec![whole];
    }
    let search = configuration
        .lines()
        .filter_map(|line| line.trim().strip_prefix("search "))
        .next_back()
        .into_iter()
        .flat_map(str::split_whitespace)
        .take(MAX_SEARCH)
        .map(|domain| format!("{name}.{}.", domain.trim_end_matches('.')));
    if name.contains('.') {
        [whole].into_iter().chain(search).collect()
    } else {
        search.chain([whole]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read() {
        let text =
            "127.0.0.1 localhost # me\n::1 localhost\n10.0.0.1\tregistry.lab Registry\n# 1.1.1.1 hidden\n";
        assert_eq!(in_hosts(text, "registry"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(in_hosts(text, "localhost").len(), 2);
        assert!(in_hosts(text, "hidden").is_empty());
    }

    #[test]
    fn search_domains_are_tried_in_the_usual_order() {
        let configuration = "nameserver 1.1.1.1\nsearch a.org b.org\n";
        assert_eq!(candidates(configuration, "x"), ["x.a.org.", "x.b.org.", "x."]);
        assert_eq!(candidates(configuration, "x.y"), ["x.y.", "x.y.a.org.", "x.y.b.org."]);
        assert_eq!(candidates(configuration, "x."), ["x."]);
    }

    #[tokio::test]
    async fn this_machine_has_its_name() {
        assert!(resolve_host("localhost").await.unwrap().iter().all(IpAddr::is_loopback));
    }
}
