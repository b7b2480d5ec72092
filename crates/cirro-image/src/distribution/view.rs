//! The library's images as a registry shows them.
//!
//! An image of the library has no manifest of its own, so one is derived: the configuration's exact bytes, and the
//! layers as plain tars, whose digests are their diff ids. It is a pure function of the image, so its digest is the same
//! for as long as the image is.

use std::collections::BTreeSet;
use std::io::Write;

use cirro_types::{Digest, ImageReference};
use serde_json::{Value, json};

use super::digest::BlobDigest;
use super::error::DistributionError;
use super::name::{RepositoryName, TagName};
use super::store::{BlobSource, Distribution};
use crate::error::ImageError;
use crate::layers::{Pins, known, write_tar};
use crate::library::Library;
use crate::media;

/// A manifest with its bytes.
#[derive(Debug, Clone)]
pub struct StoredManifest {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its media type.
    pub media_type: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// In whose words a manifest is derived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// OCI's.
    Oci,
    /// Docker's, for clients that accept nothing else.
    Docker,
}

/// A layer of the library; it stays for as long as this lives.
pub struct LayerSource {
    library: Library,
    diff_id: Digest,
    size: u64,
    _pins: Pins,
}

impl LayerSource {
    pub(crate) fn open(library: &Library, diff_id: &Digest) -> Result<Self, ImageError> {
        let mut pins = Pins::new(&library.inner);
        let mut state = library.inner.state();
        let size = known(&state, diff_id)?.record.tar_size;
        pins.add(&mut state, *diff_id);
        drop(state);
        Ok(Self { library: library.clone(), diff_id: *diff_id, size, _pins: pins })
    }

    /// Returns the length of its tar.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Writes its tar. Blocks.
    pub fn write(&self, out: &mut dyn Write) -> Result<(), ImageError> {
        write_tar(&self.library.inner.layer_dir(&self.diff_id), &self.diff_id, out)
    }
}

/// An image of the library under a repository's name.
struct Shown {
    tag: TagName,
    id: Digest,
}

impl Distribution {
    /// Derives the manifest of the library's image that a repository and tag stand for.
    pub(crate) fn derived_by_tag(
        &self,
        repository: &RepositoryName,
        tag: &TagName,
        dialect: Dialect,
    ) -> Result<Option<StoredManifest>, DistributionError> {
        let shown = self.shown(repository);
        let id = shown.iter().find(|shown| shown.tag == *tag).map(|shown| shown.id);
        Ok(id.map(|id| self.derive(&id, dialect)).transpose()?.flatten())
    }

    /// Derives the manifest that has this digest, if the repository's name stands for its image.
    pub(crate) fn derived_by_digest(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<Option<StoredManifest>, DistributionError> {
        let ids: BTreeSet<_> = self.shown(repository).into_iter().map(|shown| shown.id).collect();
        for id in ids {
            for dialect in [Dialect::Oci, Dialect::Docker] {
                match self.derive(&id, dialect)? {
                    Some(manifest) if manifest.digest == *digest => return Ok(Some(manifest)),
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    /// Finds a configuration or layer of the library's images that a repository's name stands for.
    pub(crate) fn library_blob(
        &self,
        repository: &RepositoryName,
        digest: &BlobDigest,
    ) -> Result<Option<BlobSource>, DistributionError> {
        let Some(wanted) = digest.as_sha256() else { return Ok(None) };
        let library = self.library();
        for Shown { id, .. } in self.shown(repository) {
            if id == wanted {
                return Ok(Some(BlobSource::Bytes(library.inner.records.config(&id)?)));
            }
            let has = {
                let state = library.inner.state();
                state.images.get(&id).is_some_and(|image| image.config.rootfs.diff_ids.contains(&wanted))
            };
            if has {
                return Ok(Some(BlobSource::Layer(LayerSource::open(library, &wanted)?)));
            }
        }
        Ok(None)
    }

    /// Lists the tags of the library's images that a repository's name stands for.
    pub(crate) fn library_tags(&self, repository: &RepositoryName) -> BTreeSet<TagName> {
        self.shown(repository).into_iter().map(|shown| shown.tag).collect()
    }

    /// Lists the repositories that the library's images make.
    pub(crate) fn library_repositories(&self) -> BTreeSet<RepositoryName> {
        let state = self.library().inner.state();
        let own = &self.inner.rules.own_hosts;
        let name = |tag: &ImageReference| match own.contains(&tag.domain) {
            true => tag.path.parse().ok(),
            false => tag.familiar_name().parse().ok(),
        };
        state.tags.keys().filter_map(name).collect()
    }

    /// Finds the images that a repository's name stands for: those with this registry's address in their name first,
    /// then those with the same familiar name.
    fn shown(&self, repository: &RepositoryName) -> Vec<Shown> {
        let own = &self.inner.rules.own_hosts;
        let familiar = repository.as_str().parse::<ImageReference>().ok();
        let state = self.library().inner.state();
        let is_own = |tag: &ImageReference| own.contains(&tag.domain) && tag.path == repository.as_str();
        let is_familiar = |tag: &ImageReference| {
            familiar.as_ref().is_some_and(|name| name.domain == tag.domain && name.path == tag.path)
        };
        let shown = |(tag, id): (&ImageReference, &Digest)| {
            Some(Shown { tag: tag.tag.as_ref()?.parse().ok()?, id: *id })
        };
        let named = |wanted: &dyn Fn(&ImageReference) -> bool| -> Vec<Shown> {
            state.tags.iter().filter(|(tag, _)| wanted(tag)).filter_map(shown).collect()
        };
        let mut all = named(&is_own);
        all.extend(named(&is_familiar));
        all
    }

    /// `None` when a layer of the image is lost, or the image has just been removed.
    fn derive(&self, id: &Digest, dialect: Dialect) -> Result<Option<StoredManifest>, DistributionError> {
        let inner = &self.library().inner;
        let layers: Option<Vec<(Digest, u64)>> = {
            let state = inner.state();
            state.images.get(id).and_then(|image| {
                let diff_ids = image.config.rootfs.diff_ids.iter();
                diff_ids
                    .map(|diff_id| Some((*diff_id, known(&state, diff_id).ok()?.record.tar_size)))
                    .collect()
            })
        };
        let Some(layers) = layers else { return Ok(None) };
        let size = inner.records.config(id)?.len();
        Ok(Some(manifest_of(id, size, &layers, dialect)))
    }
}

/// Derives the manifest of an image.
pub(crate) fn manifest_of(
    id: &Digest,
    config_size: usize,
    layers: &[(Digest, u64)],
    dialect: Dialect,
) -> StoredManifest {
    let (media_type, config, layer) = match dialect {
        Dialect::Oci => (media::OCI_MANIFEST, media::OCI_CONFIG, media::OCI_LAYER),
        Dialect::Docker => (media::DOCKER_MANIFEST, media::DOCKER_CONFIG, media::DOCKER_LAYER),
    };
    let layers: Vec<Value> = layers
        .iter()
        .map(|(diff_id, size)| json!({"mediaType": layer, "digest": diff_id, "size": size}))
        .collect();
    let document = json!({
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": config, "digest": id, "size": config_size},
        "layers": layers,
    });
    let bytes = serde_json::to_vec(&document).expect("values have string keys");
    let digest = BlobDigest::from(Digest::of(&bytes));
    StoredManifest { digest, media_type: media_type.to_owned(), bytes }
}
