//! Programs that decide which devices a version 2 cgroup may use.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const PROG_QUERY: libc::c_int = 16;

const CGROUP_DEVICE_PROGRAM: u32 = 15;
const CGROUP_DEVICE_ATTACH: u32 = 6;
const ALLOW_MULTI: u32 = 2;
/// More than the kernel attaches to one group.
const MOST_ATTACHED: usize = 64;

/// One instruction, laid out as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What is done.
    pub code: u8,
    /// The target register in the low half, the source in the high one.
    pub registers: u8,
    /// Of memory or of a jump.
    pub offset: i16,
    /// The operand that is no register.
    pub constant: i32,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next: u32,
    flags: u32,
}

/// Attaches a program to the group behind `cgroup`, then detaches those that were attached to it before.
///
/// # Errors
/// The kernel's; `EACCES` and `EINVAL` from its verifier.
pub fn replace_device_program(cgroup: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let group = cgroup.as_fd().as_raw_fd() as u32;
    let loaded = load(program)?;
    let before = attached(group)?;
    let attach = |program: &OwnedFd, flags: u32| Attach {
        target: group,
        program: program.as_raw_fd() as u32,
        kind: CGROUP_DEVICE_ATTACH,
        flags,
        replaced: 0,
    };
    call(PROG_ATTACH, &mut attach(&loaded, ALLOW_MULTI))?;
    for id in before {
        // SAFETY: the kernel has just made the descriptor for us.
        let old =
            unsafe { OwnedFd::from_raw_fd(call(PROG_GET_FD_BY_ID, &mut ById { id, ..ById::default() })?) };
        call(PROG_DETACH, &mut attach(&old, 0))?;
    }
    Ok(())
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let mut attributes = Load {
        kind: CGROUP_DEVICE_PROGRAM,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache".as_ptr() as u64,
        ..Load::default()
    };
    let number = call(PROG_LOAD, &mut attributes)?;
    // SAFETY: the kernel has just made the descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn attached(group: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST_ATTACHED];
    let mut query = Query {
        target: group,
        kind: CGROUP_DEVICE_ATTACH,
        ids: ids.as_mut_ptr() as u64,
        count: MOST_ATTACHED as u32,
        ..Query::default()
    };
    call(PROG_QUERY, &mut query)?;
    ids.truncate(query.count as usize);
    Ok(ids)
}

fn call<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: `attributes` is the prefix of the union that this command reads, its length goes with it, and every pointer in it
    // is to memory of the caller that lives through the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}
