//! Keeps the daemon's own log (`<data-dir>/cirro.log` with `--detach`) from growing without end.
//!
//! The file is the daemon's standard error and that of who it starts, so it cannot be replaced: it is copied to `cirro.log.1` and
//! emptied. Lines written in between are lost; that is once in many millions.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

const LARGEST: u64 = 32 << 20;
const EVERY: Duration = Duration::from_secs(600);

/// Looks after the log now and then, if it is where standard error goes.
pub(crate) async fn keep(data_dir: PathBuf, stop: CancellationToken) {
    let path = data_dir.join("cirro.log");
    if !is_file(io::stderr(), &path) {
        return;
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        let log = path.clone();
        let done = tokio::task::spawn_blocking(move || rotate(&log, LARGEST)).await;
        if let Ok(Err(error)) = done {
            warn!(path = %path.display(), %error, "the log is not rotated");
        }
    }
}

/// Whether a descriptor is the file at a path.
fn is_file(descriptor: impl AsFd, path: &Path) -> bool {
    let same = rustix::fs::fstat(descriptor).ok().zip(rustix::fs::stat(path).ok());
    same.is_some_and(|(one, other)| (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Copies a log that is too large aside and empties it.
fn rotate(path: &Path, largest: u64) -> io::Result<()> {
    if std::fs::metadata(path)?.len() <= largest {
        return Ok(());
    }
    let old = path.with_extension("log.1");
    // On a full disk what is new is worth more than what is old.
    if let Err(error) = std::fs::copy(path, &old) {
        warn!(path = %old.display(), %error, "the old log is not kept");
        let _ = std::fs::remove_file(&old);
    }
    File::options().write(true).open(path)?.set_len(0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_that_is_too_large_is_put_aside_and_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cirro.log");
        let mut log = File::options().create(true).append(true).open(&path).unwrap();
        assert!(is_file(&log, &path) && !is_file(&log, directory.path()));
        writeln!(log, "first").unwrap();
        rotate(&path, 100).unwrap();
        assert!(!directory.path().join("cirro.log.1").exists());
        rotate(&path, 3).unwrap();
        writeln!(log, "second").unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("cirro.log.1")).unwrap(), "first\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second\n");
    }
}
