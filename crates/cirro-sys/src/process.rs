//! Processes: forking from a single-threaded one, waiting, signals, credentials and execution.
//!
//! Everything here is for the guardian, the supervisor and their helpers, which have one thread each. A fork in a
//! threaded process copies locks that nobody will ever open, so [`fork_child`] refuses it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Process id as the kernel counts.
pub type RawPid = i32;

/// Source: `linux/sched.h`; the C binding's is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Forks; the child closes every descriptor but `keep` and 0 to 2, runs `body` and ends with its result.
///
/// The child never returns to the caller. Descriptors that `body` uses must be in `keep`; those it owns close in the parent
/// when this returns.
///
/// # Errors
/// The kernel's, or [`io::ErrorKind::Unsupported`] when the process has more than one thread.
pub fn fork_child(keep: &[RawFd], body: impl FnOnce() -> i32) -> io::Result<RawPid> {
    if !is_single_threaded()? {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "fork in a process with several threads"));
    }
    // SAFETY: there is exactly one thread, so no lock is held by another one and the child may go on as usual.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            close_others(&mut keep.to_vec());
            // A panic must not unwind into the parent's code.
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            end(code)
        }
        pid => Ok(pid),
    }
}

/// As [`fork_child`], with namespaces of its own (`CLONE_NEW*`), born in that group of cgroup version 2 if one is named (Linux 5.7).
/// `keep` is not told: the child inherits every descriptor and closes with [`close_all_but`] what it does not need.
///
/// # Errors
/// As [`fork_child`]; `ENOSYS` also where a filter hides `clone3`, `ENODEV` when the group is gone.
pub fn clone_child(
    namespaces: i32,
    group: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<RawPid> {
    if !is_single_threaded()? {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "clone in a process with several threads"));
    }
    // SAFETY: without CLONE_VM and with no stack of its own this is a fork. The C library is not told, which matters only to
    // threads: there is one, and no lock is held.
    match unsafe { raw_clone(namespaces, group) } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            end(code)
        }
        pid => Ok(pid as RawPid),
    }
}

/// # Safety
/// As for `fork` in a process with one thread; the C library is not told.
unsafe fn raw_clone(namespaces: i32, group: Option<BorrowedFd<'_>>) -> libc::c_long {
    let Some(group) = group else {
        let flags = libc::c_long::from(namespaces) | libc::c_long::from(libc::SIGCHLD);
        // SAFETY: no pointers are passed.
        return unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    };
    let mut arguments = libc::clone_args {
        flags: u64::from(namespaces.cast_unsigned()) | CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: group.as_raw_fd() as u64,
    };
    // SAFETY: the structure is whole and lives through the call.
    unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) }
}

/// Closes every descriptor from 3 on but these. For a child that from now on uses no other one and never drops those
/// it had, or a program that inherited some that it cannot make sense of.
pub fn close_all_but(keep: &[RawFd]) {
    close_others(&mut keep.to_vec());
}

/// Waits for a child's end and reaps it; returns its exit code, 128 + n for signal n.
///
/// # Errors
/// The kernel's.
pub fn wait_for(pid: RawPid) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is a valid place.
        if unsafe { libc::waitpid(pid, &raw mut status, 0) } >= 0 {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    Ok(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}

/// Ends the process at once: no destructors, no exit handlers.
pub fn end(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

fn is_single_threaded() -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    // One directory per thread, beside `.` and `..`.
    Ok(std::fs::metadata("/proc/self/task")?.nlink() == 3)
}

fn close_others(keep: &mut Vec<RawFd>) {
    keep.sort_unstable();
    keep.dedup();
    let mut first: libc::c_uint = 3;
    for &number in keep.iter().filter(|number| **number >= 3) {
        let number = number as libc::c_uint;
        if number > first {
            close_range(first, number - 1, 0);
        }
        first = number + 1;
    }
    close_range(first, libc::c_uint::MAX, 0);
}

fn close_range(first: libc::c_uint, last: libc::c_uint, flags: libc::c_uint) {
    // SAFETY: called in a fresh child (or before exec) where nothing else uses the descriptors any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
}

/// Gives descriptors the numbers that a program to be executed expects; all others from 3 on will close on exec.
///
/// # Errors
/// The kernel's; numbers may then be half arranged, so the caller must give up.
pub fn arrange_descriptors(wanted: &[(BorrowedFd<'_>, RawFd)]) -> io::Result<()> {
    // CLOSE_RANGE_CLOEXEC
    close_range(3, libc::c_uint::MAX, 4);
    let free = wanted.iter().map(|(_, number)| number + 1).max().unwrap_or(3).max(3);
    let mut copies = Vec::with_capacity(wanted.len());
    for (descriptor, number) in wanted {
        copies.push((rustix::io::fcntl_dupfd_cloexec(descriptor, free)?, *number));
    }
    for (copy, number) in &copies {
        // SAFETY: dup2 replaces a number that this single-threaded process is about to give to exec; the copies
        // above lie beyond every wanted number, so none is overwritten.
        if unsafe { libc::dup2(copy.as_raw_fd(), *number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Moves a descriptor to a number at or above `least`, closing on exec.
///
/// # Errors
/// The kernel's.
pub fn move_descriptor(descriptor: OwnedFd, least: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(&descriptor, least)?)
}

/// Takes over a descriptor that this process was started with.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] when there is none of that number.
pub fn inherited_descriptor(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only looks.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("no descriptor {number}")));
    }
    // SAFETY: the descriptor is open, was made by the parent for us, and the caller takes it once at start-up.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

/// Executes the file at `path`; returns only on failure.
pub fn execute(path: &str, args: &[CString], env: &[CString]) -> io::Error {
    let Ok(path) = CString::new(path) else { return io::ErrorKind::InvalidInput.into() };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Executes an open file; returns only on failure.
pub fn execute_descriptor(file: impl AsFd, args: &[CString], env: &[CString]) -> io::Error {
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: as in `execute`; the empty path with AT_EMPTY_PATH names the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// A child that has ended and was not yet reaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndedChild {
    /// Its process id.
    pub pid: RawPid,
    /// Its exit code; 128 + n for signal n.
    pub code: i32,
}

/// Returns a child that ended, and leaves it a zombie, so that its end can be recorded before it is gone.
///
/// # Errors
/// The kernel's; having no children at all is not an error.
pub fn peek_ended_child() -> io::Result<Option<EndedChild>> {
    // SAFETY: an all-zero siginfo_t is a valid value of that plain C structure.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: `info` is a valid place for the answer.
    let answer =
        unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) };
    if answer != 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ECHILD) { Ok(None) } else { Err(error) };
    }
    // SAFETY: waitid filled the SIGCHLD fields or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let code = if info.si_code == libc::CLD_EXITED { status } else { 128 + status };
    Ok(Some(EndedChild { pid, code }))
}

/// Reaps a zombie; no error when it is gone already.
pub fn reap(pid: RawPid) {
    // SAFETY: no memory is passed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
}

/// Sends a signal to a process.
///
/// # Errors
/// The kernel's: `ESRCH` when there is none, `EINVAL` for a number that is no signal.
pub fn send_signal(pid: RawPid, signal: i32) -> io::Result<()> {
    if pid <= 0 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(pid, signal) })
}

/// Sends SIGKILL to a process group.
///
/// # Errors
/// The kernel's.
pub fn kill_group(group: RawPid) -> io::Result<()> {
    if group <= 1 {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: no memory is passed.
    check(unsafe { libc::kill(-group, libc::SIGKILL) })
}

/// Sends a signal to the process behind a pidfd.
///
/// # Errors
/// The kernel's.
pub fn send_signal_to(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo asks for the one that kill would make.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(answer as i32)
}

/// Blocks signals and reads them as data.
///
/// # Errors
/// The kernel's.
pub fn signal_descriptor(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: `set` is initialised; sigprocmask in a single-threaded process.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) })?;
    // SAFETY: as above; -1 asks for a new descriptor.
    let number = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(number)?;
    // SAFETY: signalfd has just returned it and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Returns the next signal number from a [`signal_descriptor`], if there is one.
pub fn next_signal(descriptor: impl AsFd) -> Option<i32> {
    let mut buffer = [0_u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(descriptor, &mut buffer) {
        Ok(length) if length == buffer.len() => {
            Some(u32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]) as i32)
        }
        _ => None,
    }
}

/// Unblocks every signal and gives each its default action, as a new program expects.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is a valid disposition; the two that cannot be changed answer an error, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let set = signal_set(&[]);
    // SAFETY: `set` is initialised.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

/// Unblocks every signal and leaves the actions.
pub fn unblock_signals() {
    let set = signal_set(&[]);
    // SAFETY: `set` is initialised.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) };
}

fn signal_set(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Joins the session keyring of that name, or makes it.
///
/// # Errors
/// The kernel's; `ENOSYS` where there are no keyrings.
pub fn join_session_keyring(name: &str) -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let name = CString::new(name)?;
    // SAFETY: the name is a string that outlives the call.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Closes every descriptor from `first` on. For the very start of a program that owns none of them.
pub fn close_from(first: RawFd) {
    close_range(first.max(3).cast_unsigned(), libc::c_uint::MAX, 0);
}

/// Has the kernel send SIGKILL to this process when its parent ends.
pub fn die_with_parent() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Becomes the parent of all descendants whose own parent ends.
///
/// # Errors
/// The kernel's.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

/// Forbids others to trace this process or to look into its memory until it executes a program.
pub fn forbid_tracing() {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Does something during which nobody may trace this process or look into its memory; that goes for a child that it makes
/// from the child's first moment on, as with [`forbid_tracing`].
pub fn untraceable<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: no memory is passed.
    let before = unsafe { libc::prctl(libc::PR_GET_DUMPABLE, 0, 0, 0, 0) };
    forbid_tracing();
    let result = work();
    if before == 1 {
        // SAFETY: no memory is passed.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    }
    result
}

/// Becomes another user for good and keeps the capabilities, which the caller sets next.
///
/// # Errors
/// The kernel's; the process is then half another user and must end.
pub fn set_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: no memory is passed but one slice with its length; there is one thread.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0))
    }
}

/// Has all capabilities that are permitted take effect: a change of user to root of the same namespace may have taken them away.
///
/// # Errors
/// The kernel's.
pub fn regain_capabilities() -> io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Raises the soft limit of open files to the hard one; returns it.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is a valid value.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_max)
}

fn check(answer: i32) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threaded_process_may_not_fork() {
        // The test runner's main thread and this one are two.
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || receiver.recv().is_ok());
        let refusal = fork_child(&[], || 0).expect_err("fork must be refused");
        assert_eq!(refusal.kind(), io::ErrorKind::Unsupported);
        sender.send(()).expect("thread waits");
        other.join().expect("thread ends");
    }

    #[test]
    fn signals_to_nobody_are_refused() {
        assert!(send_signal(0, libc::SIGKILL).is_err());
        assert!(send_signal(-1, libc::SIGKILL).is_err());
        assert!(kill_group(1).is_err());
    }
}
