//! Which registries are used how, and who asks.

use std::net::IpAddr;

use http::Uri;
use ipnet::IpNet;
use serde::Deserialize;

use super::error::RegistryError;

/// What docker.io means.
pub(crate) const HUB: &str = "docker.io";
/// The host that serves docker.io.
const HUB_HOST: &str = "registry-1.docker.io";

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct RegistryOptions {
    /// Addresses (`http[s]://host[:port][/path]`) that are asked before docker.io.
    pub mirrors: Vec<String>,
    /// Hosts, `host:port` or networks whose certificates are not checked, and which may speak plain HTTP.
    pub insecure: Vec<String>,
}

impl RegistryOptions {
    /// Checks what a person wrote.
    ///
    /// # Errors
    /// Names the first entry that cannot be meant.
    pub fn check(&self) -> Result<(), RegistryError> {
        for mirror in &self.mirrors {
            Endpoint::of_mirror(mirror, self)?;
        }
        match self.insecure.iter().find(|entry| entry.contains("://") || entry.trim().is_empty()) {
            Some(entry) => Err(RegistryError::Protocol(format!(
                "insecure registry {entry} should be a host, host:port or network, without a scheme"
            ))),
            None => Ok(()),
        }
    }

    /// Tells whether a host is named as insecure. Loopback is, as in dockerd.
    fn is_insecure(&self, host: &str, port: u16) -> bool {
        if host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
            return true;
        }
        let with_port = format!("{host}:{port}");
        self.insecure.iter().any(|entry| {
            let network =
                || entry.parse::<IpNet>().ok()?.contains(&host.parse::<IpAddr>().ok()?).then_some(());
            entry == host || *entry == with_port || network().is_some()
        })
    }

    /// Lists where a reference's registry is, the first choice first.
    pub(crate) fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>, RegistryError> {
        if domain == HUB {
            let mirrors = self.mirrors.iter().map(|mirror| Endpoint::of_mirror(mirror, self));
            return mirrors.chain([Ok(Endpoint::hub())]).collect();
        }
        let (host, port) = split_port(domain)?;
        let insecure = self.is_insecure(&host, port.unwrap_or(443));
        let tls = Endpoint {
            tls: true,
            host: host.clone(),
            port: port.unwrap_or(443),
            prefix: String::new(),
            verify: !insecure,
            mirror: false,
        };
        if !insecure {
            return Ok(vec![tls]);
        }
        let plain = Endpoint { tls: false, port: port.unwrap_or(80), ..tls.clone() };
        Ok(vec![tls, plain])
    }
}

/// One place where a registry may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Endpoint {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// What comes before `/v2/`.
    pub(crate) prefix: String,
    /// Whether its certificate must be good.
    pub(crate) verify: bool,
    pub(crate) mirror: bool,
}

impl Endpoint {
    fn hub() -> Self {
        let (host, prefix) = (HUB_HOST.to_owned(), String::new());
        Self { tls: true, host, port: 443, prefix, verify: true, mirror: false }
    }

    pub(super) fn of_mirror(text: &str, options: &RegistryOptions) -> Result<Self, RegistryError> {
        let wrong = |why: &str| RegistryError::Protocol(format!("invalid mirror: {why}: {text}"));
        let uri: Uri = text.parse().map_err(|_| wrong("want http[s]://host[:port][/path]"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("unsupported scheme")),
        };
        if uri.query().is_some() || uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(wrong("query and user are not allowed"));
        }
        let host = uri.host().ok_or_else(|| wrong("no host"))?.to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let verify = !options.is_insecure(&host, port);
        let prefix = uri.path().trim_end_matches('/').to_owned();
        Ok(Self { tls, host, port, prefix, verify, mirror: true })
    }

    /// Writes the address of a path below `/v2/`.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let default = if self.tls { 443 } else { 80 };
        let port = if self.port == default { String::new() } else { format!(":{}", self.port) };
        format!("{scheme}://{}{port}{}/v2/{path}", self.host, self.prefix)
    }
}

fn split_port(domain: &str) -> Result<(String, Option<u16>), RegistryError> {
    match domain.rsplit_once(':') {
        None => Ok((domain.to_owned(), None)),
        Some((host, port)) => match port.parse() {
            Ok(port) => Ok((host.to_owned(), Some(port))),
            Err(_) => Err(RegistryError::Protocol(format!("invalid port in {domain}"))),
        },
    }
}

/// Who asks, as docker's clients say it in `X-Registry-Auth` and `POST /auth`.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// Name of the user.
    pub username: String,
    /// Password.
    pub password: String,
    /// `username:password` in base64, which old clients send instead.
    pub auth: String,
    /// The registry that they are for.
    pub serveraddress: String,
    /// What an authorization server gave for a password.
    pub identitytoken: String,
    /// A bearer token for the registry itself.
    pub registrytoken: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Makes credentials of a name and a password. Without a name the password is a token for an authorization server,
    /// as docker's clients keep it.
    pub fn of(username: String, password: String) -> Self {
        match username.as_str() {
            "" | "<token>" => Self { identitytoken: password, ..Self::default() },
            _ => Self { username, password, ..Self::default() },
        }
    }

    /// Returns name and password, if there are such.
    pub(crate) fn basic(&self) -> Option<(String, String)> {
        if !self.username.is_empty() {
            return Some((self.username.clone(), self.password.clone()));
        }
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.decode(&self.auth).ok()?;
        let text = String::from_utf8(text).ok()?;
        let (name, password) = text.split_once(':')?;
        Some((name.to_owned(), password.trim_end_matches('\0').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(options: &RegistryOptions, domain: &str) -> Vec<String> {
        options.endpoints(domain).unwrap().iter().map(|endpoint| endpoint.url("")).collect()
    }

    #[test]
    fn loopback_and_named_registries_may_be_plain() {
        let options =
            RegistryOptions { insecure: vec!["lab:5000".into(), "10.0.0.0/8".into()], mirrors: vec![] };
        assert_eq!(
            urls(&options, "localhost:5000"),
            ["https://localhost:5000/v2/", "http://localhost:5000/v2/"]
        );
        assert_eq!(urls(&options, "127.0.0.1"), ["https://127.0.0.1/v2/", "http://127.0.0.1/v2/"]);
        assert_eq!(urls(&options, "10.1.2.3:80").len(), 2);
        assert_eq!(urls(&options, "lab:5000").len(), 2);
        assert_eq!(urls(&options, "lab:5001"), ["https://lab:5001/v2/"]);
        assert_eq!(urls(&options, "quay.io"), ["https://quay.io/v2/"]);
    }

    #[test]
    fn mirrors_come_before_the_hub_and_before_nothing_else() {
        let options = RegistryOptions { mirrors: vec!["http://mirror:5000/hub/".into()], insecure: vec![] };
        assert_eq!(urls(&options, HUB), ["http://mirror:5000/hub/v2/", "https://registry-1.docker.io/v2/"]);
        assert_eq!(urls(&options, "quay.io").len(), 1);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for mirror in ["mirror:5000", "ftp://mirror", "http://user@mirror", "http://mirror/?x=1", ""] {
            let options = RegistryOptions { mirrors: vec![mirror.into()], insecure: vec![] };
            assert!(options.check().is_err(), "{mirror}");
        }
        let options = RegistryOptions { insecure: vec!["http://lab".into()], mirrors: vec![] };
        assert!(options.check().is_err());
    }

    #[test]
    fn credentials_are_read_in_both_forms_and_never_shown() {
        let new: Credentials = serde_json::from_str(r#"{"username":"me","password":"secret"}"#).unwrap();
        let old: Credentials = serde_json::from_str(r#"{"auth":"bWU6c2VjcmV0"}"#).unwrap();
        assert_eq!(new.basic(), old.basic());
        assert!(!format!("{new:?}").contains("secret"));
        assert_eq!(Credentials::default().basic(), None);
    }
}
