//! Debian's buildah as a peer.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::{said, timed};

/// Debian's buildah with a storage of its own.
pub(crate) struct Buildah {
    /// `buildah 1.28.2`.
    pub(crate) version: String,
    root: PathBuf,
}

impl Buildah {
    /// Makes an empty storage below a directory.
    pub(crate) fn new(work: &Path) -> anyhow::Result<Self> {
        let version =
            said(Command::new("buildah").arg("--version")).context("Debian's buildah is needed as a peer")?;
        let version = version
            .split_whitespace()
            .take(3)
            .filter(|word| *word != "version")
            .collect::<Vec<_>>()
            .join(" ");
        Ok(Self { version, root: work.join("buildah") })
    }

    /// A command on its storage.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.root.join("root")).arg("--runroot").arg(self.root.join("run"));
        command.args(["--storage-driver", "overlay"]);
        command
    }

    /// Takes an image in.
    pub(crate) fn load(&self, archive: &str) -> anyhow::Result<()> {
        said(self.command().args(["pull", "-q", &format!("docker-archive:{archive}")]))?;
        Ok(())
    }

    /// Builds without a name, with as much side by side as others do.
    pub(super) fn build(&self, context: &Path, cached: bool) -> anyhow::Result<Duration> {
        let cache = if cached { "--layers" } else { "--no-cache" };
        timed(|| said(self.bud().args(["--network", "host", "--jobs", "3", cache]).arg(context)))
    }

    /// Builds under a name.
    pub(crate) fn build_as(&self, tag: &str, arguments: &[String], context: &Path) -> anyhow::Result<()> {
        said(
            self.bud()
                .args(["--format", "docker", "-t", tag])
                .args(arguments)
                .current_dir(context)
                .arg(context),
        )?;
        Ok(())
    }

    /// Removes images without names.
    pub(super) fn prune(&self) -> anyhow::Result<()> {
        said(self.command().args(["rmi", "--prune", "--force"]))?;
        Ok(())
    }

    fn bud(&self) -> Command {
        let mut command = self.command();
        command.args(["bud", "-q", "--pull-never", "--isolation", "chroot"]);
        command
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        // Overlay mounts that a broken run left would keep the directory.
        let _ = said(self.command().args(["rm", "-a"]));
        let _ = said(self.command().args(["rmi", "-a", "-f"]));
    }
}
