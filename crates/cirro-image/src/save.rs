//! Writes images out: a docker archive that is an OCI layout too, as docker 25 and later write it.
//!
//! Source: moby, `image/tarexport/save.go`; OCI image-spec v1.1, `image-layout.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use cirro_types::{Digest, ImageReference};
use serde_json::{Value, json};

use crate::distribution::{Dialect, manifest_of};
use crate::error::{Context, ImageError};
use crate::images::find_id;
use crate::layers::{Pins, known, write_tar};
use crate::library::{Library, State};
use crate::tarball::BLOCK;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image with what is said of it.
struct Saved {
    id: Digest,
    config: Vec<u8>,
    /// Diff ids and lengths of the tars, the lowest first.
    layers: Vec<(Digest, u64)>,
    tags: BTreeSet<ImageReference>,
}

/// Everything that is to be written; layers are pinned.
struct Selection {
    images: Vec<Saved>,
    _pins: Pins,
}

impl Library {
    /// Saves images as a docker archive that is an OCI layout too (as docker 25 and later write it).
    ///
    /// A repository's name without a tag stands for all of its tags, as in docker. Unknown names fail before the
    /// first byte.
    pub fn save(&self, names: &[String], archive: &mut dyn Write) -> Result<(), ImageError> {
        self.write(&self.select(names)?, archive)
    }

    /// Saves one image as [`Self::save`] does, under these names whether it has them or not.
    pub fn save_as(
        &self,
        image: &Digest,
        names: &[ImageReference],
        archive: &mut dyn Write,
    ) -> Result<(), ImageError> {
        let mut selection = self.select(&[image.to_string()])?;
        for saved in &mut selection.images {
            saved.tags = names.iter().cloned().collect();
        }
        self.write(&selection, archive)
    }

    fn write(&self, selection: &Selection, archive: &mut dyn Write) -> Result<(), ImageError> {
        let mut out = Archive { out: archive };
        let (mut blobs, mut index, mut manifests) = (BTreeSet::new(), Vec::new(), Vec::new());
        out.directory("blobs/")?;
        out.directory("blobs/sha256/")?;
        for image in &selection.images {
            for (diff_id, length) in &image.layers {
                if blobs.insert(*diff_id) {
                    out.header(&blob(diff_id), *length, tar::EntryType::Regular)?;
                    write_tar(&self.inner.layer_dir(diff_id), diff_id, out.out)?;
                    out.pad(*length)?;
                }
            }
            let manifest = manifest_of(&image.id, image.config.len(), &image.layers, Dialect::Oci).bytes;
            let digest = Digest::of(&manifest);
            for (digest, bytes) in [(image.id, &image.config), (digest, &manifest)] {
                if blobs.insert(digest) {
                    out.file(&blob(&digest), bytes)?;
                }
            }
            index.extend(descriptors(image, &digest, manifest.len()));
            manifests.push(docker_manifest(image));
        }
        out.file(
            "index.json",
            &to_bytes(&json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": index})),
        )?;
        out.file("manifest.json", &to_bytes(&Value::Array(manifests)))?;
        out.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        out.end()
    }

    /// Refuses names that [`Self::save`] would refuse.
    pub fn check_names(&self, names: &[String]) -> Result<(), ImageError> {
        self.select(names).map(drop)
    }

    fn select(&self, names: &[String]) -> Result<Selection, ImageError> {
        let mut state = self.inner.state();
        let mut wanted: BTreeMap<Digest, BTreeSet<ImageReference>> = BTreeMap::new();
        let mut order = Vec::new();
        for name in names {
            for (id, tag) in resolve(&state, name)? {
                if !wanted.contains_key(&id) {
                    order.push(id);
                }
                wanted.entry(id).or_default().extend(tag);
            }
        }
        let mut pins = Pins::new(&self.inner);
        let mut images = Vec::new();
        for id in order {
            let mut layers = Vec::new();
            let diff_ids = state.images[&id].config.rootfs.diff_ids.clone();
            for diff_id in diff_ids {
                layers.push((diff_id, known(&state, &diff_id)?.record.tar_size));
                pins.add(&mut state, diff_id);
            }
            let config = self.inner.records.config(&id)?;
            let tags = wanted.remove(&id).unwrap_or_default();
            images.push(Saved { id, config, layers, tags });
        }
        drop(state);
        Ok(Selection { images, _pins: pins })
    }
}

/// Finds what a name stands for, and under which names it is saved.
fn resolve(state: &State, name: &str) -> Result<Vec<(Digest, Option<ImageReference>)>, ImageError> {
    let reference = name.parse::<ImageReference>().ok();
    let is_repository =
        !name.contains('@') && !name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if let Some(reference) = &reference {
        let of_repository =
            |tag: &ImageReference| tag.domain == reference.domain && tag.path == reference.path;
        let named: Vec<_> = state
            .tags
            .iter()
            .filter(|(tag, _)| tag.digest.is_none())
            .filter(|(tag, _)| if is_repository { of_repository(tag) } else { *tag == reference })
            .map(|(tag, id)| (*id, Some(tag.clone())))
            .collect();
        if !named.is_empty() {
            return Ok(named);
        }
    }
    Ok(vec![(find_id(state, name)?, None)])
}

/// One descriptor for each name, or one without.
fn descriptors(image: &Saved, digest: &Digest, size: usize) -> Vec<Value> {
    let descriptor = json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": size});
    if image.tags.is_empty() {
        return vec![descriptor];
    }
    let named = |tag: &ImageReference| {
        let mut descriptor = descriptor.clone();
        descriptor["annotations"] = json!({
            "io.containerd.image.name": tag.to_string(),
            "org.opencontainers.image.ref.name": tag.tag,
        });
        descriptor
    };
    image.tags.iter().map(named).collect()
}

fn docker_manifest(image: &Saved) -> Value {
    let tags: Vec<_> = image.tags.iter().map(ImageReference::familiar).collect();
    let layers: Vec<_> = image.layers.iter().map(|(diff_id, _)| blob(diff_id)).collect();
    let sources: BTreeMap<_, _> = image
        .layers
        .iter()
        .map(|(diff_id, length)| {
            let source = json!({"mediaType": LAYER_TYPE, "size": length, "digest": diff_id});
            (diff_id.to_string(), source)
        })
        .collect();
    json!({
        "Config": blob(&image.id),
        "RepoTags": if tags.is_empty() { Value::Null } else { json!(tags) },
        "Layers": layers,
        "LayerSources": sources,
    })
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("values have string keys")
}

/// The archive being written.
struct Archive<'a> {
    out: &'a mut dyn Write,
}

impl Archive<'_> {
    fn directory(&mut self, name: &str) -> Result<(), ImageError> {
        self.header(name, 0, tar::EntryType::Directory)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ImageError> {
        self.header(name, bytes.len() as u64, tar::EntryType::Regular)?;
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn header(&mut self, name: &str, size: u64, kind: tar::EntryType) -> Result<(), ImageError> {
        let mut header = tar::Header::new_ustar();
        header.set_path(name).context(|| "write archive".into())?;
        header.set_size(size);
        header.set_mode(if kind == tar::EntryType::Directory { 0o755 } else { 0o644 });
        header.set_entry_type(kind);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn pad(&mut self, size: u64) -> Result<(), ImageError> {
        let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
        self.write(&[0; BLOCK][..padding])
    }

    fn end(&mut self) -> Result<(), ImageError> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().context(|| "write archive".into())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.out.write_all(bytes).context(|| "write archive".into())
    }
}
