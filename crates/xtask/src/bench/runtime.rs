//! A container's whole life by runtime command lines, on one bundle with docker's document and filter.
//!
//! Each runs `true` a few times in a row, in turns; what is told is the middle of the rows' means. Processor time is that of the
//! runtime and all it made. crun refuses hosts with both versions of cgroups, so all of them run where version 2 is not mounted.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

use super::said;

/// What docker makes for `docker run busybox true`.
const DOCUMENT: &str = include_str!("runtime.json");
/// Runs in a row.
const RUNS: u32 = 10;
/// Runs `$1` times what follows. The first line needs a mount namespace of its own.
const SCRIPT: &str = "umount /sys/fs/cgroup/unified 2>/dev/null; n=$1; shift; \
                      while [ $n -gt 0 ]; do n=$((n-1)); \"$@\" --bundle \"$BUNDLE\" \"bench-$$-$n\" || exit 1; done";

struct Contender {
    name: String,
    words: Vec<String>,
    bundle: &'static str,
    /// Milliseconds of one run: by the clock, by the processors.
    times: Vec<(f64, f64)>,
}

/// Measures and prints a row for each peer.
pub(crate) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let directory = tempfile::tempdir().context("make a directory")?;
    for (bundle, annotations) in
        [("plain", ""), ("peer", r#""annotations":{"cirro.runtime":"libcontainer"},"#)]
    {
        make_bundle(&directory.path().join(bundle), annotations)?;
    }
    let root = |name: &str| directory.path().join("state").join(name).display().to_string();
    let own = |bundle| Contender {
        name: "cirro".into(),
        words: vec![
            binary.display().to_string(),
            "runtime".into(),
            "--root".into(),
            root("cirro"),
            "run".into(),
        ],
        bundle,
        times: Vec::new(),
    };
    let mut contenders = vec![own("plain"), Contender { name: "libcontainer".into(), ..own("peer") }];
    for peer in ["crun", "runc"] {
        let version = said(Command::new(peer).arg("--version"))?;
        let version = version.lines().next().unwrap_or(peer).replace(" version", "");
        let words = vec![peer.into(), "--root".into(), root(peer), "run".into()];
        contenders.push(Contender { name: version, words, bundle: "plain", times: Vec::new() });
    }
    for round in 0..=rounds {
        for contender in &mut contenders {
            let times = row(directory.path(), contender)?;
            // The first round warms all up.
            if round > 0 {
                contender.times.push(times);
            }
        }
    }
    let (own, peers) = contenders.split_first().expect("there are four");
    for peer in peers {
        for (what, which) in [("by the clock", 0), ("of processor time", 1)] {
            let (a, b) = (own.median(which), peer.median(which));
            println!("| a container's life, {what} | {a:.1} ms | {}: {b:.1} ms | {:.2} |", peer.name, a / b);
        }
    }
    Ok(())
}

fn make_bundle(bundle: &Path, annotations: &str) -> anyhow::Result<()> {
    for directory in ["bin", "proc", "sys", "dev", "etc"] {
        std::fs::create_dir_all(bundle.join("rootfs").join(directory))?;
    }
    std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/true")).context("busybox-static is installed")?;
    std::fs::write(bundle.join("rootfs/etc/hosts"), "")?;
    std::fs::write(bundle.join("config.json"), DOCUMENT.replacen('{', &format!("{{{annotations}"), 1))?;
    Ok(())
}

/// One row of runs; the means.
fn row(directory: &Path, contender: &Contender) -> anyhow::Result<(f64, f64)> {
    let (begun, before) = (Instant::now(), children_ticks()?);
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh", &RUNS.to_string()])
        .args(&contender.words)
        .env("BUNDLE", directory.join(contender.bundle))
        .stdin(Stdio::null())
        .status()
        .context("start unshare")?;
    ensure!(status.success(), "{} failed", contender.name);
    let clock = begun.elapsed().as_secs_f64() * 1000.0;
    // USER_HZ is 100 on every Linux that we run on.
    let processor = (children_ticks()? - before) as f64 * 10.0;
    Ok((clock / f64::from(RUNS), processor / f64::from(RUNS)))
}

/// Processor time of all children that have ended, in ticks.
fn children_ticks() -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("stat")?.1.split(' ').collect();
    let field = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
    // The 16th and 17th of the whole line, the first two of which are cut off.
    Ok(field(13).context("cutime")? + field(14).context("cstime")?)
}

impl Contender {
    fn median(&self, which: usize) -> f64 {
        let pick = |times: &(f64, f64)| if which == 0 { times.0 } else { times.1 };
        let mut times: Vec<f64> = self.times.iter().map(pick).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    }
}
