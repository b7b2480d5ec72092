//! Which executable runs: daemon and supervisor are to be the same one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Identity of the executable of this process.
pub(crate) fn own() -> String {
    of(Path::new("/proc/self/exe")).unwrap_or_default()
}

/// Identity of an executable: two files with the same one are the same build. (Its inode says nothing: the guardian and what it
/// starts run from a view of their own.)
pub(crate) fn of(executable: &Path) -> std::io::Result<String> {
    let file = std::fs::metadata(executable)?;
    Ok(format!("{} {} {}.{}", env!("CARGO_PKG_VERSION"), file.size(), file.mtime(), file.mtime_nsec()))
}
