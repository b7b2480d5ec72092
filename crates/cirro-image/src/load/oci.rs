//! OCI image layouts: `index.json` leads to manifests, maybe through further indexes.
//!
//! Source: OCI image-spec v1.1, `image-layout.md`, `image-index.md`, `manifest.md`, `annotations.md`.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_types::{Digest, ImageReference};
use serde::Deserialize;

use super::spool::{Spool, blob_name};
use super::{Planned, PlannedLayer, check_config};
use crate::error::{ImageError, invalid};
use crate::images::NewImage;
use crate::limits::Limits;

pub(super) const INDEX: &[u8] = b"index.json";

/// This host's architecture in Go's words.
pub(super) const ARCHITECTURE: &str = match std::env::consts::ARCH.as_bytes() {
    b"x86_64" => "amd64",
    b"aarch64" => "arm64",
    _ => std::env::consts::ARCH,
};

const MANIFEST: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const CONFIGS: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYERS: [&str; 6] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];

#[derive(Deserialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize, Clone)]
struct Platform {
    os: String,
    architecture: String,
}

/// A manifest or an index; a document that is both is refused (CVE-2021-41190).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

/// What is looked for in an archive.
struct Search<'a> {
    spool: &'a Spool,
    limits: &'a Limits,
    found: Vec<Planned>,
    /// Descriptors seen: indexes may name each other as often as they like.
    seen: usize,
}

/// Reads every document of the archive.
pub(super) fn plan(spool: &Spool, limits: &Limits) -> Result<Vec<Planned>, ImageError> {
    let mut search = Search { spool, limits, found: Vec::new(), seen: 0 };
    let index = parse(&spool.document(INDEX)?, "index.json", &INDEXES)?;
    search.index(index, &[], 0)?;
    if search.found.is_empty() {
        return invalid(format!("index.json: no image for linux/{ARCHITECTURE}"));
    }
    Ok(search.found)
}

impl Search<'_> {
    fn index(&mut self, index: Document, names: &[ImageReference], depth: usize) -> Result<(), ImageError> {
        if index.layers.is_some() || index.config.is_some() {
            return invalid("index: a document that is both manifest and index");
        }
        if depth > self.limits.index_depth {
            return invalid("index: indexes are nested too deep");
        }
        for descriptor in index.manifests.unwrap_or_default() {
            self.seen += 1;
            if self.seen > self.limits.images {
                return invalid(format!("index: more than {} images", self.limits.images));
            }
            if !is_for_this_host(&descriptor) {
                continue;
            }
            let own = names_of(&descriptor);
            let names = if own.is_empty() { names } else { &own };
            if INDEXES.contains(&descriptor.media_type.as_str()) {
                let index = parse(&self.blob(&descriptor)?, "index", &INDEXES)?;
                self.index(index, names, depth + 1)?;
            } else if MANIFEST.contains(&descriptor.media_type.as_str()) {
                let manifest = parse(&self.blob(&descriptor)?, "manifest", &MANIFEST)?;
                self.manifest(manifest, names)?;
            } else {
                return invalid(format!("index: media type `{}` is not supported", descriptor.media_type));
            }
        }
        Ok(())
    }

    fn manifest(&mut self, manifest: Document, names: &[ImageReference]) -> Result<(), ImageError> {
        if manifest.manifests.is_some() {
            return invalid("manifest: a document that is both manifest and index");
        }
        let Some(config) = manifest.config else { return invalid("manifest: no config") };
        if !CONFIGS.contains(&config.media_type.as_str()) {
            return invalid(format!("manifest: `{}` is no image configuration", config.media_type));
        }
        let descriptors = manifest.layers.unwrap_or_default();
        if descriptors.len() > self.limits.layers {
            let (count, limit) = (descriptors.len(), self.limits.layers);
            return invalid(format!("max depth exceeded: {count} layers, at most {limit}"));
        }
        let bytes = self.blob(&config)?;
        let id = config.digest;
        let config = check_config(&bytes, descriptors.len())?;
        let layers = descriptors.iter().map(|layer| self.layer(layer)).collect::<Result<_, _>>()?;
        let tags = names.to_vec();
        // The same image may be there once for each of its names.
        if let Some(known) = self.found.iter_mut().find(|known| known.image.id == id) {
            known
                .image
                .tags
                .extend(tags.into_iter().filter(|tag| !known.image.tags.contains(tag)).collect::<Vec<_>>());
            return Ok(());
        }
        self.found.push(Planned { image: NewImage { id, bytes, config: Arc::new(config), tags }, layers });
        Ok(())
    }

    fn layer(&self, descriptor: &Descriptor) -> Result<PlannedLayer, ImageError> {
        if !LAYERS.contains(&descriptor.media_type.as_str()) {
            return invalid(format!(
                "manifest: layers of type `{}` are not supported",
                descriptor.media_type
            ));
        }
        let member = blob_name(&descriptor.digest);
        self.check_size(descriptor, &member)?;
        Ok(PlannedLayer { member, blob: Some(descriptor.digest) })
    }

    /// Reads a document that a descriptor names and checks it against what the descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
        let member = blob_name(&descriptor.digest);
        self.check_size(descriptor, &member)?;
        let bytes = self.spool.document(&member)?;
        let found = Digest::of(&bytes);
        if found != descriptor.digest {
            return invalid(format!("blob {} has the digest {found}", descriptor.digest));
        }
        Ok(bytes)
    }

    fn check_size(&self, descriptor: &Descriptor, member: &[u8]) -> Result<(), ImageError> {
        let found = self.spool.size(member)?;
        if found != descriptor.size {
            let Descriptor { digest, size, .. } = descriptor;
            return invalid(format!("blob {digest} has {found} bytes, its descriptor says {size}"));
        }
        Ok(())
    }
}

fn parse(bytes: &[u8], what: &str, types: &[&str]) -> Result<Document, ImageError> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|error| ImageError::Invalid(format!("{what}: {error}")))?;
    match &document.media_type {
        Some(stated) if !types.contains(&stated.as_str()) => {
            invalid(format!("{what}: it says that it is `{stated}`"))
        }
        _ => Ok(document),
    }
}

/// Attestations have the platform `unknown`.
fn is_for_this_host(descriptor: &Descriptor) -> bool {
    descriptor
        .platform
        .as_ref()
        .is_none_or(|platform| platform.os == "linux" && platform.architecture == ARCHITECTURE)
}

/// The image's name: containerd's annotation has it whole, OCI's may be a bare tag, which names nothing.
fn names_of(descriptor: &Descriptor) -> Vec<ImageReference> {
    let annotation = |key: &str| descriptor.annotations.as_ref()?.get(key);
    annotation("io.containerd.image.name")
        .or_else(|| annotation("org.opencontainers.image.ref.name").filter(|name| name.contains(['/', ':'])))
        .and_then(|name| name.parse::<ImageReference>().ok())
        .filter(|name| name.digest.is_none())
        .into_iter()
        .collect()
}
