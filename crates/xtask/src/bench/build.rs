//! Builds beside dockerd's classic builder, buildah and `tar`: cached, uncached with stages side by side, many small
//! files, one large one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;

use super::{Builders, Times, docker, row, said, timed};

const FILES: usize = 10_000;
const LARGE_MEGABYTES: usize = 500;

const CACHED: &str = "FROM busybox\nWORKDIR /app\nCOPY package.json ./\nRUN echo installed > installed\nCOPY . .\nCMD [\"sh\"]\n";
const STAGES: &str = "FROM busybox AS a\nRUN sleep 1 && echo a > /a\nFROM busybox AS b\nRUN sleep 1 && echo b > /b\nFROM busybox AS c\nRUN sleep 1 && echo c > /c\nFROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\nCOPY --from=c /c /\n";
const COPY: &str = "FROM scratch\nCOPY . /data/\n";

/// Measures ours and the peers, in turns.
pub(super) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let work = tempfile::tempdir()?;
    let bench = Bench { builders: Builders::start(binary, work.path())?, rounds };

    let cached = context(
        work.path(),
        "cached",
        CACHED,
        "echo '{}' >package.json; for i in $(seq 20); do echo $i >file$i; done",
    )?;
    bench.compare("build of five steps, all cached", &cached, true)?;
    let stages = context(work.path(), "stages", STAGES, ":")?;
    bench.compare("build of three stages of 1 s each, no cache", &stages, false)?;
    let small = format!(
        "for i in $(seq {FILES}); do d=d$((i % 100)); [ -d $d ] || mkdir $d; head -c 1000 /dev/urandom >$d/f$i; done"
    );
    let small = context(work.path(), "small", COPY, &small)?;
    bench.compare(&format!("COPY of {FILES} files of 1 kB, no cache"), &small, false)?;
    bench.beside_tar("the same beside `tar`", &small)?;
    let large = format!("head -c {LARGE_MEGABYTES}M /dev/urandom >file");
    let large = context(work.path(), "large", COPY, &large)?;
    bench.compare(&format!("COPY of one file of {LARGE_MEGABYTES} MB, no cache"), &large, false)?;
    bench.beside_tar("the same beside `tar`", &large)
}

/// Makes a context with a script.
fn context(work: &Path, name: &str, dockerfile: &str, script: &str) -> anyhow::Result<PathBuf> {
    let dir = work.join(name);
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("Dockerfile"), dockerfile)?;
    said(Command::new("bash").args(["-euc", script]).current_dir(&dir))?;
    Ok(dir)
}

struct Bench {
    builders: Builders,
    rounds: usize,
}

impl Bench {
    fn compare(&self, name: &str, context: &Path, cached: bool) -> anyhow::Result<()> {
        let (mut own, mut docker_to_us, mut peer, mut buildah) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for round in 0..=self.rounds {
            let times = [
                self.own(context, cached)?,
                self.docker(&self.builders.cloud.docker_host(), context, cached)?,
                self.docker(&self.builders.dockerd.host, context, cached)?,
                self.builders.buildah.build(context, cached)?,
            ];
            self.clean(cached)?;
            // The first round fills caches.
            if round > 0 {
                for (all, time) in
                    [&mut own, &mut docker_to_us, &mut peer, &mut buildah].into_iter().zip(times)
                {
                    all.push(time);
                }
            }
        }
        let (peer, buildah) = (Times(peer), Times(buildah));
        let (dockerd, buildah_version) =
            (self.builders.dockerd.version.as_str(), self.builders.buildah.version.as_str());
        row(&format!("{name}: `docker build`"), &Times(docker_to_us), Some((dockerd, &peer)));
        row(&format!("{name}: `cirro build`"), &Times(own.clone()), Some((dockerd, &peer)));
        row(&format!("{name}: `cirro build`"), &Times(own), Some((buildah_version, &buildah)));
        Ok(())
    }

    /// What `tar` takes to pack the same files into one and unpack them into a directory, as a builder must.
    fn beside_tar(&self, name: &str, context: &Path) -> anyhow::Result<()> {
        let (mut own, mut tar) = (Vec::new(), Vec::new());
        let into = tempfile::tempdir_in(context.parent().context("a parent")?)?;
        for round in 0..=self.rounds {
            let target = into.path().join(round.to_string());
            std::fs::create_dir(&target)?;
            let one = self.own(context, false)?;
            let script = r#"tar -C "$1" -c . | tar -C "$2" -x"#;
            let two =
                timed(|| said(Command::new("bash").args(["-euc", script, "tar"]).args([context, &target])))?;
            std::fs::remove_dir_all(&target)?;
            self.clean(false)?;
            if round > 0 {
                own.push(one);
                tar.push(two);
            }
        }
        row(name, &Times(own), Some(("tar to tar", &Times(tar))));
        Ok(())
    }

    /// Removes what was built, lest the disk fills; nothing of it is used again unless it is to be found cached.
    fn clean(&self, cached: bool) -> anyhow::Result<()> {
        if cached {
            return Ok(());
        }
        for host in [&self.builders.cloud.docker_host(), &self.builders.dockerd.host] {
            docker(host, &["image", "prune", "-f"])?;
            docker(host, &["builder", "prune", "-a", "-f"])?;
        }
        self.builders.buildah.prune()
    }

    fn own(&self, context: &Path, cached: bool) -> anyhow::Result<Duration> {
        let mut command = self.builders.cloud.command("build");
        command.arg("-q").args((!cached).then_some("--no-cache")).arg(context);
        timed(|| said(&mut command))
    }

    fn docker(&self, host: &str, context: &Path, cached: bool) -> anyhow::Result<Duration> {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", host).env("DOCKER_BUILDKIT", "0").args([
            "build",
            "-q",
            "--network",
            "none",
        ]);
        command.args((!cached).then_some("--no-cache")).arg(context);
        timed(|| said(&mut command))
    }
}
