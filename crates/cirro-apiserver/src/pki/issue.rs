//! Issues certificates for signing requests (PKCS #10).
//!
//! The subject is taken over byte for byte: a certificate's groups are its organizations, and the library
//! that makes our own certificates knows one only. So the certificate is put together here.
//!
//! Source: RFC 5280, sections 4.1 and 4.2; RFC 2986; `pkg/controller/certificates/signer/signer.go`.

use jiff::{SignedDuration, Timestamp};
use rcgen::SigningKey as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;

use super::Pki;
use crate::identity;

const SEQUENCE: u8 = 0x30;
const SET_BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const TIME: u8 = 0x18;
const UTC_TIME: u8 = 0x17;
/// `ecdsa-with-SHA256`.
const SIGNATURE: [u8; 8] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: [u8; 3] = [0x55, 0x1d, 0x25];
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];
const AUTHORITY_KEY: [u8; 3] = [0x55, 0x1d, 0x23];
const ALTERNATIVE_NAMES: [u8; 3] = [0x55, 0x1d, 0x11];
/// For clocks that go behind.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

/// A signing request that was read and whose signature is its own key's.
pub(crate) struct SigningRequest {
    der: Vec<u8>,
    /// Common name.
    pub(crate) name: String,
    /// Organizations.
    pub(crate) groups: Vec<String>,
    /// Whether it names hosts or addresses.
    pub(crate) names_hosts: bool,
    /// Whether it names mail addresses, paths or anything else.
    pub(crate) names_others: bool,
}

impl SigningRequest {
    /// Reads a request in PEM; says what is wrong with it.
    pub(crate) fn read(pem: &[u8]) -> Result<Self, String> {
        let der = CertificateSigningRequestDer::from_pem_slice(pem);
        let der = der.map_err(|_| "PEM block type must be CERTIFICATE REQUEST".to_owned())?.to_vec();
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|why| format!("asn1: {why}"))?;
        if !rest.is_empty() {
            return Err("asn1: there is something after the request".into());
        }
        request.verify_signature().map_err(|why| format!("the request's signature: {why}"))?;
        let subject = &request.certification_request_info.subject;
        let text = |attribute: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            attribute.as_str().map(str::to_owned).map_err(|why| format!("the subject: {why}"))
        };
        let name = subject.iter_common_name().next().map(text).transpose()?.unwrap_or_default();
        let groups = subject.iter_organization().map(text).collect::<Result<_, _>>()?;
        let names: Vec<_> = request
            .requested_extensions()
            .into_iter()
            .flatten()
            .filter_map(|one| match one {
                ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
                _ => None,
            })
            .flatten()
            .map(|one| matches!(one, GeneralName::DNSName(_) | GeneralName::IPAddress(_)))
            .collect();
        let (names_hosts, names_others) = (names.contains(&true), names.contains(&false));
        Ok(Self { name, groups, names_hosts, names_others, der })
    }
}

/// What a certificate is for: bits of its key usage and the extended ones.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Usages {
    bits: u16,
    extended: Vec<u8>,
}

impl Usages {
    /// Reads usages by their names in Kubernetes; says which is not known.
    pub(crate) fn read<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut usages = Self::default();
        for name in names {
            // The first bit is the highest.
            let bit = match name {
                "signing" | "digital signature" => 0,
                "content commitment" => 1,
                "key encipherment" => 2,
                "data encipherment" => 3,
                "key agreement" => 4,
                "cert sign" => 5,
                "crl sign" => 6,
                "encipher only" => 7,
                "decipher only" => 8,
                other => {
                    usages
                        .extended
                        .push(extended(other).ok_or_else(|| format!("unrecognized usage {other:?}"))?);
                    continue;
                }
            };
            usages.bits |= 1 << (15 - bit);
        }
        Ok(usages)
    }
}

/// Returns the last number of an extended usage below `1.3.6.1.5.5.7.3`.
fn extended(name: &str) -> Option<u8> {
    Some(match name {
        "server auth" => 1,
        "client auth" => 2,
        "code signing" => 3,
        "email protection" | "s/mime" => 4,
        "ipsec end system" => 5,
        "ipsec tunnel" => 6,
        "ipsec user" => 7,
        "timestamping" => 8,
        "ocsp signing" => 9,
        _ => return None,
    })
}

impl Pki {
    /// Issues a certificate for a request, for at most as long as the authority's own lasts.
    pub(crate) fn issue(
        &self,
        request: &SigningRequest,
        usages: &Usages,
        life: SignedDuration,
    ) -> Result<String, String> {
        let say = |why: &dyn std::fmt::Display| why.to_string();
        let authority = CertificateDer::from_pem_slice(self.ca().as_bytes()).map_err(|why| say(&why))?;
        let (_, authority) = x509_parser::parse_x509_certificate(&authority).map_err(|why| say(&why))?;
        let (_, parsed) = X509CertificationRequest::from_der(&request.der).map_err(|why| say(&why))?;
        let now = Timestamp::now();
        let last =
            Timestamp::from_second(authority.validity().not_after.timestamp()).map_err(|why| say(&why))?;
        let (from, until) = (now - BACKDATE, (now + life).min(last));
        let info = &parsed.certification_request_info;
        let algorithm = tlv(SEQUENCE, &[&tlv(OBJECT, &[&SIGNATURE])]);
        let body = tlv(
            SEQUENCE,
            &[
                // Version 3.
                &tlv(0xa0, &[&tlv(INTEGER, &[&[2]])]),
                &tlv(INTEGER, &[&serial()]),
                &algorithm,
                authority.subject().as_raw(),
                &tlv(SEQUENCE, &[&time(from), &time(until)]),
                info.subject.as_raw(),
                info.subject_pki.raw,
                &tlv(0xa3, &[&tlv(SEQUENCE, &[&extensions(&authority, &parsed, usages)])]),
            ],
        );
        let signature = self.issuer.key().sign(&body).map_err(|why| say(&why))?;
        let certificate = tlv(SEQUENCE, &[&body, &algorithm, &tlv(BITS, &[&[0], &signature])]);
        Ok(pem(&certificate))
    }
}

fn extensions(
    authority: &x509_parser::certificate::X509Certificate<'_>,
    request: &X509CertificationRequest<'_>,
    usages: &Usages,
) -> Vec<u8> {
    let mut all = Vec::new();
    let mut add = |oid: &[u8], critical: bool, value: &[u8]| {
        let critical = if critical { tlv(SET_BOOLEAN, &[&[0xff]]) } else { Vec::new() };
        all.extend(tlv(SEQUENCE, &[&tlv(OBJECT, &[oid]), &critical, &tlv(OCTETS, &[value])]));
    };
    if usages.bits != 0 {
        let bytes = usages.bits.to_be_bytes();
        let bytes = if bytes[1] == 0 { &bytes[..1] } else { &bytes[..] };
        let unused = bytes.last().map_or(0, |last| last.trailing_zeros() as u8);
        add(&KEY_USAGE, true, &tlv(BITS, &[&[unused], bytes]));
    }
    if !usages.extended.is_empty() {
        let each = usages.extended.iter().flat_map(|last| tlv(OBJECT, &[&[0x2b, 6, 1, 5, 5, 7, 3, *last]]));
        add(&EXTENDED_KEY_USAGE, false, &tlv(SEQUENCE, &[&each.collect::<Vec<_>>()]));
    }
    // Not an authority.
    add(&BASIC_CONSTRAINTS, true, &tlv(SEQUENCE, &[]));
    let key = authority.extensions().iter().find_map(|one| match one.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0),
        _ => None,
    });
    if let Some(key) = key {
        add(&AUTHORITY_KEY, false, &tlv(SEQUENCE, &[&tlv(0x80, &[key])]));
    }
    let requested = request.certification_request_info.iter_attributes();
    let requested = requested.filter_map(|attribute| match attribute.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(requested) => Some(&requested.extensions),
        _ => None,
    });
    if let Some(names) = requested.flatten().find(|one| one.oid.as_bytes() == ALTERNATIVE_NAMES) {
        add(&ALTERNATIVE_NAMES, names.critical, names.value);
    }
    all
}

/// Writes a tag, the length and the parts of a value.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    if length < 0x80 {
        out.push(length as u8);
    } else {
        let bytes = length.to_be_bytes();
        let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(0)..];
        out.push(0x80 | bytes.len() as u8);
        out.extend_from_slice(bytes);
    }
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out
}

/// A random number, positive and of 15 bytes.
fn serial() -> Vec<u8> {
    let mut bytes = hex::decode(identity::uid().replace('-', "")).expect("a uid is hexadecimal");
    bytes.truncate(15);
    bytes[0] = bytes[0] & 0x3f | 0x40;
    bytes
}

/// Until 2049 years have two digits (RFC 5280, 4.1.2.5).
fn time(time: Timestamp) -> Vec<u8> {
    let text = time.strftime("%Y%m%d%H%M%SZ").to_string();
    if text.as_str() < "2050" {
        tlv(UTC_TIME, &[&text.as_bytes()[2..]])
    } else {
        tlv(TIME, &[text.as_bytes()])
    }
}

fn pem(der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line)).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;
    use crate::auth::User;

    fn request(name: &str, group: &str, hosts: &[&str]) -> String {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.distinguished_name.push(DnType::CommonName, name);
        params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_is_the_authoritys() {
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let request = SigningRequest::read(request("jane", "devs", &["a.example"]).as_bytes()).unwrap();
        assert_eq!((request.name.as_str(), request.groups.as_slice()), ("jane", &["devs".to_owned()][..]));
        assert!(request.names_hosts && !request.names_others);
        let usages = Usages::read(["digital signature", "client auth"].into_iter()).unwrap();
        let issued = pki.issue(&request, &usages, SignedDuration::from_hours(1)).unwrap();
        let der = CertificateDer::from_pem_slice(issued.as_bytes()).unwrap();
        let user = User::from_certificate(&der).unwrap();
        assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("jane", "devs"));
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        let authority = CertificateDer::from_pem_slice(pki.ca().as_bytes()).unwrap();
        let (_, authority) = x509_parser::parse_x509_certificate(&authority).unwrap();
        certificate.verify_signature(Some(authority.public_key())).unwrap();
        assert_eq!(certificate.issuer().as_raw(), authority.subject().as_raw());
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(certificate.extended_key_usage().unwrap().unwrap().value.client_auth);
        assert!(!certificate.is_ca());
        assert!(certificate.subject_alternative_name().unwrap().is_some());
        let seconds = certificate.validity().not_after.timestamp() - Timestamp::now().as_second();
        assert!((3590..=3600).contains(&seconds), "{seconds}");
    }

    #[test]
    fn requests_that_are_not_their_keys_are_refused() {
        assert!(SigningRequest::read(b"nothing").is_err());
        let pem = request("jane", "devs", &[]);
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut bytes = der.to_vec();
        // Another name of the same length under the same signature.
        let at = bytes.windows(4).position(|window| window == b"jane").unwrap();
        bytes[at..at + 4].copy_from_slice(b"root");
        let forged = super::pem(&bytes).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert!(SigningRequest::read(forged.as_bytes()).is_err_and(|why| why.contains("signature")));
        assert!(Usages::read(["world domination"].into_iter()).is_err());
    }
}
