//! What aggregated API servers know the server by when it says for whom it asks.
//!
//! The authority is one of its own: who has a client certificate of the cloud's authority could otherwise name anybody
//! to an aggregated server that believes the front proxy.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{Pki, PkiError};

/// The authority of the front proxy and a certificate of it.
pub(crate) struct FrontProxy {
    ca: String,
    /// What connections to aggregated servers show.
    pub(crate) client: Arc<CertifiedKey>,
}

impl FrontProxy {
    /// Common name of the certificate.
    pub(crate) const NAME: &'static str = "front-proxy-client";

    /// Opens the authority in `directory`, or makes it: `front-proxy-ca.crt` and `front-proxy-ca.key`.
    pub(crate) fn open(directory: &Path) -> Result<Self, PkiError> {
        let authority = Pki::open_as(directory, "front-proxy-ca", "front-proxy-ca")?;
        let client = authority.client(Self::NAME, None)?;
        let tls = |why: String| PkiError::Tls(why);
        let certificate = CertificateDer::from_pem_slice(client.certificate.as_bytes());
        let certificate = certificate.map_err(|why| tls(why.to_string()))?;
        let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).map_err(|why| tls(why.to_string()))?;
        let provider = rustls::crypto::ring::default_provider();
        let client = CertifiedKey::from_der(vec![certificate], key, &provider);
        let client = Arc::new(client.map_err(|why| tls(why.to_string()))?);
        Ok(Self { ca: authority.ca().to_owned(), client })
    }

    /// Returns the authority's certificate as PEM.
    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_proxys_authority_is_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let cloud = Pki::open(directory.path()).unwrap();
        let proxy = FrontProxy::open(directory.path()).unwrap();
        assert_ne!(cloud.ca(), proxy.ca());
        assert_eq!(FrontProxy::open(directory.path()).unwrap().ca(), proxy.ca());
        let (_, certificate) = x509_parser::parse_x509_certificate(&proxy.client.cert[0]).unwrap();
        assert_eq!(
            certificate.subject().iter_common_name().next().unwrap().as_str().unwrap(),
            FrontProxy::NAME
        );
    }
}
