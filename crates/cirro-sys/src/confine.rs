//! What a process may no longer do, and how it is scheduled: system call filters, personality, priorities.

use std::io;

/// `SECCOMP_FILTER_FLAG_*` that a document may name.
pub mod filter_flags {
    /// All threads at once.
    pub const TSYNC: u32 = 1;
    /// Log what is not allowed.
    pub const LOG: u32 = 2;
    /// No mitigation of speculative store bypass.
    pub const SPEC_ALLOW: u32 = 4;
    /// A notified call is killable only.
    pub const WAIT_KILLABLE_RECV: u32 = 32;
}

/// Loads a compiled filter of system calls: `program` is an array of `struct sock_filter`.
///
/// # Errors
/// The kernel's: `EACCES` without CAP_SYS_ADMIN and without no_new_privs, `EINVAL` for no valid program.
pub fn load_filter(program: &[u8], flags: u32) -> io::Result<()> {
    const ALIGNMENT: usize = size_of::<libc::sock_filter>();
    let count = u16::try_from(program.len() / ALIGNMENT).map_err(|_| io::ErrorKind::InvalidInput)?;
    if program.is_empty() || !program.len().is_multiple_of(ALIGNMENT) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut aligned: Vec<libc::sock_filter> = Vec::with_capacity(usize::from(count));
    for one in program.chunks_exact(ALIGNMENT) {
        aligned.push(libc::sock_filter {
            code: u16::from_ne_bytes([one[0], one[1]]),
            jt: one[2],
            jf: one[3],
            k: u32::from_ne_bytes([one[4], one[5], one[6], one[7]]),
        });
    }
    let program = libc::sock_fprog { len: count, filter: aligned.as_mut_ptr() };
    // SAFETY: the program points to `count` instructions that live through the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    // With TSYNC a positive answer names the thread that could not follow.
    match answer {
        0 => Ok(()),
        1.. => Err(io::Error::other("a thread could not follow")),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the execution domain (`PER_LINUX` 0, `PER_LINUX32` 8).
///
/// # Errors
/// The kernel's.
pub fn set_personality(domain: u64) -> io::Result<()> {
    // SAFETY: no memory is passed.
    let answer = unsafe { libc::personality(domain as libc::c_ulong) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets this process' priority of block traffic: class (1 realtime, 2 best effort, 3 idle) and level.
///
/// # Errors
/// The kernel's.
pub fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let priority = libc::c_int::from(class) << 13 | libc::c_int::from(level & 0x1fff);
    // SAFETY: no memory is passed; 0 is the caller.
    let answer = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, priority) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How a process is scheduled: `struct sched_attr`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct Scheduling {
    /// The structure's own size.
    size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For the ordinary policies.
    pub nice: i32,
    /// For the realtime policies.
    pub priority: u32,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`, in nanoseconds.
    pub period: u64,
}

/// Sets how this process is scheduled.
///
/// # Errors
/// The kernel's.
pub fn set_scheduling(mut scheduling: Scheduling) -> io::Result<()> {
    scheduling.size = size_of::<Scheduling>() as u32;
    // SAFETY: the structure tells its size and lives through the call; 0 is the caller.
    let answer = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const scheduling, 0) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(load_filter(&[], 0).is_err());
        assert!(load_filter(&[0; 9], 0).is_err());
    }
}
