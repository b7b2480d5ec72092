//! Where the API's objects are: a file in the data directory, or etcd; and the move from one to the other.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use cirro_store::{EmbeddedStore, Endpoint, EtcdOptions, EtcdStore, ObjectStore, fill};
use clap::Args;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tracing::error;

use crate::cli::say;
use crate::config::{Config, Place};

const FILE: &str = "objects.redb";
/// What is left of a store that was moved.
const MOVED: &str = "objects.redb.moved";
const DEFAULT_PREFIX: &str = "/cirro";
const DEFAULT_PORT: u16 = 2379;

/// An etcd cluster as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EtcdPlace {
    /// Host and port of each member.
    members: Vec<(String, u16)>,
    /// What this cloud's keys begin with.
    prefix: String,
    ca: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

/// Where `cirro store move` moves to.
#[derive(Debug, Clone, Args)]
pub(crate) struct Target {
    /// etcd://HOST:PORT,...[/PREFIX], as `cirro up --store` will name it
    #[arg(value_name = "URL")]
    to: String,
    /// Authority of etcd's certificates; with it, etcd is reached by TLS
    #[arg(long, value_name = "FILE")]
    store_ca: Option<PathBuf>,
    /// Certificate that is shown to etcd
    #[arg(long, value_name = "FILE")]
    store_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    store_key: Option<PathBuf>,
}

impl EtcdPlace {
    /// Parses `etcd://HOST:PORT,...[/PREFIX]`.
    pub(crate) fn parse(
        url: &str,
        ca: Option<PathBuf>,
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let rest = url
            .strip_prefix("etcd://")
            .with_context(|| format!("--store `{url}`: want embedded or etcd://HOST:PORT,...[/PREFIX]"))?;
        let (members, prefix) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, DEFAULT_PREFIX),
        };
        let prefix = prefix.trim_end_matches('/');
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.');
        ensure!(
            prefix.len() > 1 && prefix.chars().all(plain),
            "--store `{url}`: a prefix has letters, digits, `-`, `_`, `.` and `/`"
        );
        let members = members.split(',').map(member).collect::<Option<Vec<_>>>();
        let members = members.with_context(|| format!("--store `{url}`: want HOST:PORT,..."))?;
        ensure!(ca.is_some() || certificate.is_none(), "--store-cert: only with --store-ca");
        ensure!(certificate.is_some() == key.is_some(), "--store-cert and --store-key go together");
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Self {
            members,
            prefix: prefix.into(),
            ca: absolute(ca)?,
            certificate: absolute(certificate)?,
            key: absolute(key)?,
        })
    }

    /// Finds the members and reads the files.
    async fn options(&self) -> anyhow::Result<EtcdOptions> {
        let mut endpoints = Vec::new();
        for (host, port) in &self.members {
            let addresses = match host.trim_matches(['[', ']']).parse() {
                Ok(address) => vec![address],
                Err(_) => {
                    cirro_net::resolve_host(host).await.with_context(|| format!("find etcd at {host}"))?
                }
            };
            let endpoint = |address| Endpoint {
                host: host.trim_matches(['[', ']']).into(),
                address: SocketAddr::new(address, *port),
            };
            endpoints.extend(addresses.into_iter().map(endpoint));
        }
        let tls = self.ca.as_deref().map(|ca| self.tls(ca)).transpose()?;
        Ok(EtcdOptions { endpoints, tls, prefix: self.prefix.clone(), first_revision: None })
    }

    fn tls(&self, ca: &Path) -> anyhow::Result<Arc<rustls::ClientConfig>> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).with_context(|| format!("read {}", ca.display()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut tls = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let key =
                    PrivateKeyDer::from_pem_file(key).with_context(|| format!("read {}", key.display()))?;
                builder.with_client_auth_cert(chain, key).context("the certificate for etcd")?
            }
            _ => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(tls))
    }
}

fn member(text: &str) -> Option<(String, u16)> {
    let (host, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address are inside brackets.
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()?),
        _ => (text, DEFAULT_PORT),
    };
    let bracketed = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
    let good = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(plain),
    };
    good.then(|| (host.to_owned(), port))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).with_context(|| format!("read {}", path.display()))?;
    let certificates =
        read.collect::<Result<Vec<_>, _>>().with_context(|| format!("read {}", path.display()))?;
    ensure!(!certificates.is_empty(), "{}: no certificate in it", path.display());
    Ok(certificates)
}

/// Opens the store of API objects.
pub(crate) async fn open(config: &Config) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let path = config.data_dir.join(FILE);
    let Some(place) = &config.store else {
        let moved = config.data_dir.join(MOVED);
        if moved.exists() && !path.exists() {
            bail!(
                "the API's objects were moved to etcd: start with --store etcd://... \
                 (or, to go back to how they were then, rename {} to {FILE})",
                moved.display()
            );
        }
        let store = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path)).await?;
        let store = store.context("open the store of API objects")?;
        for key in store.damaged() {
            error!(%key, "the record's checksum is wrong; it is not served");
        }
        return Ok(Arc::new(store));
    };
    if path.exists() {
        bail!("{} has API objects: move them first by `cirro store move`, or remove it", path.display());
    }
    let store = EtcdStore::open(place.options().await?).await;
    Ok(Arc::new(store.context("open the store of API objects in etcd")?))
}

/// Moves the objects of a cloud that does not run.
pub(crate) fn move_objects(place: &Place, target: Target) -> anyhow::Result<ExitCode> {
    let Target { to, store_ca, store_cert, store_key } = target;
    let etcd = EtcdPlace::parse(&to, store_ca, store_cert, store_key)?;
    let data_dir = std::path::absolute(place.data_dir())?;
    let (path, moved) = (data_dir.join(FILE), data_dir.join(MOVED));
    if !path.exists() {
        match moved.exists() {
            true => bail!("the objects were moved before: {} is what is left here", moved.display()),
            false => bail!("{} is not there: nothing to move", path.display()),
        }
    }
    let from = EmbeddedStore::open(&path).with_context(|| {
        format!("open {}; a cloud that runs is ended by `cirro down` first", path.display())
    })?;
    let damaged = from.damaged();
    ensure!(damaged.is_empty(), "damaged objects cannot be moved; delete them first: {damaged:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let count = runtime.block_on(async {
        let options = etcd.options().await?;
        fill(&options, &from).await.context("move the objects")
    })?;
    std::fs::rename(&path, &moved).with_context(|| format!("rename {}", path.display()))?;
    File::open(&data_dir).and_then(|directory| directory.sync_all()).context("make the new name durable")?;
    drop(from);
    say(&format!(
        "moved {count} objects; start with --store {to} from now on ({} is what they were)\n",
        moved.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_prefixes_are_read() {
        let parse =
            |url: &str| EtcdPlace::parse(url, None, None, None).map(|place| (place.members, place.prefix));
        let member = |host: &str, port| (host.to_owned(), port);
        assert_eq!(
            parse("etcd://10.0.0.1:2379,etcd-2.lan:4001,[::1]:2380,[::1]/lab/one/").unwrap(),
            (
                vec![
                    member("10.0.0.1", 2379),
                    member("etcd-2.lan", 4001),
                    member("[::1]", 2380),
                    member("[::1]", 2379)
                ],
                "/lab/one".into()
            )
        );
        assert_eq!(parse("etcd://localhost").unwrap(), (vec![member("localhost", 2379)], "/cirro".into()));
        for url in [
            "etcd://",
            "etcd://a:b",
            "etcd://a,,b",
            "etcd://a/",
            "etcd://a/ b",
            "http://a",
            "etcd://::1",
            "etcd://[x]:1",
        ] {
            assert!(parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn certificates_go_together() {
        let file = || Some(PathBuf::from("/f"));
        assert!(EtcdPlace::parse("etcd://a", None, file(), file()).is_err());
        assert!(EtcdPlace::parse("etcd://a", file(), file(), None).is_err());
        assert!(EtcdPlace::parse("etcd://a", file(), None, None).is_ok());
        assert!(EtcdPlace::parse("etcd://a", file(), file(), file()).is_ok());
    }
}
