//! Virtual machines on QEMU: disks from images, boot, QMP, serial console.
//!
//! ## Theory of operation
//! ```text
//! image layers ── mkfs.ext4 -d ──▶ images/IMAGE.ext4 ◀── instances/ID/disk.qcow2 ─┐
//! kernel, busybox, modules ──▶ boot/KEY/{vmlinux, initrd.gz} ──┐                  ├──▶ QEMU's command line
//! names, command, user data ───────────────────────────────────┴▶ instances/ID/initrd
//! ```
//! All of it lies below `<data_dir>/machines`. [`Machines::prepare`] makes what is missing and starts nothing: the
//! supervisor runs the command, so a machine outlives the daemon. The guest's first process (`guest/init.sh`) stays in
//! the initial file system and runs the image's command on the root disk.

#![forbid(unsafe_code)]

mod boot;
mod check;
mod command;
mod cpio;
mod disk;
mod files;
mod guest;
mod kernel;
mod qcow2;
mod qmp;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use cirro_types::MacAddress;
use serde::{Deserialize, Serialize};

use command::{Accelerator, Machine};
use kernel::Kernel;

/// The descriptor that QEMU finds the tap at.
const TAP_FD: i32 = 3;
/// A unix socket's path has at most this many bytes.
const MAX_SOCKET_PATH: usize = 107;

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
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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

/// An error of something that we were doing.
pub(crate) fn failed(doing: impl std::fmt::Display, error: &dyn std::fmt::Display) -> MachineError {
    MachineError::Failed(format!("{doing}: {error}"))
}

/// The machines of one host: disks and consoles below `data_dir/machines`, sockets below `run_dir/machines`.
#[derive(Debug, Clone)]
pub struct Machines {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    data: PathBuf,
    run: PathBuf,
    kernel_dir: Option<PathBuf>,
    own_kernel: PathBuf,
    accelerator: OnceLock<Accelerator>,
}

/// What is kept of a machine beside its disk.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    image: String,
}

/// A process to be started by the supervisor: argument vector, and descriptors that QEMU expects at given numbers.
#[derive(Debug)]
pub struct MachineProcess {
    /// Argument vector; the first is an absolute path.
    pub args: Vec<String>,
    /// Descriptors to pass: number in the child and descriptor.
    pub fds: Vec<(i32, OwnedFd)>,
}

impl Machines {
    /// Opens the directories. Guests run the kernel in `data_dir/kernel`, or one that is installed on the host.
    pub fn open(data_dir: &Path, run_dir: &Path) -> Result<Self, MachineError> {
        Self::open_with_kernel(data_dir, run_dir, None)
    }

    /// Opens the directories; guests run the newest kernel in `kernel_dir`: `vmlinuz-VERSION`, `lib/modules/VERSION`.
    ///
    /// Base disks that no machine was made from are removed. The kernel is looked for when a machine is prepared.
    pub fn open_with_kernel(
        data_dir: &Path,
        run_dir: &Path,
        kernel_dir: Option<PathBuf>,
    ) -> Result<Self, MachineError> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|e| failed("find the directories", &e));
        let data = absolute(data_dir)?.join("machines");
        let run = absolute(run_dir)?.join("machines");
        for directory in [&data.join("images"), &data.join("instances"), &run] {
            files::private_directory(directory)?;
        }
        let shared = Shared {
            own_kernel: absolute(data_dir)?.join("kernel"),
            data,
            run,
            kernel_dir,
            accelerator: OnceLock::new(),
        };
        let machines = Self { shared: Arc::new(shared) };
        machines.remove_unused_bases()?;
        Ok(machines)
    }

    /// Makes what is missing (kernel, initrd, base disk, the machine's copy-on-write layer) and gives the command. Blocking.
    ///
    /// A machine that was prepared before keeps its disk.
    ///
    /// # Errors
    /// [`MachineError::Missing`] if the host lacks QEMU, mkfs.ext4, busybox or a guest kernel;
    /// [`MachineError::Invalid`] for a request out of range, or for a machine whose disk is of another image.
    pub fn prepare(&self, request: BootRequest) -> Result<MachineProcess, MachineError> {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        check::request(&request, cores)?;
        if !cfg!(target_arch = "x86_64") {
            return Err(MachineError::Missing("machines are not supported on this processor yet".into()));
        }
        let qmp = self.qmp_path(&request.id);
        if qmp.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(MachineError::Invalid(format!("{} is too long for a socket", qmp.display())));
        }
        let program = files::program("qemu-system-x86_64", "qemu-system-x86")?;
        let archive = guest::archive(&request)?;
        let directory = self.directory(&request.id);
        let boot = self.ensure_boot_files()?;
        self.ensure_disk(&request, &directory)?;
        let initrd = directory.join("initrd");
        write_initrd(&initrd, &boot.initrd, &archive)?;
        std::fs::remove_file(&qmp)
            .or_else(files::ignore_missing)
            .map_err(|e| failed("clear QMP's socket", &e))?;
        let machine = Machine {
            program,
            accelerator: *self
                .shared
                .accelerator
                .get_or_init(|| Accelerator::of_host(cirro_sys::tsc::measure_khz)),
            cpu: request.cpu,
            memory_mib: request.memory >> 20,
            kernel: boot.kernel,
            initrd,
            disk: directory.join("disk.qcow2"),
            console: self.console_path(&request.id),
            qmp,
            tap_fd: TAP_FD,
            mac: request.mac,
            mtu: request.mtu,
            id: request.id,
        };
        Ok(MachineProcess { args: machine.args(), fds: vec![(TAP_FD, request.tap)] })
    }

    /// Asks the guest to power off by QMP; the caller kills the process after its grace.
    pub async fn power_down(&self, id: &str) -> Result<(), MachineError> {
        self.ask(id, "system_powerdown").await.map(drop)
    }

    /// Ends the machine's process at once by QMP, as pulling the plug does.
    pub async fn quit(&self, id: &str) -> Result<(), MachineError> {
        self.ask(id, "quit").await.map(drop)
    }

    /// Asks QEMU for the machine's state: `running`, `paused`, `shutdown` and others.
    pub async fn status(&self, id: &str) -> Result<String, MachineError> {
        let answer = self.ask(id, "query-status").await?;
        let status = answer.get("status").and_then(serde_json::Value::as_str);
        status.map(String::from).ok_or_else(|| failed("QMP query-status", &"no status in the answer"))
    }

    /// Removes disk, console and sockets; no error when there is none.
    ///
    /// The base disk stays for the next machine of its image.
    pub fn remove(&self, id: &str) -> Result<(), MachineError> {
        check::id(id)?;
        let remove = || {
            std::fs::remove_file(self.qmp_path(id)).or_else(files::ignore_missing)?;
            std::fs::remove_dir_all(self.directory(id)).or_else(files::ignore_missing)
        };
        remove().map_err(|error| failed(format!("remove machine {id}"), &error))
    }

    /// Returns the path of the serial console's log, from the machine's last start on.
    pub fn console_path(&self, id: &str) -> PathBuf {
        self.directory(id).join("console.log")
    }

    /// Lists ids that have a directory.
    pub fn list(&self) -> Result<Vec<String>, MachineError> {
        let list = || -> std::io::Result<Vec<String>> {
            let mut ids = Vec::new();
            for entry in std::fs::read_dir(self.shared.data.join("instances"))? {
                ids.extend(entry?.file_name().into_string().ok().filter(|id| check::id(id).is_ok()));
            }
            ids.sort();
            Ok(ids)
        };
        list().map_err(|error| failed("list machines", &error))
    }

    async fn ask(&self, id: &str, command: &str) -> Result<serde_json::Value, MachineError> {
        check::id(id)?;
        qmp::execute(&self.qmp_path(id), command).await
    }

    fn ensure_boot_files(&self) -> Result<boot::BootFiles, MachineError> {
        let kernel = Kernel::find(self.shared.kernel_dir.as_deref(), &self.shared.own_kernel)?;
        let _making = self.lock()?;
        boot::ensure(&kernel, &self.shared.data.join("boot"))
    }

    /// Makes the machine's disk, or checks that the one it has is of the same image.
    fn ensure_disk(&self, request: &BootRequest, directory: &Path) -> Result<(), MachineError> {
        let _making = self.lock()?;
        let (disk, base) = (directory.join("disk.qcow2"), self.base_path(&request.image));
        if disk.is_file() {
            let record = self.record(&request.id)?;
            if record.image != request.image {
                return Err(MachineError::Invalid("the machine's disk was made from another image".into()));
            }
            // A new one would not have the same blocks at the same places.
            return match base.is_file() {
                true => Ok(()),
                false => Err(failed("open the machine's disk", &"the base disk is gone")),
            };
        }
        disk::ensure_base(&base, &request.layers, &self.shared.run.join("merged"))?;
        files::private_directory(directory)?;
        let record = serde_json::to_vec(&Record { image: request.image.clone() })
            .map_err(|error| failed("write the machine's record", &error))?;
        files::write_private(&directory.join("machine.json"), &[&record])?;
        disk::ensure_own(&disk, &base)
    }

    /// Removes base disks that no machine's disk reads from.
    fn remove_unused_bases(&self) -> Result<(), MachineError> {
        let _making = self.lock()?;
        let mut used = Vec::new();
        for id in self.list()? {
            if !self.directory(&id).join("disk.qcow2").exists() {
                continue;
            }
            match self.record(&id) {
                Ok(record) => used.push(self.base_path(&record.image)),
                Err(error) => {
                    tracing::warn!(instance = id, %error, "base disks are kept");
                    return Ok(());
                }
            }
        }
        let remove = || -> std::io::Result<()> {
            for entry in std::fs::read_dir(self.shared.data.join("images"))? {
                let path = entry?.path();
                if !used.contains(&path) {
                    std::fs::remove_file(path)?;
                }
            }
            Ok(())
        };
        remove().map_err(|error| failed("remove unused base disks", &error))
    }

    fn record(&self, id: &str) -> Result<Record, MachineError> {
        let bytes = std::fs::read(self.directory(id).join("machine.json"))
            .map_err(|error| failed("read the machine's record", &error))?;
        serde_json::from_slice(&bytes).map_err(|error| failed("read the machine's record", &error))
    }

    fn directory(&self, id: &str) -> PathBuf {
        self.shared.data.join("instances").join(id)
    }

    fn base_path(&self, image: &str) -> PathBuf {
        self.shared.data.join("images").join(format!("{image}.ext4"))
    }

    fn qmp_path(&self, id: &str) -> PathBuf {
        self.shared.run.join(format!("{id}.qmp"))
    }

    /// Keeps others, of this process or another one, from making or removing boot files and disks while the file is open.
    fn lock(&self) -> Result<std::fs::File, MachineError> {
        let lock = || {
            let path = self.shared.data.join("lock");
            let file = std::fs::File::options().create(true).append(true).open(path)?;
            file.lock()?;
            Ok(file)
        };
        lock().map_err(|error: std::io::Error| failed("lock the machines' directory", &error))
    }
}

/// Puts the common archive and the machine's own behind one another; the kernel wants the second at a multiple of four.
fn write_initrd(path: &Path, common: &Path, own: &[u8]) -> Result<(), MachineError> {
    let common =
        std::fs::read(common).map_err(|error| failed(format!("read {}", common.display()), &error))?;
    let padding = vec![0; common.len().next_multiple_of(512) - common.len()];
    files::write_private(path, &[&common, &padding, own])
}
