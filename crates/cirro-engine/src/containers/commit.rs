//! Turning a container into an image (`docker commit`): its own files become one more layer.
//!
//! The container goes on with its files, so the layer is a copy of them. While it runs it is paused for that, unless the
//! caller takes the risk.

use std::os::fd::OwnedFd;

use cirro_container::Rootfs;
use cirro_image::files::copy_tree;
use cirro_seams::container::{Container, Phase};
use cirro_types::{ContainerConfig, Digest, HistoryEntry, ImageConfig, ImageReference};
use rustix::fs::{Mode, OFlags};

use super::changes::is_mount_point;
use crate::error::{EngineError, blocking, io};
use crate::{Engine, clock};

/// What is asked of a commit.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// Name of the new image.
    pub tag: Option<ImageReference>,
    /// What goes over the container's configuration.
    pub config: ContainerConfig,
    /// Who made the image.
    pub author: String,
    /// A remark for the history.
    pub comment: String,
    /// Whether a running container is paused meanwhile.
    pub pause: bool,
}

impl Engine {
    /// Makes an image of a container; returns its id.
    pub async fn commit_container(&self, name: &str, commit: Commit) -> Result<Digest, EngineError> {
        let id = self.find_id(name)?;
        let phase = self.container(&id)?.phase;
        if matches!(phase, Phase::Dead | Phase::Removing) {
            let text = format!("You cannot commit container {id} which is {}", phase_word(phase));
            return Err(EngineError::Conflict(text));
        }
        let paused = commit.pause && phase == Phase::Running;
        if paused {
            self.pause_container(&id).await?;
        }
        let made = self.commit_files(&id, commit).await;
        if paused && let Err(error) = self.unpause_container(&id).await {
            tracing::warn!(container = id, %error, "container stays paused after a commit");
        }
        made
    }

    async fn commit_files(&self, id: &str, commit: Commit) -> Result<Digest, EngineError> {
        // So that one that does not run is not started in the middle of it.
        let guard = self.lock_container(id).await?;
        let record = self.record(id)?;
        let lock = (record.container.pid.is_none()).then_some(guard);
        let (library, container) = (self.shared.library.clone(), record.container.clone());
        let tag = commit.tag.clone();
        let comment = commit.comment.clone();
        let image = blocking(move || {
            let layers = library.root_layers(&record.container.id)?;
            let below = library.find(&record.container.image_id).ok().map(|image| (*image.config).clone());
            let (key, root) = library.open_layer(&layers)?;
            let copied =
                copy_upper(&record.root, &Rootfs { lower: root.lower, upper: root.upper, work: root.work });
            let diff_id = match copied.and_then(|()| Ok(library.commit_layer(&key)?)) {
                Ok(diff_id) => diff_id,
                Err(error) => {
                    if let Err(undo) = library.drop_layer(&key) {
                        tracing::warn!(%undo, "half-made layer not removed");
                    }
                    return Err(error);
                }
            };
            let mut layers = layers;
            layers.push(diff_id);
            let config = new_config(&record.container, below, layers, &commit);
            let tags: Vec<_> = commit.tag.into_iter().collect();
            Ok(library.put_image(&config, &tags)?)
        })
        .await?;
        drop(lock);
        let reference = tag.as_ref().map(ImageReference::familiar).unwrap_or_default();
        let more = [("comment", comment), ("imageID", image.to_string()), ("imageRef", reference)];
        self.emit_container("commit", &container, &more);
        Ok(image)
    }
}

fn phase_word(phase: Phase) -> &'static str {
    if phase == Phase::Dead { "Dead" } else { "Removing" }
}

fn copy_upper(from: &Rootfs, to: &Rootfs) -> Result<(), EngineError> {
    let open = |path: &std::path::Path| -> Result<OwnedFd, EngineError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty());
        opened.map_err(|errno| io(format!("open {}", path.display()))(errno.into()))
    };
    let (from, to) = (open(&from.upper)?, open(&to.upper)?);
    // What the runtime made to mount on is not the container's. A directory goes only if nothing else is in it.
    let skip = |path: &std::path::Path, stat: &rustix::fs::Stat| {
        is_mount_point(path, stat)
            && rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory
    };
    copy_tree(&from, &to, &skip).map_err(io("copy the container's files"))
}

/// Puts the new image's document together.
///
/// Source: moby `daemon/commit.go`.
fn new_config(
    container: &Container,
    below: Option<ImageConfig>,
    layers: Vec<Digest>,
    commit: &Commit,
) -> ImageConfig {
    let mut config = below.unwrap_or_else(|| ImageConfig {
        architecture: if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }.into(),
        os: "linux".into(),
        ..ImageConfig::default()
    });
    let own = container_config(container, &config.config);
    let now = clock::now();
    config.config = over(commit.config.clone(), own);
    config.rootfs.diff_ids = layers;
    config.created = Some(now.clone());
    config.author = Some(commit.author.clone()).filter(|author| !author.is_empty());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    config.history.push(HistoryEntry {
        created: Some(now),
        created_by: Some(container.args.join(" ")),
        author: text(&commit.author),
        comment: text(&commit.comment),
        ..HistoryEntry::default()
    });
    config
}

/// The configuration that a container runs with, in an image's words.
fn container_config(container: &Container, image: &ContainerConfig) -> ContainerConfig {
    let spec = &container.spec;
    let mut config = image.clone();
    config.user.clone_from(&container.user);
    config.env.clone_from(&container.env);
    config.labels = container.labels.clone();
    if container.working_dir != "/" || !config.working_dir.is_empty() {
        config.working_dir.clone_from(&container.working_dir);
    }
    if let Some(entrypoint) = &spec.entrypoint {
        config.entrypoint.clone_from(entrypoint);
        config.cmd = spec.command.clone().unwrap_or_default();
    } else if let Some(command) = &spec.command {
        config.cmd.clone_from(command);
    }
    for (port, protocol) in &container.exposed_ports {
        config.exposed_ports.insert(format!("{port}/{}", protocol.as_str()), serde_json::json!({}));
    }
    if let Some(volumes) = spec.face["Config"]["Volumes"].as_object() {
        config.volumes.extend(volumes.iter().map(|(target, value)| (target.clone(), value.clone())));
    }
    if spec.stop_signal.is_some() {
        config.stop_signal.clone_from(&spec.stop_signal);
    }
    config
}

/// Puts what was asked for over a container's configuration.
///
/// Source: moby `daemon/commit.go`, `merge`.
fn over(asked: ContainerConfig, own: ContainerConfig) -> ContainerConfig {
    let mut config = own;
    if !asked.user.is_empty() {
        config.user = asked.user;
    }
    config.env = crate::spec::merge::override_env(config.env, &asked.env);
    config.labels.extend(asked.labels);
    config.exposed_ports.extend(asked.exposed_ports);
    config.volumes.extend(asked.volumes);
    if !asked.working_dir.is_empty() {
        config.working_dir = asked.working_dir;
    }
    if !asked.entrypoint.is_empty() {
        // Another entrypoint has no use for the old one's arguments.
        config.entrypoint = asked.entrypoint;
        config.cmd = asked.cmd;
    } else if !asked.cmd.is_empty() {
        config.cmd = asked.cmd;
    }
    if asked.stop_signal.is_some() {
        config.stop_signal = asked.stop_signal;
    }
    config.extra.extend(asked.extra);
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn what_was_asked_for_goes_over_the_containers_configuration() {
        let own = ContainerConfig {
            user: "web".into(),
            env: words(&["A=1", "B=2"]),
            entrypoint: words(&["/entry"]),
            cmd: words(&["serve"]),
            ..ContainerConfig::default()
        };
        let asked =
            ContainerConfig { env: words(&["A=3"]), cmd: words(&["other"]), ..ContainerConfig::default() };
        let merged = over(asked, own.clone());
        assert_eq!((merged.user.as_str(), merged.env), ("web", words(&["A=3", "B=2"])));
        assert_eq!((merged.entrypoint, merged.cmd), (words(&["/entry"]), words(&["other"])));
        let asked = ContainerConfig { entrypoint: words(&["/own"]), ..ContainerConfig::default() };
        let merged = over(asked, own);
        assert_eq!((merged.entrypoint, merged.cmd), (words(&["/own"]), words(&[])));
    }
}
