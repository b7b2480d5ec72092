//! OCI image layouts: `index.json` leads to manifests, maybe through further indexes.
//!
//! Source: OCI image-spec v1.1, `image-layout.md`, `image-index.md`, `manifest.md`, `annotations.md`.

use std::sync::Arc;

use cirro_types::{Digest, ImageReference};

use super::spool::{Spool, blob_name};
use super::{Planned, PlannedLayer, check_config};
use crate::document::{ARCHITECTURE, Descriptor, Document, Manifest, Platform};
use crate::error::{ImageError, invalid};
use crate::images::NewImage;
use crate::limits::Limits;
use crate::media;

pub(super) const INDEX: &[u8] = b"index.json";

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
    let Document::Index(index) = Document::parse(&spool.document(INDEX)?, None)? else {
        return invalid("index.json: it is no index");
    };
    search.index(index, &[], 0)?;
    if search.found.is_empty() {
        return invalid(format!("index.json: no image for linux/{ARCHITECTURE}"));
    }
    Ok(search.found)
}

impl Search<'_> {
    fn index(
        &mut self,
        manifests: Vec<Descriptor>,
        names: &[ImageReference],
        depth: usize,
    ) -> Result<(), ImageError> {
        if depth > self.limits.index_depth {
            return invalid("index: indexes are nested too deep");
        }
        for descriptor in manifests {
            self.seen += 1;
            if self.seen > self.limits.images {
                return invalid(format!("index: more than {} images", self.limits.images));
            }
            if !is_for_this_host(&descriptor) {
                continue;
            }
            let own = names_of(&descriptor);
            let names = if own.is_empty() { names } else { &own };
            match Document::parse(&self.blob(&descriptor)?, Some(&descriptor.media_type))? {
                Document::Index(manifests) => self.index(manifests, names, depth + 1)?,
                Document::Manifest(manifest) => self.manifest(*manifest, names)?,
            }
        }
        Ok(())
    }

    fn manifest(&mut self, manifest: Manifest, names: &[ImageReference]) -> Result<(), ImageError> {
        let Manifest { config, layers: descriptors, .. } = manifest;
        if !media::is_config(&config.media_type) {
            return invalid(format!("manifest: `{}` is no image configuration", config.media_type));
        }
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
        let image = NewImage { id, bytes, config: Arc::new(config), tags, manifest: None };
        self.found.push(Planned { image, layers });
        Ok(())
    }

    fn layer(&self, descriptor: &Descriptor) -> Result<PlannedLayer, ImageError> {
        if !media::is_layer(&descriptor.media_type) {
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

/// Attestations have the platform `unknown`.
fn is_for_this_host(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_none_or(|platform| Platform::host().accepts(platform))
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
