//! TLS to registries: the system's certificate authorities, a directory of further ones per host, or no check.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Where distributions keep the authorities that a host trusts.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];
/// Directories with a directory per `host:port`, whose `*.crt` are trusted for that host, as docker has it.
const DIRECTORIES: [&str; 2] = ["/etc/cirro/certs.d", "/etc/docker/certs.d"];
/// A bundle is at most this long.
const MAX_BUNDLE: u64 = 16 << 20;

/// Makes the configuration for one host; blocks on small files.
pub(super) fn config(host: &str, port: u16, verify: bool) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the cipher suites of both versions");
    if !verify {
        let verifier = Arc::new(Anyone(provider));
        return Arc::new(
            builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth(),
        );
    }
    Arc::new(builder.with_root_certificates(roots(host, port)).with_no_client_auth())
}

fn roots(host: &str, port: u16) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    if let Some(bundle) = BUNDLES.iter().map(Path::new).find(|path| path.exists()) {
        add(&mut roots, bundle);
    }
    for directory in DIRECTORIES {
        for name in [host.to_owned(), format!("{host}:{port}")] {
            let Ok(entries) = std::fs::read_dir(Path::new(directory).join(name)) else { continue };
            let certificates = entries.flatten().map(|entry| entry.path());
            certificates
                .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
                .for_each(|path| add(&mut roots, &path));
        }
    }
    roots
}

fn add(roots: &mut RootCertStore, path: &Path) {
    if std::fs::metadata(path).is_ok_and(|file| file.len() > MAX_BUNDLE) {
        tracing::warn!(path = %path.display(), "too large for a file of certificates");
        return;
    }
    match std::fs::read(path) {
        // One authority that cannot be read does not take the others away.
        Ok(pem) => drop(roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten())),
        Err(error) => tracing::warn!(path = %path.display(), %error, "cannot read certificates"),
    }
}

/// Accepts every certificate: for registries that are configured as insecure.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
