//! The cloud's own certificate authority.
//!
//! The authority's key and certificate are files in the data directory; server and client
//! certificates are made when they are needed and are not kept.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Zoned;
use jiff::civil::Date;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

mod front_proxy;
pub(crate) mod issue;

pub(crate) use front_proxy::FrontProxy;

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;

/// Why certificates could not be had.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file of the authority could not be read or written.
    #[error("access `{path}`")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    /// The TLS library refused what was made.
    #[error("configure TLS: {0}")]
    Tls(String),
}

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// The authority.
pub struct Pki {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Pki {
    /// Opens the authority in `directory`, or makes it: `ca.crt` and `ca.key` (mode 0600).
    pub fn open(directory: &Path) -> Result<Self, PkiError> {
        Self::open_as(directory, "ca", "cirro-ca")
    }

    /// Opens or makes an authority whose files begin with `stem`.
    fn open_as(directory: &Path, stem: &str, name: &str) -> Result<Self, PkiError> {
        let file = |ending: &str| directory.join(format!("{stem}.{ending}"));
        let (certificate_path, key_path) = (file("crt"), file("key"));
        let key = match read(&key_path)? {
            Some(pem) => KeyPair::from_pem(&pem).map_err(PkiError::Make)?,
            None => {
                let mut builder = fs::DirBuilder::new();
                let made = builder.recursive(true).mode(0o700).create(directory);
                made.map_err(|source| PkiError::File { path: directory.into(), source })?;
                let key = KeyPair::generate().map_err(PkiError::Make)?;
                write(&key_path, &key.serialize_pem(), 0o600)?;
                key
            }
        };
        let params = authority(name);
        let certificate = match read(&certificate_path)? {
            Some(pem) => pem,
            None => {
                let pem = params.self_signed(&key).map_err(PkiError::Make)?.pem();
                write(&certificate_path, &pem, 0o644)?;
                pem
            }
        };
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// Returns the authority's certificate as PEM.
    pub fn ca(&self) -> &str {
        &self.certificate
    }

    /// Makes a server's certificate and returns what it serves TLS with: clients may show a
    /// certificate of this authority, and need not.
    pub fn server_tls(
        &self,
        names: &[String],
        addresses: &[IpAddr],
    ) -> Result<Arc<rustls::ServerConfig>, PkiError> {
        let names = names.iter().filter_map(|name| name.as_str().try_into().ok()).map(SanType::DnsName);
        let sans = names.chain(addresses.iter().copied().map(SanType::IpAddress)).collect();
        let server = self.leaf("kube-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth, sans)?;
        let tls = |why: &dyn std::fmt::Display| PkiError::Tls(why.to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.certificate.as_bytes()).map_err(|why| tls(&why))?;
        roots.add(ca).map_err(|why| tls(&why))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|why| tls(&why))?;
        let certificate =
            CertificateDer::from_pem_slice(server.certificate.as_bytes()).map_err(|why| tls(&why))?;
        let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).map_err(|why| tls(&why))?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|why| tls(&why))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate], key)
            .map_err(|why| tls(&why))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }

    /// Makes a client's certificate: who it is, and one group.
    pub fn client(&self, name: &str, group: Option<&str>) -> Result<Credentials, PkiError> {
        self.leaf(name, group, ExtendedKeyUsagePurpose::ClientAuth, Vec::new())
    }

    /// Returns a kubeconfig for the administrator, certificates included.
    pub fn admin_kubeconfig(&self, server_url: &str) -> Result<String, PkiError> {
        let admin = self.client("kubernetes-admin", Some(crate::auth::User::MASTERS))?;
        let [ca, certificate, key] =
            [self.ca(), &admin.certificate, &admin.key].map(|pem| STANDARD.encode(pem));
        Ok(format!(
            "apiVersion: v1
kind: Config
clusters:
- name: cirro
  cluster:
    server: {server_url}
    certificate-authority-data: {ca}
users:
- name: kubernetes-admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: kubernetes-admin@cirro
  context:
    cluster: cirro
    user: kubernetes-admin
    namespace: default
current-context: kubernetes-admin@cirro
"
        ))
    }

    fn leaf(
        &self,
        name: &str,
        group: Option<&str>,
        purpose: ExtendedKeyUsagePurpose,
        sans: Vec<SanType>,
    ) -> Result<Credentials, PkiError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, group);
        params.subject_alt_names = sans;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, LEAF_YEARS);
        let key = KeyPair::generate().map_err(PkiError::Make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(PkiError::Make)?.pem();
        Ok(Credentials { certificate, key: key.serialize_pem() })
    }
}

/// Returns what the authority's certificate says; the same at every start, since the issuer's name
/// and key are all that what it signs depends on.
fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    set_validity(&mut params, CA_YEARS);
    params
}

fn distinguished_name(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// From yesterday, for clocks that go wrong, to today in so many years.
fn set_validity(params: &mut CertificateParams, years: i16) {
    let today = Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let day = |date: Date| rcgen::date_time_ymd(date.year().into(), date.month() as u8, date.day() as u8);
    let yesterday = today.yesterday().unwrap_or(today);
    // The 28th exists in every month of every year.
    let end = Date::new(today.year() + years, today.month(), today.day().min(28)).unwrap_or(today);
    params.not_before = day(yesterday);
    params.not_after = day(end);
}

/// Reads a file; `None` when there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::File { path: path.into(), source }),
    }
}

/// Writes a file whole or not at all.
pub(crate) fn write(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let temporary = path.with_extension("new");
    let written = || -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().map_err(|source| PkiError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::auth::User;

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pki");
        let ca = Pki::open(&path).unwrap().ca().to_owned();
        assert_eq!(Pki::open(&path).unwrap().ca(), ca);
        let mode = fs::metadata(path.join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_clients_certificate_says_who_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let client = pki.client("kubernetes-admin", Some("system:masters")).unwrap();
        let der = CertificateDer::from_pem_slice(client.certificate.as_bytes()).unwrap();
        let user = User::from_certificate(&der).unwrap();
        assert_eq!(user.name, "kubernetes-admin");
        assert!(user.is_master() && !user.is_anonymous());
        pki.server_tls(&["localhost".into()], &["127.0.0.1".parse().unwrap()]).unwrap();
    }
}
