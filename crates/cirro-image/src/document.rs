//! Manifests and indexes: the documents between a name and the layers.
//!
//! A document is read strictly, since clients that disagree about what it is can be made to run different
//! images (CVE-2021-41190): what it has must fit what it says that it is and what was said of it.
//!
//! Source: OCI image-spec v1.1, `manifest.md`, `image-index.md`, `descriptor.md`.

use std::collections::BTreeMap;

use cirro_types::Digest;
use serde::{Deserialize, Serialize};

use crate::error::{ImageError, invalid};
use crate::media;

/// This host's architecture in Go's words.
pub const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

/// Names a blob: what it is, its digest, its length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Digest of the bytes.
    pub digest: Digest,
    /// Number of bytes.
    pub size: u64,
    /// Other places that have the bytes; never used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// What a manifest of an index is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of artifact a manifest of an index has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// Makes a descriptor without remarks.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        let media_type = media_type.to_owned();
        Self { media_type, digest, size, urls: None, annotations: None, platform: None, artifact_type: None }
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `unknown` of an attestation.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Version of the operating system (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system (Windows).
    #[serde(default, rename = "os.features", skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Returns the platform that this host runs.
    pub fn host() -> Self {
        let (architecture, os) = (ARCHITECTURE.to_owned(), "linux".to_owned());
        Self { architecture, os, os_version: None, os_features: None, variant: None }
    }

    /// Reads `os[/architecture[/variant]]` or a bare architecture, as `--platform` has it.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] with docker's text.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let word = |part: &str| {
            let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
            !part.is_empty() && part.len() <= 64 && part.bytes().all(letter)
        };
        let parts: Vec<String> = text.split('/').map(str::to_ascii_lowercase).collect();
        if parts.len() > 3 || !parts.iter().all(|part| word(part)) {
            let text: String = text.chars().take(100).collect();
            return invalid(format!(
                "\"{text}\" is an invalid component of \"{text}\": platform specifier component must match \"^[A-Za-z0-9_.-]+$\": invalid argument"
            ));
        }
        let (os, architecture, variant) = match &parts[..] {
            [one] if ["linux", "windows", "darwin", "freebsd"].contains(&one.as_str()) => {
                (one.clone(), ARCHITECTURE.into(), None)
            }
            [one] => ("linux".into(), one.clone(), None),
            [os, architecture] => (os.clone(), architecture.clone(), None),
            [os, architecture, variant, ..] => (os.clone(), architecture.clone(), Some(variant.clone())),
            [] => return invalid("platform is empty"),
        };
        let (architecture, variant) = normalised(architecture, variant);
        Ok(Self { architecture, os, os_version: None, os_features: None, variant })
    }

    /// Tells whether an image for `other` is what one who wants this platform wants.
    pub fn accepts(&self, other: &Self) -> bool {
        let (architecture, variant) = normalised(other.architecture.clone(), other.variant.clone());
        let variant_fits = self.variant.is_none() || variant.is_none() || self.variant == variant;
        self.os == other.os && self.architecture == architecture && variant_fits
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// Other names of the same processor, as containerd knows them.
fn normalised(architecture: String, variant: Option<String>) -> (String, Option<String>) {
    match (architecture.as_str(), variant.as_deref()) {
        ("x86_64" | "x86-64" | "amd64", variant) => {
            ("amd64".into(), variant.filter(|variant| *variant != "v1").map(str::to_owned))
        }
        ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64".into(), None),
        ("armhf", _) => ("arm".into(), Some("v7".into())),
        ("i386", _) => ("386".into(), None),
        _ => (architecture, variant),
    }
}

/// A manifest: one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
    /// What it speaks of, when it is a remark on another document.
    pub subject: Option<Descriptor>,
}

/// What a name or descriptor led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image, or some other artifact in its form.
    Manifest(Box<Manifest>),
    /// Manifests to choose from.
    Index(Vec<Descriptor>),
}

/// What a document may have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Members {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    subject: Option<Descriptor>,
    /// Of schema 1.
    #[serde(default, rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a document and checks it against `stated`, the type that a descriptor or header gave it.
    ///
    /// # Errors
    /// [`ImageError::Invalid`] for everything that is not exactly one of the two.
    pub fn parse(bytes: &[u8], stated: Option<&str>) -> Result<Self, ImageError> {
        let members: Members = serde_json::from_slice(bytes)
            .map_err(|error| ImageError::Invalid(format!("manifest: {error}")))?;
        let own = members.media_type.as_deref();
        if members.fs_layers.is_some()
            || members.schema_version == Some(1)
            || own.is_some_and(media::is_schema_1)
        {
            return invalid(
                "manifests of Docker's schema version 1 are not supported: push the image again with a newer docker",
            );
        }
        for one in [own, stated].into_iter().flatten() {
            if !media::is_manifest(one) && !media::is_index(one) {
                return invalid(format!("manifest: media type `{}` is not supported", shown(one)));
            }
        }
        if let (Some(own), Some(stated)) = (own, stated)
            && own != stated
        {
            return invalid(format!(
                "manifest: it says that it is `{}`, but it came as `{stated}`",
                shown(own)
            ));
        }
        let kind = own.or(stated);
        let Members { config, layers, manifests, subject, .. } = members;
        match (config, layers, manifests) {
            (None, None, Some(manifests)) if kind.is_none_or(media::is_index) => Ok(Self::Index(manifests)),
            (Some(config), layers, None) if kind.is_none_or(media::is_manifest) => {
                let layers = layers.unwrap_or_default();
                Ok(Self::Manifest(Box::new(Manifest { config, layers, subject })))
            }
            (None, None, None) if kind.is_some_and(media::is_index) => Ok(Self::Index(Vec::new())),
            (None, _, None) => invalid("manifest: no config"),
            (config, layers, Some(_)) if config.is_some() || layers.is_some() => {
                invalid("manifest: a document that is both manifest and index")
            }
            _ => invalid("manifest: its members do not fit its media type"),
        }
    }
}

fn shown(text: &str) -> String {
    crate::error::shown(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn descriptor(media_type: &str) -> serde_json::Value {
        json!({"mediaType": media_type, "digest": Digest::of(b"x"), "size": 1})
    }

    fn parse(value: &serde_json::Value, stated: Option<&str>) -> Result<Document, ImageError> {
        Document::parse(value.to_string().as_bytes(), stated)
    }

    #[test]
    fn a_manifest_and_an_index_are_told_apart() {
        let manifest = json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": descriptor(media::OCI_CONFIG), "layers": [descriptor(media::OCI_LAYER)]});
        let Document::Manifest(read) = parse(&manifest, Some(media::OCI_MANIFEST)).unwrap() else { panic!() };
        assert_eq!(read.layers.len(), 1);
        let index = json!({"schemaVersion": 2, "manifests": [descriptor(media::OCI_MANIFEST)]});
        assert!(
            matches!(parse(&index, Some(media::OCI_INDEX)).unwrap(), Document::Index(list) if list.len() == 1)
        );
        assert!(matches!(parse(&index, None).unwrap(), Document::Index(_)));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let (config, layers) = (descriptor(media::OCI_CONFIG), json!([]));
        let both = json!({"config": config, "layers": layers, "manifests": []});
        assert!(parse(&both, None).unwrap_err().to_string().contains("both manifest and index"));
        let manifest = json!({"mediaType": media::OCI_MANIFEST, "config": config, "layers": layers});
        assert!(parse(&manifest, Some(media::DOCKER_MANIFEST)).is_err());
        assert!(parse(&manifest, Some(media::OCI_INDEX)).is_err());
        let index = json!({"manifests": []});
        assert!(parse(&index, Some(media::OCI_MANIFEST)).is_err());
        assert!(parse(&json!({"layers": []}), None).is_err());
        assert!(parse(&json!({"mediaType": "text/html"}), None).is_err());
        let first = json!({"schemaVersion": 1, "fsLayers": []});
        assert!(parse(&first, None).unwrap_err().to_string().contains("schema version 1"));
    }

    #[test]
    fn platforms_are_read_as_docker_reads_them() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("x86_64", "linux/amd64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
            ("Linux/AMD64", "linux/amd64"),
            ("linux", "linux/amd64"),
        ] {
            if std::env::consts::ARCH == "x86_64" || text.contains('/') {
                assert_eq!(Platform::parse(text).unwrap().to_string(), shown);
            }
        }
        for text in ["", "a/b/c/d", "linux/a b", "linux/"] {
            assert!(Platform::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_platform_accepts_its_own_under_any_name() {
        let platform = |text: &str| Platform::parse(text).unwrap();
        assert!(platform("linux/arm64").accepts(&platform("linux/arm64/v8")));
        assert!(!platform("linux/arm/v7").accepts(&platform("linux/arm/v6")));
        assert!(!platform("linux/amd64").accepts(&platform("linux/arm64")));
        let unknown = Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::host() };
        assert!(!Platform::host().accepts(&unknown));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(Document::parse(&bytes, None));
        }

        #[test]
        fn no_platform_makes_the_parser_panic(text in ".{0,80}") {
            drop(Platform::parse(&text));
        }
    }
}
