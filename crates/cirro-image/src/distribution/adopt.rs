//! Makes an image of the library from one that was pushed: its layers are unpacked, its name is noted.
//!
//! Nothing goes over a wire: a pull from this registry on its own host is this and no more.

use std::path::Path;
use std::sync::Arc;

use cirro_types::{Digest, ImageReference};

use super::digest::BlobDigest;
use super::error::DistributionError;
use super::manifest::{Manifest, Named};
use super::manifests::Reference;
use super::name::RepositoryName;
use super::store::{BlobSource, Distribution};
use super::view::{Dialect, StoredManifest};
use crate::document::ARCHITECTURE;
use crate::error::{ImageError, invalid};
use crate::images::NewImage;
use crate::layers::Pins;
use crate::load::{check_config, unpack_member};
use crate::media;

/// Indexes inside indexes.
const MAX_DEPTH: usize = 4;

impl Distribution {
    /// Whether a name is one that this registry itself decides: its host is one under which clients reach it, and it is
    /// not another registry's that this one mirrors.
    pub fn is_own(&self, name: &ImageReference) -> bool {
        let rules = &self.inner.rules;
        rules.own_hosts.contains(&name.domain) && !rules.is_mirrored(&name.path)
    }

    /// Makes an image of the library from what `name` names in this registry, under that name; returns its id and the
    /// digest of its manifest.
    pub fn adopt(&self, name: &ImageReference) -> Result<(Digest, BlobDigest), DistributionError> {
        let unknown = || DistributionError::NameUnknown(name.path.clone());
        let repository: RepositoryName = name.path.parse().map_err(|_| unknown())?;
        let reference = match (&name.digest, &name.tag) {
            (Some(digest), _) => Reference::Digest((*digest).into()),
            (None, Some(tag)) => Reference::Tag(tag.parse().map_err(|_| unknown())?),
            (None, None) => return Err(unknown()),
        };
        let top = self.manifest(&repository, &reference, Dialect::Oci)?;
        let stored = self.for_this_host(&repository, &top)?;
        let manifest = Manifest::parse(&stored.bytes, Some(&stored.media_type))?;
        let image = self.image_of(&repository, &manifest, name, &top.digest)?;
        let id = image.id;
        let pins = self.unpack_blobs(&repository, &manifest.blobs[1..], &image)?;
        self.library().record(vec![image])?;
        drop(pins);
        Ok((id, top.digest))
    }

    /// Finds the manifest for this host's platform: in an index, maybe through further ones.
    pub fn for_this_host(
        &self,
        repository: &RepositoryName,
        manifest: &StoredManifest,
    ) -> Result<StoredManifest, DistributionError> {
        let platform = format!("linux/{ARCHITECTURE}");
        let mut found = manifest.clone();
        for _ in 0..=MAX_DEPTH {
            let parsed = Manifest::parse(&found.bytes, Some(&found.media_type))?;
            if !parsed.is_index() {
                return Ok(found);
            }
            let fits = |one: &&Named| one.platform.as_ref().is_none_or(|own| *own == platform);
            let Some(next) = parsed.manifests.iter().find(fits) else {
                return Err(DistributionError::ManifestUnknown(format!(
                    "for {platform} in {}",
                    found.digest
                )));
            };
            found = self.manifest(repository, &Reference::Digest(next.digest.clone()), Dialect::Oci)?;
        }
        Err(DistributionError::ManifestInvalid("index: indexes are nested too deep".into()))
    }

    fn image_of(
        &self,
        repository: &RepositoryName,
        manifest: &Manifest,
        name: &ImageReference,
        top: &BlobDigest,
    ) -> Result<NewImage, DistributionError> {
        let config = match manifest.blobs.first() {
            Some(config) if media::is_config(&config.media_type) => config,
            other => {
                let kind = other.map_or("nothing", |config| config.media_type.as_str()).escape_debug();
                return Err(invalid::<()>(format!("it is no image: its configuration is `{kind}`"))
                    .unwrap_err()
                    .into());
            }
        };
        let bytes = self.document(repository, config)?;
        let id = Digest::of(&bytes);
        let config = Arc::new(check_config(&bytes, manifest.blobs.len() - 1)?);
        let mut tags = if name.digest.is_none() { vec![name.clone()] } else { Vec::new() };
        // Says by which digest the image was pulled.
        tags.extend(top.as_sha256().map(|digest| ImageReference {
            tag: None,
            digest: Some(digest),
            ..name.clone()
        }));
        Ok(NewImage { id, bytes, config, tags, manifest: None })
    }

    fn document(&self, repository: &RepositoryName, named: &Named) -> Result<Vec<u8>, DistributionError> {
        use std::io::Read;
        let limit = self.library().inner.limits.document_bytes;
        let source = self.open_blob(repository, &named.digest)?;
        if source.size() > limit {
            let message =
                format!("blob {} has {} bytes, at most {limit} are allowed", named.digest, source.size());
            return Err(ImageError::Invalid(message).into());
        }
        match source {
            BlobSource::Bytes(bytes) => Ok(bytes),
            BlobSource::File(file, _) => {
                let mut bytes = Vec::new();
                file.take(limit).read_to_end(&mut bytes).map_err(super::error::io("read configuration"))?;
                Ok(bytes)
            }
            BlobSource::Layer(_) => {
                Err(ImageError::Invalid(format!("blob {} is a layer", named.digest)).into())
            }
        }
    }

    fn unpack_blobs(
        &self,
        repository: &RepositoryName,
        layers: &[Named],
        image: &NewImage,
    ) -> Result<Vec<Pins>, DistributionError> {
        let library = self.library();
        let mut pins = Vec::new();
        for (named, diff_id) in layers.iter().zip(&image.config.rootfs.diff_ids) {
            let source = self.open_blob(repository, &named.digest)?;
            let unpack = |dir: &Path| match &source {
                BlobSource::File(file, _) => {
                    let file = file.try_clone().map_err(|source| ImageError::Io {
                        context: format!("open blob {}", named.digest),
                        source,
                    })?;
                    // The blob's digest was checked when it came; a layer's is checked here.
                    unpack_member(file, None, &library.inner.limits, dir)
                }
                _ => invalid(format!("layer {diff_id} is not in the library")),
            };
            pins.push(library.ensure_layer(diff_id, &unpack)?);
        }
        Ok(pins)
    }
}
