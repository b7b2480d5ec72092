//! `cirro up`: in the foreground, or detached.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use rustix::fs::FlockOperation;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::cli::say;
use crate::config::{Config, Flags, Place, level};
use crate::daemon;

/// Held by the daemon as long as it lives: two daemons on one run directory would fight.
pub(crate) struct Lock {
    _file: File,
}

/// Runs the daemon until it is asked to stop.
pub(crate) fn foreground(
    place: &Place,
    flags: Flags,
    file: Option<&Path>,
    detached: bool,
) -> anyhow::Result<ExitCode> {
    let config = Config::settle(place, flags, file)?;
    if detached {
        rustix::process::setsid().context("leave the session")?;
    }
    // HTTP/2's library tells every frame at its debug level.
    let filter = Targets::new().with_default(level(&config.log_level)?).with_target("h2", LevelFilter::WARN);
    tracing_subscriber::registry()
        .with(filter)
        .with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false))
        .init();
    // Each connection is one; a shell gives 1024.
    cirro_sys::process::raise_open_files().context("raise the limit of open files")?;
    make_directory(&config.data_dir)?;
    make_directory(&config.run_dir)?;
    let lock = lock(&config)?;
    write_config(&config)?;
    // Workers wait for the kernel most of the time; more than four only cost memory.
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
    let result = runtime.block_on(daemon::run(config));
    runtime.shutdown_timeout(std::time::Duration::from_secs(5));
    drop(lock);
    result.map(|()| ExitCode::SUCCESS)
}

/// Starts the daemon in a session of its own and returns when it is ready.
pub(crate) fn detach(place: &Place, flags: Flags, file: Option<&Path>) -> anyhow::Result<ExitCode> {
    let config = Config::settle(place, flags, file)?;
    make_directory(&config.data_dir)?;
    let log_path = config.data_dir.join("cirro.log");
    let mut log = File::options().create(true).append(true).read(true).open(&log_path);
    let log = log.as_mut().map_err(|error| anyhow::anyhow!("open {}: {error}", log_path.display()))?;
    let start = log.seek(SeekFrom::End(0))?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--detach");
    let mut child = Command::new(std::env::current_exe().context("find the executable")?)
        .args(arguments)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone()?)
        .current_dir("/")
        .spawn()
        .context("start the daemon")?;
    let stdout = child.stdout.take().expect("stdout was asked for");
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if line.starts_with("ready") {
            say(&format!("{line}\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let status = child.wait()?;
    log.seek(SeekFrom::Start(start))?;
    let mut tail = String::new();
    log.take(64 << 10).read_to_string(&mut tail)?;
    bail!("the daemon ended ({status}):\n{}", tail.trim_end())
}

/// Takes the lock of a run directory.
///
/// # Errors
/// Names the process that holds it.
pub(crate) fn lock(config: &Config) -> anyhow::Result<Lock> {
    let path = pid_path(config);
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        bail!("run directory {} is in use by process {}", config.run_dir.display(), holder.trim());
    }
    file.set_len(0)?;
    std::os::unix::fs::FileExt::write_all_at(&file, std::process::id().to_string().as_bytes(), 0)?;
    Ok(Lock { _file: file })
}

fn pid_path(config: &Config) -> PathBuf {
    config.run_dir.join("cirro.pid")
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(path);
    made.with_context(|| format!("make {}", path.display()))
}

/// Leaves the settled configuration for the other subcommands; whole or not at all.
fn write_config(config: &Config) -> anyhow::Result<()> {
    let path = config.run_dir.join("config.json");
    let draft = path.with_extension("json.part");
    std::fs::write(&draft, serde_json::to_vec_pretty(config)?)
        .with_context(|| format!("write {}", draft.display()))?;
    std::fs::rename(&draft, &path).with_context(|| format!("write {}", path.display()))
}
