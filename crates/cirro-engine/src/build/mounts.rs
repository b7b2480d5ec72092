//! The mounts of a build step as a container's.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use cirro_seams::build::{StepMount, StepSource};
use cirro_seams::container::{Mount, MountSource, ResolvedMount};

use super::agent::Forward;
use crate::error::{EngineError, io};

/// Files that a step sees and that no disk may keep: secrets, scripts. They lie below the directory for running
/// state, which is memory on every usual host, and go when this goes.
pub(super) struct Contents {
    dir: PathBuf,
    forwards: Vec<Forward>,
}

impl Contents {
    /// Keeps files in `dir`, which is made when there is a first one.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, forwards: Vec::new() }
    }

    /// Returns the mounts as they are asked for and as they are made.
    pub(super) fn resolve(
        &mut self,
        mounts: &[StepMount],
    ) -> Result<(Vec<Mount>, Vec<ResolvedMount>), EngineError> {
        let mut asked = Vec::new();
        let mut made = Vec::new();
        for (number, mount) in mounts.iter().enumerate() {
            let (source, kind, path) = match &mount.source {
                StepSource::Path(path) => {
                    (MountSource::Bind { path: path.clone(), create: false }, "bind", path.clone())
                }
                StepSource::Tmpfs(size) => {
                    (MountSource::Tmpfs { size: *size, mode: None }, "tmpfs", PathBuf::new())
                }
                StepSource::Content { content, mode, owner } => {
                    let path = self.dir.join(number.to_string());
                    self.write(&path, content, *mode, *owner)
                        .map_err(io(format!("write {}", path.display())))?;
                    (MountSource::Bind { path: path.clone(), create: false }, "bind", path)
                }
                StepSource::Agent { socket, mode, owner } => {
                    let path = self.dir.join(number.to_string());
                    let listening =
                        self.make().and_then(|()| Forward::start(&path, socket.clone(), *mode, *owner));
                    self.forwards.push(listening.map_err(io("forward an agent"))?);
                    (MountSource::Bind { path: path.clone(), create: false }, "bind", path)
                }
            };
            let (target, read_only) = (mount.target.clone(), mount.read_only);
            asked.push(Mount { source, target: target.clone(), read_only, options: Default::default() });
            made.push(ResolvedMount {
                kind: kind.into(),
                name: None,
                source: path,
                target,
                read_only,
                options: Default::default(),
            });
        }
        Ok((asked, made))
    }

    fn make(&self) -> std::io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    fn write(&self, path: &Path, content: &[u8], mode: u32, owner: (u32, u32)) -> std::io::Result<()> {
        self.make()?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(content)?;
        chown(path, Some(owner.0), Some(owner.1))?;
        file.set_permissions(PermissionsExt::from_mode(mode))
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::error!(%error, path = %self.dir.display(), "files of a build step not removed");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn contents_are_private_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut contents = Contents::new(dir.path().join("build/x"));
        let secret = StepSource::Content { content: b"s3cret".as_slice().into(), mode: 0o440, owner: (7, 8) };
        let mount = StepMount { target: "/run/secrets/key".into(), source: secret, read_only: true };
        let (_, made) = contents.resolve(&[mount]).unwrap();
        let meta = made[0].source.metadata().unwrap();
        assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o440, 7, 8));
        assert_eq!(made[0].source.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
        assert_eq!(std::fs::read(&made[0].source).unwrap(), b"s3cret");
        drop(contents);
        assert!(!dir.path().join("build/x").exists());
    }
}
