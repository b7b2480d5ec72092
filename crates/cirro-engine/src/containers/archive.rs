//! Files in and out of containers as tar archives (`docker cp`), and a container's whole root (`docker export`).

use std::io::Write;

use bytes::Bytes;
use cirro_image::files::{Extract, ExtractError, Found};
use cirro_seams::container::Container;
use tokio::sync::mpsc;

use super::view::{Mounts, View};
use crate::Engine;
use crate::error::{EngineError, blocking, chain};
use crate::images::{CHANNEL, ChannelReader, ChannelWriter};
use crate::spec::users;

/// How an archive is unpacked into a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutArchive {
    /// Whether a directory must not become a file, nor a file a directory.
    pub keep_kinds: bool,
    /// Whether everything gets the container's user and group.
    pub own: bool,
}

impl Engine {
    /// Looks at a path in a container.
    pub async fn look_at_path(&self, name: &str, path: &str) -> Result<Found, EngineError> {
        let view = self.view(name, Mounts::All).await?;
        let (name, path) = (name.to_owned(), path.to_owned());
        blocking(move || view.files.look(&path).map_err(|error| missing(&error, &name, &path))).await
    }

    /// Packs what a path of a container stands for; also tells what it is.
    pub async fn get_archive(
        &self,
        name: &str,
        path: &str,
    ) -> Result<(Found, mpsc::Receiver<Result<Bytes, String>>), EngineError> {
        let view = self.view(name, Mounts::All).await?;
        let (given, asked) = (name.to_owned(), path.to_owned());
        let (view, found) = blocking(move || {
            let found = view.files.look(&asked).map_err(|error| missing(&error, &given, &asked))?;
            Ok((view, found))
        })
        .await?;
        let path = path.to_owned();
        self.emit_container("archive-path", &view.container, &[]);
        Ok((found, self.stream(view, move |view, out| view.files.pack(&path, out))))
    }

    /// Packs a container's root, without what is mounted in it.
    pub async fn export_container(
        &self,
        name: &str,
    ) -> Result<mpsc::Receiver<Result<Bytes, String>>, EngineError> {
        let view = self.view(name, Mounts::None).await?;
        self.emit_container("export", &view.container, &[]);
        Ok(self.stream(view, |view, out| view.files.pack_root(out)))
    }

    fn stream(
        &self,
        view: View,
        pack: impl FnOnce(&View, &mut dyn Write) -> Result<(), cirro_image::ImageError> + Send + 'static,
    ) -> mpsc::Receiver<Result<Bytes, String>> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        self.shared.tasks.spawn_blocking(move || {
            let mut writer = ChannelWriter::new(sender.clone());
            if let Err(error) = pack(&view, &mut writer) {
                // Whoever left needs no answer.
                let _ = sender.blocking_send(Err(chain(&error)));
            }
        });
        receiver
    }

    /// Unpacks an archive in a directory of a container.
    pub async fn put_archive(
        &self,
        name: &str,
        path: &str,
        archive: mpsc::Receiver<Result<Bytes, String>>,
        options: PutArchive,
    ) -> Result<(), EngineError> {
        let view = self.view(name, Mounts::All).await?;
        let (name, path) = (name.to_owned(), path.to_owned());
        let container = view.container.clone();
        blocking(move || {
            let not_there = |error| missing(&error, &name, &path);
            let target = match view.files.resolve_directory(&path) {
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTDIR.raw_os_error()) => {
                    return Err(EngineError::Invalid("extraction point is not a directory".into()));
                }
                target => target.map_err(not_there)?,
            };
            check_writable(&view.container, &target)?;
            let owner = if options.own { owner_of(&view)? } else { None };
            let options = Extract { keep_kinds: options.keep_kinds, owner };
            view.files.extract(&mut ChannelReader::new(archive), &target, options).map_err(
                |error| match error {
                    ExtractError::Refused(text) => EngineError::Invalid(text),
                    ExtractError::Failed(error) => EngineError::from(error),
                },
            )
        })
        .await?;
        self.emit_container("extract-to-dir", &container, &[]);
        Ok(())
    }
}

fn missing(error: &std::io::Error, name: &str, path: &str) -> EngineError {
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            EngineError::NotFound(format!("Could not find the file {path} in container {name}"))
        }
        std::io::ErrorKind::NotADirectory => EngineError::Invalid(format!("{path}: not a directory")),
        _ => EngineError::Failed(format!("look at {path} in container {name}: {error}")),
    }
}

/// Refuses what the container itself could not write to, in docker's words.
///
/// The mounts of the view are read-only where the container's are, so this is for the text only.
fn check_writable(container: &Container, target: &str) -> Result<(), EngineError> {
    let holds = |mount: &&cirro_seams::container::ResolvedMount| {
        target == mount.target || target.starts_with(&format!("{}/", mount.target))
    };
    let innermost = container.mounts.iter().filter(holds).max_by_key(|mount| mount.target.len());
    match innermost {
        Some(mount) if mount.read_only => {
            Err(EngineError::Invalid("mounted volume is marked read-only".into()))
        }
        Some(_) => Ok(()),
        None if container.spec.read_only_root => {
            Err(EngineError::Invalid("container rootfs is marked read-only".into()))
        }
        None => Ok(()),
    }
}

/// Finds out the numbers of the container's user; none when it has no user of its own.
fn owner_of(view: &View) -> Result<Option<(u32, u32)>, EngineError> {
    if view.container.user.is_empty() {
        return Ok(None);
    }
    let read = |path: &str| match view.files.read(path, users::MAX_FILE) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()),
        Err(error) => Err(crate::error::io(format!("read {path} of the container"))(error)),
    };
    let user = users::resolve(&view.container.user, &[], &read("/etc/passwd")?, &read("/etc/group")?)?;
    Ok(Some((user.uid, user.gid)))
}
