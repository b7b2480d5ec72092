//! Whether a bind's source can pass its mounts on as was asked for.
//!
//! Source: moby `daemon/oci_linux.go`, `ensureShared` and `ensureSharedOrSlave`.

use std::path::Path;

use cirro_seams::container::Propagation;

use crate::error::{EngineError, io};

/// Refuses a propagation that the source's mount does not have, in docker's words.
pub(super) fn check(source: &Path, propagation: Propagation) -> Result<(), EngineError> {
    let shared_only = match propagation {
        Propagation::Private | Propagation::RPrivate => return Ok(()),
        Propagation::Shared | Propagation::RShared => true,
        Propagation::Slave | Propagation::RSlave => false,
    };
    let source = source.canonicalize().map_err(io(format!("find {}", source.display())))?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(io("read the host's mounts"))?;
    let Some((point, optional)) = mount_of(&source, &mounts) else {
        return Err(EngineError::Failed(format!("could not find the source mount of {}", source.display())));
    };
    let shared = optional.split(' ').any(|field| field.starts_with("shared:"));
    let slave = optional.split(' ').any(|field| field.starts_with("master:"));
    let refuse = |what: &str| {
        let text = format!("path {} is mounted on {point} but it is not a {what} mount", source.display());
        Err(EngineError::Failed(text))
    };
    match (shared_only, shared, slave) {
        (true, false, _) => refuse("shared"),
        (false, false, false) => refuse("shared or slave"),
        (true, true, _) | (false, ..) => Ok(()),
    }
}

/// Finds the mount that a path is on: its point and its optional fields. The last one of several at a point counts.
fn mount_of<'a>(path: &Path, mounts: &'a str) -> Option<(&'a str, &'a str)> {
    let on = mounts.lines().filter_map(|line| {
        let mut fields = line.splitn(7, ' ');
        let point = fields.nth(4)?;
        let (optional, _) = fields.nth(1)?.split_once("- ")?;
        path.starts_with(point.replace("\\040", " ")).then_some((point, optional))
    });
    on.max_by_key(|(point, _)| point.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n\
                          30 22 0:5 / /mnt rw shared:7 - tmpfs none rw\n\
                          31 30 0:6 / /mnt/sub rw master:7 - tmpfs none rw\n";

    #[test]
    fn the_innermost_mount_counts() {
        assert_eq!(mount_of(Path::new("/srv"), MOUNTS), Some(("/", "")));
        assert_eq!(mount_of(Path::new("/mnt/x"), MOUNTS), Some(("/mnt", "shared:7 ")));
        assert_eq!(mount_of(Path::new("/mnt/sub/x"), MOUNTS), Some(("/mnt/sub", "master:7 ")));
        assert_eq!(mount_of(Path::new("/mnt/subway"), MOUNTS), Some(("/mnt", "shared:7 ")));
    }
}
