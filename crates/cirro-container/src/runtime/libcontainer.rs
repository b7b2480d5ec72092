//! The runtime over libcontainer.
//!
//! It forks by raw system calls, changes directories and blocks, so `create` is called in a helper only. Of its state nothing
//! is used again: killing, freezing, deleting are ours, by cgroup and pidfd.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};

use super::executor::{CommandExecutor, unmark};
use super::spec::Host;
use super::{Made, NewContainer, NewExec, Root, RootChange, Runtime, Streams, WorkloadDirectory};
use super::{launch, ptmx, root};
use crate::error::{ContainerError, chain};

/// Containers by libcontainer, commands in them by our own launcher.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Libcontainer;

impl Runtime for Libcontainer {
    fn create(&self, container: NewContainer<'_>) -> Result<Made, ContainerError> {
        let (uid, spec) = prepare(&container)?;
        let change = (container.root_change, container.preserved);
        let NewContainer { id, directory, hierarchies, cgroup, tty, size, streams, .. } = container;
        let group = hierarchies.group(cgroup);
        group.join_uncontrolled().map_err(|error| ContainerError::runtime("join cgroup", &error))?;
        give_to(&streams, uid);
        let console = tty.then(|| UnixListener::bind("console.sock")).transpose();
        let console = console.map_err(|error| ContainerError::runtime("make console socket", &error))?;
        // The terminal's socket is bound and named relative to the directory: paths of sockets are short.
        let socket = tty.then(|| directory.path().join("console.sock"));
        let pid = build(id, directory, streams, socket.as_deref(), change)?;
        let terminal = console.map(|listener| receive_terminal(&listener, uid, size)).transpose();
        let terminal = terminal.map_err(|error| ContainerError::runtime("receive terminal", &error))?;
        drop(spec);
        Ok(Made { pid, terminal })
    }

    fn start(&self, id: &str, directory: &WorkloadDirectory) -> Result<(), ContainerError> {
        connect_in(&directory.runtime().join(id), "notify.sock")
            .and_then(|mut socket| io::Write::write_all(&mut socket, b"start container"))
            .map_err(|error| ContainerError::runtime("start", &error))
    }

    fn exec(&self, exec: NewExec<'_>) -> Result<Made, ContainerError> {
        launch::exec(exec)
    }
}

/// Mounts the root, fits the spec and writes the bundle. Returns the user's id.
fn prepare(container: &NewContainer<'_>) -> Result<(u32, Spec), ContainerError> {
    let directory = container.directory;
    let bundle = directory.bundle();
    let rootfs = match container.root {
        Root::Layers(_) => bundle.join("rootfs"),
        Root::Directory(path) => path.to_owned(),
    };
    let mut spec: Spec =
        serde_json::from_str(container.spec).map_err(|error| ContainerError::runtime("read spec", &error))?;
    let host = Host::detect(container.hierarchies);
    host.fit(&mut spec, &rootfs, container.cgroup, container.tty)?;
    host.fit_libcontainer(&mut spec);
    if let Root::Layers(layers) = container.root {
        root::mount(layers, directory)?;
    }
    let process = spec.process().as_ref().expect("checked by fit");
    root::ensure_directory(&rootfs, process.cwd()).map_err(|error| {
        ContainerError::runtime(&format!("make working directory {}", process.cwd().display()), &error)
    })?;
    let uid = process.user().uid();
    spec.save(bundle.join("config.json")).map_err(|error| ContainerError::runtime("write bundle", &error))?;
    crate::process::enter_directory(directory.path())
        .map_err(|error| ContainerError::runtime("enter directory", &error))?;
    Ok((uid, spec))
}

fn build(
    id: &str,
    directory: &WorkloadDirectory,
    streams: Streams,
    console: Option<&Path>,
    (root_change, preserved): (RootChange, u32),
) -> Result<i32, ContainerError> {
    let explain = |error: libcontainer::error::LibcontainerError| {
        let text = chain(&error);
        unmark(&text).unwrap_or_else(|| ContainerError::Runtime(format!("create container: {text}")))
    };
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
        .with_executor(CommandExecutor)
        .with_root_path(directory.runtime())
        .map_err(explain)?
        .with_console_socket(console)
        .with_preserved_fds(i32::try_from(preserved).unwrap_or(i32::MAX - 3));
    if console.is_none() {
        let null = || rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        let stdin = streams.stdin.map_or_else(null, Ok);
        let stdin = stdin.map_err(|error| ContainerError::runtime("open /dev/null", &error))?;
        builder = builder.with_stdin(stdin);
        if let (Some(stdout), Some(stderr)) = (streams.stdout, streams.stderr) {
            builder = builder.with_stdout(stdout).with_stderr(stderr);
        }
    }
    let container = builder
        .validate_id()
        .map_err(explain)?
        .as_init(directory.bundle())
        .with_systemd(false)
        .with_detach(true)
        .with_no_pivot(root_change == RootChange::Move)
        .build()
        .map_err(explain)?;
    container
        .pid()
        .map(|pid| pid.as_raw())
        .ok_or_else(|| ContainerError::Runtime("the container has no process".to_owned()))
}

/// Lets a user who is not root open `/dev/stdout` and its like anew.
pub(super) fn give_to(streams: &Streams, uid: u32) {
    if uid == 0 {
        return;
    }
    for stream in [&streams.stdin, &streams.stdout, &streams.stderr].into_iter().flatten() {
        if is_null(stream) {
            // The host's own.
            continue;
        }
        let _ = rustix::fs::fchown(stream, Some(rustix::fs::Uid::from_raw(uid)), None);
    }
}

fn is_null(stream: &OwnedFd) -> bool {
    let Ok(data) = rustix::fs::fstat(stream) else { return true };
    let device = (rustix::fs::major(data.st_rdev), rustix::fs::minor(data.st_rdev));
    rustix::fs::FileType::from_raw_mode(data.st_mode) == rustix::fs::FileType::CharacterDevice
        && device == (1, 3)
}

fn receive_terminal(listener: &UnixListener, uid: u32, size: Option<(u16, u16)>) -> io::Result<OwnedFd> {
    // The runtime has connected and sent, so this does not wait.
    let (socket, _) = listener.accept()?;
    let (mut name, mut descriptors) = ([0; 256], Vec::new());
    cirro_sys::descriptors::receive(&socket, &mut name, &mut descriptors)?;
    let _ = std::fs::remove_file("console.sock");
    let master =
        descriptors.pop().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no terminal came"))?;
    if let Some(size) = size {
        ptmx::set_size(&master, size)?;
    }
    if uid != 0 {
        let slave = ptmx::open_slave(&master)?;
        rustix::fs::fchown(&slave, Some(rustix::fs::Uid::from_raw(uid)), None)?;
    }
    Ok(master)
}

/// Connects to a socket whose whole path may be longer than a socket's name can be.
fn connect_in(directory: &Path, name: &str) -> io::Result<UnixStream> {
    let directory =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let number = std::os::fd::AsRawFd::as_raw_fd(&directory.as_fd());
    UnixStream::connect(format!("/proc/self/fd/{number}/{name}"))
}
