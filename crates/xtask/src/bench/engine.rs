//! The engine beside dockerd with containerd and runc: start, exec, many at once, memory, idle processor time.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::api::Api;
use super::{Cloud, Dockerd, Times, docker, image, processes, row, timed};

const AT_ONCE: usize = 50;
const MANY: usize = 100;
/// Memory and processor time are looked at when nothing has happened for so long.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE: Duration = Duration::from_secs(20);

/// One of the two engines.
struct Engine<'a> {
    host: String,
    api: Api,
    directory: &'a Path,
}

impl Engine<'_> {
    fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        docker(&self.host, words)
    }

    /// Create, start, wait, remove, over the API.
    fn life(&self) -> anyhow::Result<()> {
        let id = self.api.create(&["true"])?;
        self.api.start(&id)?;
        self.api.wait(&id)?;
        self.api.remove(&id)
    }

    /// Starts many containers that are made already, all at the same moment.
    fn start_at_once(&self, count: usize) -> anyhow::Result<(Duration, Vec<String>)> {
        let ids =
            (0..count).map(|_| self.api.create(&["sleep", "100000"])).collect::<anyhow::Result<Vec<_>>>()?;
        let begun = Instant::now();
        std::thread::scope(|scope| {
            let starts: Vec<_> = ids.iter().map(|id| scope.spawn(|| self.api.start(id))).collect();
            starts.into_iter().try_for_each(|start| start.join().expect("no panic"))
        })?;
        Ok((begun.elapsed(), ids))
    }

    fn remove_all(&self, ids: &[String]) -> anyhow::Result<()> {
        ids.iter().try_for_each(|id| self.api.remove(id))
    }

    /// Memory in MB, and processor time in % of a core while nothing happens.
    fn idle(&self) -> anyhow::Result<(f64, f64)> {
        std::thread::sleep(SETTLE);
        let before = processes::ticks_of(self.directory)?;
        std::thread::sleep(IDLE);
        let ticks = processes::ticks_of(self.directory)? - before;
        let memory = processes::memory_of(self.directory)? as f64 / 1000.0;
        // A tick is 10 ms.
        Ok((memory, ticks as f64 / IDLE.as_secs_f64()))
    }
}

/// Measures both, in turns.
pub(crate) fn measure(binary: &Path, rounds: usize) -> anyhow::Result<()> {
    let archive = image("busybox")?;
    let cloud = Cloud::new(binary)?;
    cloud.start_roles("engine,faces")?;
    let dockerd = Dockerd::start_with_bridge()?;
    let ours = Engine {
        host: cloud.docker_host(),
        api: Api::new(&cloud.docker_host())?,
        directory: cloud.directory(),
    };
    let theirs =
        Engine { host: dockerd.host.clone(), api: Api::new(&dockerd.host)?, directory: dockerd.directory() };
    let peer = &format!("{}, containerd, runc", dockerd.version);
    compare_idle("idle, nothing loaded", peer, &ours, &theirs)?;
    for engine in [&ours, &theirs] {
        engine.docker(&["load", "-q", "-i", &archive])?;
    }
    let run = |engine: &Engine, network: &str| {
        timed(|| engine.docker(&["run", "--rm", "--network", network, "busybox", "true"]))
    };
    alternate("`docker run --rm busybox true`", peer, rounds, &ours, &theirs, |engine| {
        run(engine, "bridge")
    })?;
    alternate("the same with `--network none`", peer, rounds, &ours, &theirs, |engine| run(engine, "none"))?;
    alternate("create, start, wait, remove over the API", peer, rounds, &ours, &theirs, |engine| {
        let begun = Instant::now();
        engine.life()?;
        Ok(begun.elapsed())
    })?;
    for engine in [&ours, &theirs] {
        engine.docker(&[
            "run",
            "-d",
            "--name",
            "target",
            "--network",
            "none",
            "busybox",
            "sleep",
            "100000",
        ])?;
    }
    alternate("`docker exec` true", peer, rounds, &ours, &theirs, |engine| {
        timed(|| engine.docker(&["exec", "target", "true"]))
    })?;
    for engine in [&ours, &theirs] {
        engine.docker(&["rm", "-f", "target"])?;
    }
    let name = format!("{AT_ONCE} containers started at once");
    alternate(&name, peer, rounds.min(5), &ours, &theirs, |engine| {
        let (time, ids) = engine.start_at_once(AT_ONCE)?;
        engine.remove_all(&ids)?;
        Ok(time)
    })?;
    for count in [AT_ONCE, MANY] {
        let (_, a) = ours.start_at_once(count)?;
        let (_, b) = theirs.start_at_once(count)?;
        compare_idle(&format!("idle with {count} containers"), peer, &ours, &theirs)?;
        ours.remove_all(&a)?;
        theirs.remove_all(&b)?;
    }
    drop(cloud);
    let cloud = Cloud::new(binary)?;
    cloud.start_roles("engine")?;
    std::thread::sleep(SETTLE);
    let memory = processes::memory_of(cloud.directory()).context("memory")? as f64 / 1000.0;
    println!("| idle memory with `--roles engine` (PSS) | {memory:.1} MB | | |");
    Ok(())
}

/// Measures both in turns and prints the row. The first round warms both up.
fn alternate(
    name: &str,
    peer: &str,
    rounds: usize,
    ours: &Engine<'_>,
    theirs: &Engine<'_>,
    measure: impl Fn(&Engine<'_>) -> anyhow::Result<Duration>,
) -> anyhow::Result<()> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (one, two) = (measure(ours)?, measure(theirs)?);
        if round > 0 {
            a.push(one);
            b.push(two);
        }
    }
    row(name, &Times(a), Some((peer, &Times(b))));
    Ok(())
}

fn compare_idle(name: &str, peer: &str, ours: &Engine<'_>, theirs: &Engine<'_>) -> anyhow::Result<()> {
    let ((our_memory, our_cpu), (their_memory, their_cpu)) = (ours.idle()?, theirs.idle()?);
    let ratio = our_memory / their_memory;
    println!("| {name}: memory (PSS) | {our_memory:.1} MB | {peer}: {their_memory:.1} MB | {ratio:.2} |");
    println!("| {name}: processor | {our_cpu:.2} % of a core | {peer}: {their_cpu:.2} % | |");
    Ok(())
}
