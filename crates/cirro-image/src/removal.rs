//! Takes names, images and layers away, by docker's rules and in docker's words.
//!
//! Source: moby, `daemon/images/image_delete.go`. Layers go when no image, container root, build or
//! work in progress needs them; the build cache keeps its layers until a prune.

use std::collections::HashSet;
use std::time::Duration;

use cirro_sys::fail_point::fail_point;
use cirro_types::{Digest, ImageReference};

use crate::error::{Context as _, ImageError};
use crate::images::{Image, find_id, image, tags_of};
use crate::library::{Inner, Library, State};
use crate::records::Batch;
use crate::roots::CachedLayer;

/// How long a layer that a build made or found is kept for the build's next step.
const FRESH: Duration = Duration::from_secs(600);

/// What was taken away by a removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name.
    Untagged(String),
    /// An image or layer.
    Deleted(Digest),
}

/// Tells the container that uses an image: its id, after `running ` when it runs.
type InUse<'a> = &'a dyn Fn(&Digest) -> Option<String>;

/// What a removal does, decided before anything is changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    untag: Vec<ImageReference>,
    delete: Vec<Digest>,
}

/// Whether the build cache holds its layers.
enum Cache {
    Keep,
    Drop,
    /// All but these, which it knows no more.
    Forget(HashSet<Digest>),
}

impl Cache {
    fn keeps(&self, diff_id: &Digest) -> bool {
        match self {
            Self::Keep => true,
            Self::Drop => false,
            Self::Forget(forgotten) => !forgotten.contains(diff_id),
        }
    }

    fn forgets(&self, diff_id: &Digest) -> bool {
        matches!(self, Self::Forget(forgotten) if forgotten.contains(diff_id))
    }
}

impl Library {
    /// Removes a name, or an image by id; layers nobody needs go too.
    ///
    /// `in_use` tells the id of a container that uses an image, after `running ` when the container runs: only
    /// such a use cannot be forced. Layers under a container's root stay in any case.
    pub fn remove(
        &self,
        name: &str,
        force: bool,
        in_use: &dyn Fn(&Digest) -> Option<String>,
    ) -> Result<Vec<Removed>, ImageError> {
        let mut state = self.inner.state();
        let plan = plan_removal(&state, name, force, in_use)?;
        Ok(self.inner.apply(&mut state, plan, Cache::Keep)?.0)
    }

    /// Removes images without a tag (`all`: without a user) that `wanted` takes, and unreferenced layers, those of
    /// the build cache included; returns the bytes given back.
    pub fn prune(
        &self,
        all: bool,
        wanted: &dyn Fn(&Image) -> bool,
        in_use: &dyn Fn(&Digest) -> Option<String>,
    ) -> Result<(Vec<Removed>, u64), ImageError> {
        let mut state = self.inner.state();
        let mut plan = Plan::default();
        for (id, known) in &state.images {
            let image = image(&state, id, known);
            // A digest by which it was pulled is no name that a person gave.
            let dangling = image.tags.iter().all(|tag| tag.digest.is_some());
            if (all || dangling) && wanted(&image) && in_use(id).is_none() {
                plan.untag.extend(image.tags);
                plan.delete.push(*id);
            }
        }
        self.inner.apply(&mut state, plan, Cache::Drop)
    }

    /// Makes the build cache forget the layers that `wanted` takes; those that nothing else needs go. Returns these and the
    /// bytes given back. No image is touched.
    pub fn prune_cache(
        &self,
        wanted: &dyn Fn(&CachedLayer) -> bool,
    ) -> Result<(Vec<Digest>, u64), ImageError> {
        let mut state = self.inner.state();
        let cached = self.inner.cached_layers(&state)?;
        let forgotten = cached.iter().filter(|layer| wanted(layer)).map(|layer| layer.diff_id).collect();
        let (removed, bytes) = self.inner.apply(&mut state, Plan::default(), Cache::Forget(forgotten))?;
        let layers = removed.into_iter().filter_map(|removed| match removed {
            Removed::Deleted(diff_id) => Some(diff_id),
            Removed::Untagged(_) => None,
        });
        Ok((layers.collect(), bytes))
    }

    /// Removes layers that nothing needs, such as those of builds that failed; returns the bytes given back.
    pub fn collect(&self) -> Result<u64, ImageError> {
        let mut state = self.inner.state();
        Ok(self.inner.apply(&mut state, Plan::default(), Cache::Keep)?.1)
    }
}

impl Inner {
    /// Carries a plan out: records first, then memory and directories.
    fn apply(&self, state: &mut State, plan: Plan, cache: Cache) -> Result<(Vec<Removed>, u64), ImageError> {
        let layers = self.unneeded(state, &plan.delete, &cache)?;
        let mut batch = Batch::default();
        plan.untag.iter().for_each(|tag| batch.delete_tag(tag));
        plan.delete.iter().for_each(|id| batch.delete_image(id));
        layers.iter().for_each(|diff_id| batch.delete_layer(diff_id));
        let gone: HashSet<_> = layers.iter().copied().collect();
        let blobs = state.blobs.iter().filter(|(_, known)| gone.contains(&known.blob.diff_id));
        blobs.for_each(|(digest, _)| batch.delete_blob(digest));
        for (key, diff_id) in self.records.cache()? {
            if gone.contains(&diff_id) || cache.forgets(&diff_id) || !state.layers.contains_key(&diff_id) {
                batch.delete_cached(&key);
            }
        }
        fail_point("image.remove.write").context(|| "remove image".into())?;
        if !batch.is_empty() {
            self.records.write(&batch)?;
        }
        fail_point("image.remove.written").context(|| "remove image".into())?;
        let mut removed = Vec::new();
        for tag in plan.untag {
            state.tags.remove(&tag);
            removed.push(Removed::Untagged(tag.familiar()));
        }
        for id in plan.delete {
            state.images.remove(&id);
            removed.push(Removed::Deleted(id));
        }
        let mut bytes = self.drop_blobs(state, |diff_id| gone.contains(diff_id));
        for diff_id in layers {
            bytes += state.layers.remove(&diff_id).map_or(0, |layer| layer.record.size);
            state.fresh.remove(&diff_id);
            fail_point("image.remove.layer").context(|| "remove image".into())?;
            self.trash.discard(&self.layer_dir(&diff_id));
            removed.push(Removed::Deleted(diff_id));
        }
        Ok((removed, bytes))
    }

    /// Lists the layers that nothing needs once these images are gone.
    fn unneeded(
        &self,
        state: &mut State,
        images: &[Digest],
        cache: &Cache,
    ) -> Result<Vec<Digest>, ImageError> {
        let mut needed: HashSet<Digest> = state.pins.keys().copied().collect();
        for (id, known) in &state.images {
            if !images.contains(id) {
                needed.extend(&known.config.rootfs.diff_ids);
            }
        }
        needed.extend(state.roots.values().flat_map(|root| &root.layers));
        needed.extend(state.scratch.values().flatten());
        // While any build is at work, what it has so far must wait for its other stages.
        let building = !state.scratch.is_empty();
        state.fresh.retain(|_, since| building || since.elapsed() < FRESH);
        needed.extend(state.fresh.keys());
        let cached = self.records.cache()?.into_iter().map(|(_, diff_id)| diff_id);
        needed.extend(cached.filter(|diff_id| cache.keeps(diff_id)));
        let mut unneeded: Vec<_> =
            state.layers.keys().filter(|diff_id| !needed.contains(diff_id)).copied().collect();
        unneeded.sort();
        Ok(unneeded)
    }
}

fn plan_removal(state: &State, name: &str, force: bool, in_use: InUse<'_>) -> Result<Plan, ImageError> {
    let id = find_id(state, name)?;
    let tags = tags_of(state, &id);
    let single = is_single(&tags);
    if is_id_prefix(&id, name) {
        if let Some(conflict) = conflict(&id, !single, force, in_use) {
            return Err(ImageError::InUse(conflict));
        }
        return Ok(Plan { untag: tags, delete: vec![id] });
    }
    if single
        && !force
        && let Some(user) = in_use(&id)
    {
        return Err(ImageError::InUse(format!(
            "conflict: unable to remove repository reference \"{name}\" (must force) - container {} is using its \
             referenced image {}",
            short(&user),
            id.short()
        )));
    }
    // It was found by this name, so this name is one of its tags.
    let Ok(named) = name.parse::<ImageReference>() else { return Err(ImageError::NotFound(name.to_owned())) };
    let (untag, rest) = without(tags, &named);
    // Docker leaves an image that a running container uses behind without a name.
    let last = rest.is_empty() && conflict(&id, false, force, in_use).is_none();
    Ok(Plan { untag, delete: if last { vec![id] } else { Vec::new() } })
}

/// Splits off a name, and with a repository's last tag the digests by which it was pulled from there.
fn without(tags: Vec<ImageReference>, named: &ImageReference) -> (Vec<ImageReference>, Vec<ImageReference>) {
    let same = |tag: &ImageReference| tag.domain == named.domain && tag.path == named.path;
    let tagged = |tag: &ImageReference| tag.digest.is_none() && tag != named && same(tag);
    let digests_too = named.digest.is_none() && !tags.iter().any(tagged);
    let (mut untag, rest): (Vec<_>, Vec<_>) =
        tags.into_iter().partition(|tag| tag == named || (digests_too && tag.digest.is_some() && same(tag)));
    // The name that was asked for is told first.
    untag.sort_by_key(|tag| tag != named);
    (untag, rest)
}

/// Tells whether all names are one tag and the digests of its repository.
fn is_single(tags: &[ImageReference]) -> bool {
    if tags.len() <= 1 {
        return true;
    }
    let repository = |tag: &ImageReference| (tag.domain.clone(), tag.path.clone());
    let repositories: HashSet<_> = tags.iter().map(repository).collect();
    repositories.len() == 1 && tags.iter().filter(|tag| tag.digest.is_none()).count() <= 1
}

/// Says why an image cannot be deleted, if so.
fn conflict(id: &Digest, several_names: bool, force: bool, in_use: InUse<'_>) -> Option<String> {
    let refuse =
        |how: &str, why: String| Some(format!("conflict: unable to delete {} ({how}) - {why}", id.short()));
    let user = in_use(id);
    if let Some(user) = &user
        && user.starts_with(RUNNING)
    {
        let why = format!("image is being used by running container {}", short(user));
        return refuse("cannot be forced", why);
    }
    if force {
        return None;
    }
    if several_names {
        return refuse("must be forced", "image is referenced in multiple repositories".into());
    }
    let user = user?;
    refuse("must be forced", format!("image is being used by stopped container {}", short(&user)))
}

const RUNNING: &str = "running ";

fn short(user: &str) -> String {
    user.trim_start_matches(RUNNING).chars().take(12).collect()
}

fn is_id_prefix(id: &Digest, name: &str) -> bool {
    id.hex().starts_with(name.strip_prefix("sha256:").unwrap_or(name))
}
