//! Runs one fuzz target, or all of them, on random mutations of the corpus for a while.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use cirro_fuzz::{Mutator, TARGETS, Target};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, seconds] = arguments.as_slice() else { bail!("want a target (or `all`) and seconds") };
    let time = Duration::from_secs(seconds.parse().context("seconds")?);
    let targets = match name.as_str() {
        "all" => TARGETS,
        name => std::slice::from_ref(Target::find(name).with_context(|| format!("no target {name}"))?),
    };
    let mut failed = Vec::new();
    for target in targets {
        if fuzz(target, time)? {
            failed.push(target.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("panics in {}", failed.join(", ")) }
}

/// Returns whether the target panicked.
fn fuzz(target: &Target, time: Duration) -> anyhow::Result<bool> {
    let seeds = target.seeds().with_context(|| format!("read {}", target.corpus().display()))?;
    let directory = tempfile::tempdir()?;
    let seed = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let mut mutator = Mutator::new(seed);
    let (begun, mut runs) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        let input = mutator.next(&seeds);
        runs += 1;
        if catch_unwind(AssertUnwindSafe(|| (target.run)(&input, directory.path()))).is_err() {
            let path = format!("crash-{}-{runs}", target.name);
            std::fs::write(&path, &input).with_context(|| format!("write {path}"))?;
            eprintln!("{}: panics; the input is {path}", target.name);
            return Ok(true);
        }
    }
    eprintln!("{}: {runs} inputs in {:?}", target.name, begun.elapsed());
    Ok(false)
}
