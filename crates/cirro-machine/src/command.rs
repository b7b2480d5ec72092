//! QEMU's command line.
//!
//! The `microvm` machine with a PCI Express bus boots fastest; its spare root ports take disks and cards later.

use std::path::{Path, PathBuf};

use cirro_types::MacAddress;

/// How the guest's instructions are executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation; the counter's frequency is the host's, as QEMU passes the host's counter on.
    Tcg { tsc_khz: Option<u64> },
}

impl Accelerator {
    /// Chooses for this host.
    ///
    /// Under `kvm_pvm` (a virtual machine without nested virtualisation) `/dev/kvm` opens, but a guest hangs; a probe
    /// guest that finds other such hosts comes later.
    pub(crate) fn of_host(measure_khz: impl FnOnce() -> Option<u64>) -> Self {
        let usable = std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if usable && !Path::new("/sys/module/kvm_pvm").exists() {
            return Self::Kvm;
        }
        Self::Tcg { tsc_khz: measure_khz() }
    }
}

/// What a machine is started with.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) program: PathBuf,
    pub(crate) id: String,
    pub(crate) accelerator: Accelerator,
    pub(crate) cpu: u32,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) disk: PathBuf,
    pub(crate) console: PathBuf,
    pub(crate) qmp: PathBuf,
    pub(crate) tap_fd: i32,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u32,
}

impl Machine {
    /// Returns the argument vector.
    pub(crate) fn args(&self) -> Vec<String> {
        let mut args = vec![self.program.display().to_string()];
        let mut add = |option: &str, value: String| args.extend([option.to_owned(), value]);
        add("-name", self.id.clone());
        add("-M", "microvm,pcie=on".into());
        let (accelerator, model) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            Accelerator::Tcg { .. } => ("tcg,tb-size=32", "max"),
        };
        add("-accel", accelerator.into());
        add("-cpu", model.into());
        add("-m", self.memory_mib.to_string());
        add("-smp", self.cpu.to_string());
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", self.initrd.display().to_string());
        add("-append", self.kernel_arguments());
        for port in 1..=2 {
            add("-device", format!("pcie-root-port,id=rp{port},chassis={port}"));
        }
        let disk = serde_json::json!({
            "driver": "qcow2",
            "node-name": "disk",
            "discard": "unmap",
            "file": { "driver": "file", "filename": self.disk.display().to_string() },
        });
        add("-blockdev", disk.to_string());
        add("-device", "virtio-blk-pci,drive=disk".into());
        add("-netdev", format!("tap,id=net,fd={},vhost=off", self.tap_fd));
        add("-device", format!("virtio-net-pci,netdev=net,mac={},host_mtu={},romfile=", self.mac, self.mtu));
        add("-chardev", format!("file,id=console,path={}", option_value(&self.console)));
        add("-serial", "chardev:console".into());
        add("-qmp", format!("unix:{},server=on,wait=off", option_value(&self.qmp)));
        add("-display", "none".into());
        add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny".into());
        args.extend(["-nodefaults", "-no-user-config", "-no-reboot"].map(String::from));
        args
    }

    /// Nothing of the user's is in it. A panic ends the machine (`-no-reboot`).
    fn kernel_arguments(&self) -> String {
        let mut words = "console=ttyS0 quiet panic=-1 pcie_ports=native".to_owned();
        // On a busy host the kernel's own measurement fails under translation, and the guest hangs.
        if let Accelerator::Tcg { tsc_khz: Some(khz) } = self.accelerator {
            words.push_str(&format!(" tsc_early_khz={khz} tsc=reliable"));
        }
        words
    }
}

/// Writes a path as the value of one of QEMU's options, where a comma is doubled.
fn option_value(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(accelerator: Accelerator) -> Machine {
        Machine {
            program: "/usr/bin/qemu-system-x86_64".into(),
            id: "web".into(),
            accelerator,
            cpu: 2,
            memory_mib: 256,
            kernel: "/boot/vmlinux".into(),
            initrd: "/machines/web/initrd".into(),
            disk: "/machines/web/disk.qcow2".into(),
            console: "/machines/a,b/console.log".into(),
            qmp: "/run/web.qmp".into(),
            tap_fd: 3,
            mac: MacAddress([2, 0, 0, 0, 0, 9]),
            mtu: 1450,
        }
    }

    fn text(accelerator: Accelerator) -> String {
        let mut text = String::new();
        for word in machine(accelerator).args() {
            text.push_str(if word.starts_with('-') { "\n" } else { " " });
            text.push_str(&word);
        }
        format!("{}\n", text.trim())
    }

    #[test]
    fn the_command_line_is_the_checked_in_one() {
        let translated = Accelerator::Tcg { tsc_khz: Some(2_596_120) };
        assert_eq!(text(translated), include_str!("command/tcg.txt"));
        let virtualised = text(Accelerator::Kvm);
        assert!(virtualised.contains("\n-accel kvm\n-cpu host\n") && !virtualised.contains("tsc"));
    }
}
