//! Paths that are hidden and paths that are read-only.
//!
//! A file is hidden behind `/dev/null`, a directory behind an empty read-only tmpfs. Both are attached as descriptors that were looked
//! at, to places held as descriptors, so no path can become another one in between. Where a container's `/dev/null` is not one, the
//! host's serves, read-only: its mode is the whole host's.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::inside::{Links, Sort, find, sort_of};
use super::options::{Attributes, Binding, READ_ONLY};
use super::tree;
use crate::error::ContainerError;

/// Hides paths; what is not there need not be hidden.
pub(super) fn hide(root: &OwnedFd, paths: &[String], null: &OwnedFd) -> Result<(), ContainerError> {
    let (mut file, mut directory) = (Cover { attached: own_null(root)? }, Cover::default());
    for path in paths {
        let told = |error: io::Error| ContainerError::runtime(&format!("mask {path}"), &error);
        let Some(place) = find_if_there(root, path).map_err(told)? else { continue };
        match sort_of(&place).map_err(told)? {
            Sort::File => file.put(&place, || null.try_clone()).map_err(told)?,
            Sort::Directory => directory.put(&place, empty).map_err(told)?,
        }
    }
    Ok(())
}

/// The container's `/dev/null`, if it is that device; an image may have anything there (CVE-2025-31133).
fn own_null(root: &OwnedFd) -> Result<Option<OwnedFd>, ContainerError> {
    let Ok(place) = find(root, Path::new("/dev/null"), Links::Refuse) else { return Ok(None) };
    let is = tree::is_character_device(&place, (1, 3));
    let is = is.map_err(|error| ContainerError::runtime("look at /dev/null", &error))?;
    Ok(is.then_some(place))
}

fn empty() -> io::Result<OwnedFd> {
    let data =
        [("nr_inodes", "1"), ("nr_blocks", "1")].map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
    let tree = tree::new("tmpfs", Some(Path::new("tmpfs")), &data, Attributes::default())?;
    tree::set_read_only(&tree)?;
    Ok(tree)
}

/// Something to hide behind: attached somewhere, and from then on copied from where it is, since older kernels copy attached mounts only.
#[derive(Default)]
struct Cover {
    attached: Option<OwnedFd>,
}

impl Cover {
    fn put(&mut self, place: &OwnedFd, make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<()> {
        if let Some(attached) = &self.attached {
            return tree::attach(tree::copy_at(attached, Binding::Single)?, place);
        }
        let fresh = make()?;
        tree::attach(&fresh, place)?;
        self.attached = Some(fresh);
        Ok(())
    }
}

/// Makes paths read-only, with what is below them.
pub(super) fn make_read_only(root: &OwnedFd, paths: &[String]) -> Result<(), ContainerError> {
    for path in paths {
        let told = |error: io::Error| ContainerError::runtime(&format!("make {path} read-only"), &error);
        let Some(place) = find_if_there(root, path).map_err(told)? else { continue };
        let copy = tree::copy_at(&place, Binding::Recursive).map_err(told)?;
        tree::set_attributes(&copy, Attributes { set: READ_ONLY, clear: 0 }, true).map_err(told)?;
        tree::attach(&copy, &place).map_err(told)?;
    }
    Ok(())
}

fn find_if_there(root: &OwnedFd, path: &str) -> io::Result<Option<OwnedFd>> {
    let path = PathBuf::from(path);
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path"));
    }
    match find(root, &path, Links::Follow) {
        Ok(place) => Ok(Some(place)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}
