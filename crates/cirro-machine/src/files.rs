//! Directories and files made so that a crash leaves either all or nothing of them.

use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{MachineError, failed};

/// Makes a directory that only we may look into, and those above it.
pub(crate) fn private_directory(path: &Path) -> Result<(), MachineError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| failed(format!("make {}", path.display()), &error))
}

/// Writes a file that only we may read, as a whole or not at all.
pub(crate) fn write_private(path: &Path, parts: &[&[u8]]) -> Result<(), MachineError> {
    let temporary = temporary(path);
    let write = || {
        std::fs::remove_file(&temporary).or_else(ignore_missing)?;
        let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        for part in parts {
            io::Write::write_all(&mut file, part)?;
        }
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| failed(format!("write {}", path.display()), &error))
}

/// Returns the name that a file has while it is made.
pub(crate) fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Takes a file that is not there for one that was removed.
pub(crate) fn ignore_missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Finds a program of the host.
pub(crate) fn program(name: &str, package: &str) -> Result<PathBuf, MachineError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .into_iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(name))
        .find(|path| path.is_absolute() && path.is_file())
        .ok_or_else(|| MachineError::Missing(format!("no program {name}: install {package}")))
}
