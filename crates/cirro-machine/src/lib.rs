//! Virtual machines on QEMU: disks from images, boot, QMP, serial console.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use cirro_types::MacAddress;

/// A machine to boot.
#[derive(Debug)]
pub struct BootRequest {
    /// File-name-safe id.
    pub id: String,
    /// Host name in the guest.
    pub hostname: String,
    /// Virtual processors.
    pub cpu: u32,
    /// Bytes of memory.
    pub memory: u64,
    /// What the guest's init runs: the image's argument vector, environment, working directory, user.
    pub command: GuestCommand,
    /// Key of the image the disk is made from (its id).
    pub image: String,
    /// Unpacked layers of the image, the top one first.
    pub layers: Vec<PathBuf>,
    /// Tap with virtio-net header.
    pub tap: OwnedFd,
    /// Its MAC address.
    pub mac: MacAddress,
    /// Its MTU.
    pub mtu: u32,
    /// User data for the guest.
    pub user_data: Option<String>,
}

/// What a machine made from a container image runs.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct GuestCommand {
    /// Argument vector.
    pub args: Vec<String>,
    /// Environment.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// User.
    pub user: String,
}

/// Why a machine could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A program or kernel is missing on the host; says which.
    #[error("{0}")]
    Missing(String),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The disk, the kernel or QEMU failed.
    #[error("{0}")]
    Failed(String),
}

/// The machines of one host: disks and consoles below `data_dir/machines`, sockets below `run_dir/machines`.
#[derive(Debug, Clone)]
pub struct Machines {}

/// A process to be started by the supervisor: argument vector, and descriptors that QEMU expects at given numbers.
#[derive(Debug)]
pub struct MachineProcess {
    /// Argument vector; the first is an absolute path.
    pub args: Vec<String>,
    /// Descriptors to pass: number in the child and descriptor.
    pub fds: Vec<(i32, OwnedFd)>,
}

impl Machines {
    /// Opens the directories.
    pub fn open(data_dir: &Path, run_dir: &Path) -> Result<Self, MachineError> {
        Ok(Self {})
    }
    /// Makes what is missing (kernel, initrd, base disk, the machine's copy-on-write layer) and gives the command. Blocking.
    pub fn prepare(&self, request: BootRequest) -> Result<MachineProcess, MachineError> {
        Err(MachineError::Missing("virtual machines are not supported yet".into()))
    }
    /// Asks the guest to power off by QMP; the caller kills the process after its grace.
    pub async fn power_down(&self, id: &str) -> Result<(), MachineError> {
        Ok(())
    }
    /// Removes disk, console and sockets; no error when there is none.
    pub fn remove(&self, id: &str) -> Result<(), MachineError> {
        Ok(())
    }
    /// Returns the path of the serial console's log.
    pub fn console_path(&self, id: &str) -> PathBuf {
        PathBuf::from("/nonexistent")
    }
    /// Lists ids that have a directory.
    pub fn list(&self) -> Result<Vec<String>, MachineError> {
        Ok(Vec::new())
    }
}
