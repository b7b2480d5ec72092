//! Filters of system calls: compiled once by libseccomp, then loaded from bytes.
//!
//! Compiling docker's profile takes several milliseconds, more than all else together. The compiled program is kept in a file
//! beside the workloads, named by the hash of the profile's text; runs of helpers share it, and it goes with its directory.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use cirro_sys::confine::{filter_flags, load_filter};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
    LinuxSyscall,
};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::error::ContainerError;

/// Changes when the same profile would compile to something else.
const FORMAT: &[u8] = b"cirro seccomp 1, libseccomp 2";
/// The kernel takes 4096 instructions of 8 bytes; flags come first.
const MAX_FILE: u64 = 4 + 4096 * 8;

/// A filter that can be loaded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    flags: u32,
    program: Vec<u8>,
}

/// The part of a document that is looked at.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    linux: Option<Linux<'a>>,
}

#[derive(Deserialize)]
struct Linux<'a> {
    #[serde(borrow)]
    seccomp: Option<&'a RawValue>,
}

impl Filter {
    /// The filter of an OCI document, from `cache` when it was compiled before.
    pub(super) fn of_document(document: &str, cache: &Path) -> Result<Option<Self>, ContainerError> {
        let parsed: Document<'_> = serde_json::from_str(document)
            .map_err(|error| ContainerError::runtime("read system call filter", &error))?;
        match parsed.linux.and_then(|linux| linux.seccomp) {
            Some(profile) => Self::cached(profile.get(), cache).map(Some),
            None => Ok(None),
        }
    }

    fn cached(profile: &str, cache: &Path) -> Result<Self, ContainerError> {
        let hash = Sha256::new().chain_update(FORMAT).chain_update(profile).finalize();
        let file = cache.join(hex::encode(hash));
        if let Some(filter) = Self::load_file(&file) {
            return Ok(filter);
        }
        let parsed = serde_json::from_str(profile)
            .map_err(|error| ContainerError::runtime("read system call filter", &error))?;
        let filter = Self::compile(&parsed)?;
        // Without the file the next one compiles again, nothing else.
        let _ = filter.save_file(&file);
        Ok(filter)
    }

    fn load_file(file: &Path) -> Option<Self> {
        if std::fs::metadata(file).ok()?.len() > MAX_FILE {
            return None;
        }
        let bytes = std::fs::read(file).ok()?;
        let (flags, program) = bytes.split_first_chunk::<4>()?;
        let whole = !program.is_empty() && program.len().is_multiple_of(8);
        whole.then(|| Self { flags: u32::from_ne_bytes(*flags), program: program.to_vec() })
    }

    /// Whole or not at all.
    fn save_file(&self, file: &Path) -> io::Result<()> {
        std::fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        let fresh = PathBuf::from(format!("{}.{}", file.display(), std::process::id()));
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.program);
        std::fs::write(&fresh, bytes)?;
        std::fs::rename(fresh, file)
    }

    /// Confines this process, for good.
    pub(super) fn load(&self) -> io::Result<()> {
        load_filter(&self.program, self.flags)
    }

    fn compile(profile: &LinuxSeccomp) -> Result<Self, ContainerError> {
        let explain = |error| ContainerError::runtime("compile system call filter", &error);
        let default = action(profile.default_action(), profile.default_errno_ret())?;
        let mut context = ScmpFilterContext::new(default).map_err(explain)?;
        // The document says when privileges are given up, not libseccomp.
        context.set_ctl_nnp(false).map_err(explain)?;
        for one in profile.architectures().iter().flatten() {
            context.add_arch(architecture(*one)).map_err(explain)?;
        }
        for rule in profile.syscalls().iter().flatten() {
            let action = action(rule.action(), rule.errno_ret())?;
            if action != default {
                add_rule(&mut context, rule, action).map_err(explain)?;
            }
        }
        let program = export(&context)?;
        let flags = profile.flags().iter().flatten().fold(0, |flags, one| flags | flag(*one));
        Ok(Self { flags, program })
    }
}

fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, ContainerError> {
    let told = |error: io::Error| ContainerError::runtime("keep compiled system call filter", &error);
    let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC);
    let mut memory = std::fs::File::from(memory.map_err(|error| told(error.into()))?);
    context
        .export_bpf(&memory)
        .map_err(|error| ContainerError::runtime("compile system call filter", &error))?;
    let mut program = Vec::new();
    io::Seek::rewind(&mut memory).and_then(|()| memory.read_to_end(&mut program)).map_err(told)?;
    Ok(program)
}

/// Whether a profile hands calls over to another process, which this path does not do.
pub(super) fn notifies(profile: &LinuxSeccomp) -> bool {
    let notify = LinuxSeccompAction::ScmpActNotify;
    profile.default_action() == notify
        || profile.syscalls().iter().flatten().any(|rule| rule.action() == notify)
}

fn add_rule(
    context: &mut ScmpFilterContext,
    rule: &LinuxSyscall,
    action: ScmpAction,
) -> Result<(), libseccomp::error::SeccompError> {
    let conditions: Vec<ScmpArgCompare> = rule.args().iter().flatten().map(condition).collect();
    let mut indexes: Vec<usize> = rule.args().iter().flatten().map(LinuxSeccompArg::index).collect();
    indexes.sort_unstable();
    // A rule compares each argument once; several comparisons of one argument are alternatives, as in runc.
    let alternatives = indexes.windows(2).any(|pair| pair[0] == pair[1]);
    for name in rule.names() {
        // Profiles name calls that this kernel's headers do not know.
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        if conditions.is_empty() {
            context.add_rule(action, call)?;
        } else if alternatives {
            for condition in &conditions {
                context.add_rule_conditional(action, call, std::slice::from_ref(condition))?;
            }
        } else {
            context.add_rule_conditional(action, call, &conditions)?;
        }
    }
    Ok(())
}

fn condition(arg: &LinuxSeccompArg) -> ScmpArgCompare {
    use LinuxSeccompOperator as Operator;
    // Compared under a mask, `value` is the mask and `valueTwo` what must be left.
    let operation = match arg.op() {
        Operator::ScmpCmpNe => ScmpCompareOp::NotEqual,
        Operator::ScmpCmpLt => ScmpCompareOp::Less,
        Operator::ScmpCmpLe => ScmpCompareOp::LessOrEqual,
        Operator::ScmpCmpEq => ScmpCompareOp::Equal,
        Operator::ScmpCmpGe => ScmpCompareOp::GreaterEqual,
        Operator::ScmpCmpGt => ScmpCompareOp::Greater,
        Operator::ScmpCmpMaskedEq => ScmpCompareOp::MaskedEqual(arg.value()),
    };
    let datum =
        if arg.op() == Operator::ScmpCmpMaskedEq { arg.value_two().unwrap_or(0) } else { arg.value() };
    ScmpArgCompare::new(arg.index() as u32, operation, datum)
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, ContainerError> {
    /// EPERM.
    const DEFAULT: u32 = 1;
    let number = errno.unwrap_or(DEFAULT);
    let refuse = || ContainerError::State(format!("{number} is no error number of a system call filter"));
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(i32::try_from(number).map_err(|_| refuse())?),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(u16::try_from(number).map_err(|_| refuse())?),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(ContainerError::State("seccomp notification is not supported here".to_owned()));
        }
    })
}

fn flag(flag: LinuxSeccompFilterFlag) -> u32 {
    match flag {
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => filter_flags::LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => filter_flags::TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => filter_flags::SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => filter_flags::WAIT_KILLABLE_RECV,
    }
}

fn architecture(one: Arch) -> ScmpArch {
    match one {
        Arch::ScmpArchNative => ScmpArch::Native,
        Arch::ScmpArchX86 => ScmpArch::X86,
        Arch::ScmpArchX86_64 => ScmpArch::X8664,
        Arch::ScmpArchX32 => ScmpArch::X32,
        Arch::ScmpArchArm => ScmpArch::Arm,
        Arch::ScmpArchAarch64 => ScmpArch::Aarch64,
        Arch::ScmpArchMips => ScmpArch::Mips,
        Arch::ScmpArchMips64 => ScmpArch::Mips64,
        Arch::ScmpArchMips64n32 => ScmpArch::Mips64N32,
        Arch::ScmpArchMipsel => ScmpArch::Mipsel,
        Arch::ScmpArchMipsel64 => ScmpArch::Mipsel64,
        Arch::ScmpArchMipsel64n32 => ScmpArch::Mipsel64N32,
        Arch::ScmpArchPpc => ScmpArch::Ppc,
        Arch::ScmpArchPpc64 => ScmpArch::Ppc64,
        Arch::ScmpArchPpc64le => ScmpArch::Ppc64Le,
        Arch::ScmpArchS390 => ScmpArch::S390,
        Arch::ScmpArchS390x => ScmpArch::S390X,
        Arch::ScmpArchParisc => ScmpArch::Parisc,
        Arch::ScmpArchParisc64 => ScmpArch::Parisc64,
        Arch::ScmpArchRiscv64 => ScmpArch::Riscv64,
        Arch::ScmpArchLoongarch64 => ScmpArch::Loongarch64,
        Arch::ScmpArchM68k => ScmpArch::M68k,
        Arch::ScmpArchSh => ScmpArch::Sh,
        Arch::ScmpArchSheb => ScmpArch::Sheb,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_compiled_once() {
        let cache = tempfile::tempdir().expect("cache");
        let cache = cache.path().join("filters");
        let document = r#"{"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["getcwd", "no_such_call"], "action": "SCMP_ACT_ERRNO"}]}}}"#;
        let compiled = Filter::of_document(document, &cache).expect("compile").expect("a filter");
        assert_eq!(compiled.flags, filter_flags::LOG);
        let file = std::fs::read_dir(&cache).expect("cache").flatten().next().expect("file").path();
        let mut changed = std::fs::read(&file).expect("read");
        changed[0] = 0;
        std::fs::write(&file, &changed).expect("write");
        let again = Filter::of_document(document, &cache).expect("load").expect("a filter");
        assert_eq!((again.flags, &again.program), (0, &compiled.program));
        // What is cut short is not believed.
        std::fs::write(&file, &changed[..9]).expect("write");
        assert_eq!(Filter::of_document(document, &cache).expect("compile"), Some(compiled));
        assert_eq!(Filter::of_document("{}", &cache).expect("nothing"), None);
        assert_eq!(Filter::of_document(r#"{"linux": {}}"#, &cache).expect("nothing"), None);
    }
}
