//! The mounts of a document: got ready on the host as far as they can be, attached inside.
//!
//! Whatever comes from the host is copied to a detached mount before the container's namespaces exist, so inside no path of the host
//! is ever looked up. Filesystems that show a namespace (proc, sysfs, mqueue, devpts) are made inside.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, Mount};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::copy_up;
use super::inside::{self, Links, Sort, find_or_make, sort_of};
use super::options::{Attributes, Binding, Options, READ_ONLY, propagation};
use super::tree;
use super::users::Maps;
use crate::cgroup::{Group, Shown};
use crate::error::ContainerError;

/// One mount, ready to be attached.
pub(super) struct Prepared {
    destination: PathBuf,
    source: Option<PathBuf>,
    sort: Sort,
    options: Options,
    body: Body,
}

enum Body {
    /// Complete.
    Tree(OwnedFd),
    /// Made inside.
    Filesystem(String),
    /// A directory of version 1 hierarchies.
    Cgroups(Vec<(Shown, OwnedFd)>),
}

/// What the mounts of one container have in common.
pub(super) struct Common<'a> {
    pub(super) group: &'a Group,
    /// Maps of the container, for mounts that ask for them without naming any.
    pub(super) maps: (Option<&'a Vec<LinuxIdMapping>>, Option<&'a Vec<LinuxIdMapping>>),
    pub(super) own_cgroup_namespace: bool,
    /// sysfs can only be made by who owns the network namespace.
    pub(super) bind_sysfs: bool,
    /// What mounts share that do not say.
    pub(super) propagation: (u64, bool),
}

/// Gets one mount ready, on the host.
pub(super) fn prepare(mount: &Mount, common: &Common<'_>) -> Result<Prepared, ContainerError> {
    let told = |error: io::Error| {
        let what =
            mount.source().as_deref().unwrap_or(Path::new(mount.typ().as_deref().unwrap_or("nothing")));
        let doing = format!("mount {} at {}", what.display(), mount.destination().display());
        ContainerError::runtime(&doing, &error)
    };
    let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
    let kind = mount.typ().as_deref().unwrap_or_default();
    let (sort, body) = match (options.binding, kind) {
        (Some(binding), _) => bind(mount, binding, &options, common).map_err(told)?,
        (None, "bind") => bind(mount, Binding::Single, &options, common).map_err(told)?,
        (None, "sysfs") if common.bind_sysfs => {
            let tree = tree::copy_of(Path::new("/sys"), Binding::Recursive).map_err(told)?;
            (Sort::Directory, Body::Tree(finish(tree, &options, common).map_err(told)?))
        }
        (None, "cgroup" | "cgroup2") => (Sort::Directory, cgroups(kind, &options, common).map_err(told)?),
        (None, "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue") => {
            (Sort::Directory, Body::Filesystem(kind.to_owned()))
        }
        (None, _) => {
            let source = mount.source().as_deref();
            let tree = tree::new(kind, source, &options.data, options.own).map_err(told)?;
            (Sort::Directory, Body::Tree(finish(tree, &options, common).map_err(told)?))
        }
    };
    let (destination, source) = (mount.destination().clone(), mount.source().clone());
    Ok(Prepared { destination, source, sort, options, body })
}

fn bind(mount: &Mount, binding: Binding, options: &Options, common: &Common<'_>) -> io::Result<(Sort, Body)> {
    let source = mount.source().as_ref().filter(|source| source.is_absolute());
    let source = source.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no absolute source"))?;
    let tree = match &options.subpath {
        None => tree::copy_of(source, binding)?,
        Some(subpath) => tree::copy_at(below(source, subpath)?, binding)?,
    };
    if let Some(recursive) = options.id_map {
        let own = |own: &Option<Vec<LinuxIdMapping>>| own.clone().filter(|maps| !maps.is_empty());
        let (users, groups) = (own(mount.uid_mappings()), own(mount.gid_mappings()));
        let maps = Maps::of(users.as_ref().or(common.maps.0), groups.as_ref().or(common.maps.1));
        tree::set_id_map(&tree, maps.namespace()?.as_fd(), recursive)?;
    } else if mount.uid_mappings().as_ref().is_some_and(|maps| !maps.is_empty()) {
        let maps = Maps::of(mount.uid_mappings().as_ref(), mount.gid_mappings().as_ref());
        tree::set_id_map(&tree, maps.namespace()?.as_fd(), false)?;
    }
    Ok((sort_of(&tree)?, Body::Tree(finish(tree, options, common)?)))
}

/// Opens a place below a source that others may be changing: no link leads out of it.
fn below(source: &Path, subpath: &Path) -> io::Result<OwnedFd> {
    let path = OFlags::PATH | OFlags::CLOEXEC;
    let source = rustix::fs::open(source, path | OFlags::DIRECTORY, Mode::empty())?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(source, subpath, path, Mode::empty(), resolve)?)
}

/// Attributes and propagation, in this order: a mount that is shared already would pass them on.
fn finish(tree: OwnedFd, options: &Options, common: &Common<'_>) -> io::Result<OwnedFd> {
    let (kind, recursive) = options.propagation.unwrap_or(common.propagation);
    if kind != propagation::SHARED {
        tree::set_propagation(&tree, (kind, recursive))?;
    }
    tree::set_attributes(&tree, options.own, false)?;
    tree::set_attributes(&tree, options.recursive, true)?;
    if kind == propagation::SHARED {
        tree::set_propagation(&tree, (kind, recursive))?;
    }
    Ok(tree)
}

/// The container's own groups, or with the host's view the whole version 2 hierarchy.
fn cgroups(kind: &str, options: &Options, common: &Common<'_>) -> io::Result<Body> {
    let attributes = options.own;
    let copy = |path: &Path| {
        let tree = tree::copy_of(path, Binding::Single)?;
        tree::make_private(&tree)?;
        tree::set_attributes(&tree, attributes, false)?;
        Ok::<_, io::Error>(tree)
    };
    let (unified, separate): (Vec<Shown>, Vec<Shown>) =
        common.group.shown().into_iter().partition(|shown| shown.unified);
    match (unified.first(), separate.is_empty() || kind == "cgroup2") {
        (Some(unified), true) => {
            let whole = !common.own_cgroup_namespace;
            Ok(Body::Tree(copy(if whole { &unified.hierarchy } else { &unified.directory })?))
        }
        (None, true) => Err(io::Error::new(io::ErrorKind::NotFound, "the host has no cgroup version 2")),
        (_, false) => {
            let mut trees = Vec::with_capacity(separate.len());
            for shown in separate {
                let tree = copy(&shown.directory)?;
                trees.push((shown, tree));
            }
            Ok(Body::Cgroups(trees))
        }
    }
}

impl Prepared {
    pub(super) fn destination(&self) -> &Path {
        &self.destination
    }

    pub(super) fn is_bind(&self) -> bool {
        matches!(self.body, Body::Tree(_))
    }

    /// Attaches it, inside.
    pub(super) fn attach(&self, root: &OwnedFd) -> Result<(), ContainerError> {
        self.try_attach(root).map_err(|error| {
            ContainerError::runtime(&format!("mount at {}", self.destination.display()), &error)
        })
    }

    fn try_attach(&self, root: &OwnedFd) -> io::Result<()> {
        // What shows the kernel is never put where a link leads (CVE-2019-19921, CVE-2023-27561).
        let kernel = matches!(&self.body, Body::Filesystem(kind) if kind == "proc" || kind == "sysfs");
        let links = if kernel { Links::Refuse } else { Links::Follow };
        let was_there = inside::is_there(root, &self.destination);
        let place = find_or_make(root, &self.destination, self.sort, links)?;
        match &self.body {
            Body::Tree(tree) => tree::attach(tree, &place),
            Body::Filesystem(kind) => self.attach_new(kind, &place, was_there),
            Body::Cgroups(trees) => self.attach_cgroups(trees, &place),
        }
    }

    fn attach_new(&self, kind: &str, place: &OwnedFd, was_there: bool) -> io::Result<()> {
        let options = &self.options;
        let tree = tree::new(kind, self.source.as_deref(), &options.data, options.own)?;
        if kind == "tmpfs" {
            // As with runc: what was there lends its mode, a place that was made for the mount lends none.
            if was_there && !options.data.iter().any(|(key, _)| key == "mode") {
                let mode = rustix::fs::fstat(place)?.st_mode & 0o7777;
                rustix::fs::fchmod(&reopen(&tree)?, Mode::from_raw_mode(mode))?;
            }
            if options.copy_up {
                copy_up::copy(place, &tree)?;
            }
        }
        tree::set_attributes(&tree, Attributes { set: options.own.set & READ_ONLY, clear: 0 }, false)?;
        tree::set_attributes(&tree, options.recursive, true)?;
        tree::attach(&tree, place)?;
        match options.propagation {
            Some(propagation) if propagation.0 != propagation::PRIVATE => {
                tree::set_propagation(&tree, propagation)
            }
            _ => Ok(()),
        }
    }

    fn attach_cgroups(&self, trees: &[(Shown, OwnedFd)], place: &OwnedFd) -> io::Result<()> {
        let data = [("mode".to_owned(), Some("755".to_owned()))];
        let holder = tree::new("tmpfs", Some(Path::new("tmpfs")), &data, self.options.own)?;
        tree::attach(&holder, place)?;
        for (shown, tree) in trees {
            rustix::fs::mkdirat(&holder, shown.name.as_str(), Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            tree::attach(tree, rustix::fs::openat(&holder, shown.name.as_str(), flags, Mode::empty())?)?;
            for link in &shown.links {
                rustix::fs::symlinkat(shown.name.as_str(), &holder, link.as_str())?;
            }
        }
        tree::set_attributes(&holder, Attributes { set: self.options.own.set & READ_ONLY, clear: 0 }, false)
    }
}

fn reopen(tree: &OwnedFd) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(tree, ".", flags, Mode::empty())?)
}
