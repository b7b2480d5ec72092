//! Reads manifests: what they are and what they name. Their bytes are kept as they came.
//!
//! Source: OCI image-spec v1.1, `manifest.md`, `image-index.md`; Docker image manifest V2, schema 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::BlobDigest;
use super::error::DistributionError;
use crate::media;

pub use crate::media::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};

/// OCI's artifact manifest, which did not make it into version 1.1 but is in use.
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// Descriptors in one manifest.
const MAX_DESCRIPTORS: usize = 4096;

/// What a manifest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its media type.
    pub media_type: String,
    /// What kind of artifact it is, told or taken from the configuration's media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<BlobDigest>,
    /// Configuration and layers; the repository has all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Named>,
    /// Manifests of an index; the repository may not have all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifests: Vec<Named>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Content that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its size.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
    /// For which platform it is, as `os/architecture`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: BlobDigest,
    size: u64,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

impl Manifest {
    /// Reads a manifest; `content_type` is what its sender says that it is.
    ///
    /// # Errors
    /// [`DistributionError::ManifestInvalid`].
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, DistributionError> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| invalid(format!("manifest: {error}")))?;
        let media_type = media_type(&document, content_type)?;
        if !matches!(document.schema_version, Some(2)) && media_type != OCI_ARTIFACT {
            return Err(invalid("manifest: schemaVersion is not 2"));
        }
        let is_index = media::is_index(&media_type);
        let has_manifest_members =
            document.config.is_some() || document.layers.is_some() || document.blobs.is_some();
        // A document that is both would be another thing for each reader (CVE-2021-41190).
        if is_index && has_manifest_members || !is_index && document.manifests.is_some() {
            return Err(invalid("manifest: a document that is both manifest and index"));
        }
        if media::is_manifest(&media_type) && document.config.is_none() {
            return Err(invalid("manifest: no config"));
        }
        if is_index && document.manifests.is_none() {
            return Err(invalid("index: no manifests"));
        }
        let config_type = document.config.as_ref().map(|config| config.media_type.clone());
        let artifact_type = document.artifact_type.filter(|kind| !kind.is_empty()).or(config_type);
        let blobs = document.config.into_iter().chain(document.layers.into_iter().flatten());
        let blobs = blobs.chain(document.blobs.into_iter().flatten());
        let manifest = Self {
            artifact_type,
            subject: document.subject.map(|subject| subject.digest),
            // What is fetched from elsewhere is not here.
            blobs: blobs.filter(|blob| blob.urls.as_ref().is_none_or(Vec::is_empty)).map(named).collect(),
            manifests: document.manifests.into_iter().flatten().map(named).collect(),
            annotations: document.annotations.unwrap_or_default(),
            media_type,
        };
        if manifest.blobs.len() + manifest.manifests.len() > MAX_DESCRIPTORS {
            return Err(invalid(format!("manifest: more than {MAX_DESCRIPTORS} descriptors")));
        }
        Ok(manifest)
    }

    /// Whether it leads to other manifests.
    pub fn is_index(&self) -> bool {
        media::is_index(&self.media_type)
    }
}

/// Finds out what a document is: what it says of itself and what its sender says must be the same.
fn media_type(document: &Document, content_type: Option<&str>) -> Result<String, DistributionError> {
    let sent = content_type.and_then(|text| text.split(';').next()).map(str::trim);
    // What clients send that have no idea.
    let sent = sent.filter(|text| !matches!(*text, "" | "application/json" | "application/octet-stream"));
    let media_type = match (&document.media_type, sent) {
        (Some(own), Some(sent)) if own != sent => {
            return Err(invalid(format!("manifest: it says that it is `{own}`, its Content-Type `{sent}`")));
        }
        (Some(own), _) => own.clone(),
        (None, Some(sent)) => sent.to_owned(),
        (None, None) if document.manifests.is_some() => OCI_INDEX.to_owned(),
        (None, None) => OCI_MANIFEST.to_owned(),
    };
    match media_type.as_str() {
        OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST | OCI_ARTIFACT => Ok(media_type),
        other => Err(invalid(format!("manifest: media type `{}` is not supported", other.escape_debug()))),
    }
}

fn named(descriptor: Descriptor) -> Named {
    let Descriptor { media_type, digest, size, platform, .. } = descriptor;
    let platform = platform.map(|platform| format!("{}/{}", platform.os, platform.architecture));
    Named { digest, size, media_type, platform }
}

fn invalid(message: impl Into<String>) -> DistributionError {
    DistributionError::ManifestInvalid(message.into())
}

#[cfg(test)]
mod tests {
    use super::super::digest::Algorithm;
    use super::*;

    fn digest(text: &str) -> BlobDigest {
        BlobDigest::of(Algorithm::Sha256, text.as_bytes())
    }

    #[test]
    fn an_artifact_without_a_type_has_that_of_its_configuration() {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"mediaType":"application/vnd.cncf.helm.config.v1+json","digest":"{}","size":1}},"layers":[{{"mediaType":"x","digest":"{}","size":2}}],"subject":{{"mediaType":"x","digest":"{}","size":3}}}}"#,
            digest("a"),
            digest("b"),
            digest("c")
        );
        let manifest = Manifest::parse(text.as_bytes(), Some(OCI_MANIFEST)).unwrap();
        assert_eq!(manifest.artifact_type.as_deref(), Some("application/vnd.cncf.helm.config.v1+json"));
        assert_eq!(manifest.subject, Some(digest("c")));
        let sizes: Vec<_> = manifest.blobs.iter().map(|blob| (blob.digest.clone(), blob.size)).collect();
        assert_eq!(sizes, [(digest("a"), 1), (digest("b"), 2)]);
    }

    #[test]
    fn what_is_two_things_or_none_is_refused() {
        let config = format!(r#""config":{{"mediaType":"x","digest":"{}","size":1}}"#, digest("a"));
        for (text, kind) in [
            ("", None),
            ("[]", None),
            (r#"{"schemaVersion":1}"#, None),
            (r#"{"schemaVersion":2}"#, None),
            (&format!(r#"{{"schemaVersion":2,{config},"manifests":[]}}"#), None),
            (&format!(r#"{{"schemaVersion":2,{config}}}"#), Some(OCI_INDEX)),
            (
                &format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",{config}}}"#),
                Some(DOCKER_MANIFEST),
            ),
            (&format!(r#"{{"schemaVersion":2,{config}}}"#), Some("text/html")),
            (r#"{"schemaVersion":2,"config":{"mediaType":"x","digest":"sha256:../x","size":1}}"#, None),
        ] {
            let refused = Manifest::parse(text.as_bytes(), kind);
            assert!(matches!(refused, Err(DistributionError::ManifestInvalid(_))), "{text} {kind:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400)) {
            let _ = Manifest::parse(&bytes, None);
        }
    }
}
