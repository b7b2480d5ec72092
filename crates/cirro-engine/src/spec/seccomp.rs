//! The system call filter: docker's default profile as a table, and callers' profiles in docker's format.
//!
//! The default refuses every call that is not named here with EPERM. `clone3` gets ENOSYS, so that a C library falls
//! back to `clone`, whose flags a filter can see. Names of 32-bit calls are here because the filter also covers
//! 32-bit programs. x32 is left out, so its calls kill: no distribution's kernel has it on, and its rules made the start
//! of a container three times as slow (170 against 57 ms with a debug build of libseccomp's caller). Source: moby `profiles/seccomp`.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::EngineError;

const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Linux, Linux32, each with UNAME26 or not, and the question.
const PERSONALITIES: [u64; 5] = [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const AF_VSOCK: u64 = 40;
const MAX_PROFILE: usize = 1 << 20;

/// Calls that every container may make.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown chown32 clock_adjtime
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64
    close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
    epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
    faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
    fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
    getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid
    getuid32 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
    io_pgetevents io_pgetevents_time64 io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr
    llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt mprotect mq_getsetattr
    mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal
    msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open
    openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll
    ppoll_time64 prctl pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
    pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64
    sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop
    semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area
    set_tid_address setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid
    setpriority setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid
    setsockopt setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime
    timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat uretprobe utime utimensat
    utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Calls that come with a capability.
const BY_CAPABILITY: [(&str, &str); 13] = [
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module init_module finit_module"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "iopl ioperm"),
    ("CAP_SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_BPF", "bpf"),
];

fn allow(names: &[&str], args: Value) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": args })
}

fn arg(value: u64, op: &str) -> Value {
    json!([{ "index": 0, "value": value, "op": op }])
}

/// Returns docker's default profile for a container with these capabilities, as `linux.seccomp`.
pub(crate) fn default_profile(capabilities: &[&str]) -> Value {
    let mut names: Vec<&str> = ALLOWED.split_whitespace().collect();
    let granted = BY_CAPABILITY.iter().filter(|(capability, _)| capabilities.contains(capability));
    names.extend(granted.flat_map(|(_, names)| names.split_whitespace()));
    if capabilities.contains(&"CAP_PERFMON") {
        names.push("perf_event_open");
    }
    names.sort_unstable();
    names.dedup();
    let mut rules = vec![allow(&names, json!([]))];
    rules.extend(PERSONALITIES.map(|value| allow(&["personality"], arg(value, "SCMP_CMP_EQ"))));
    rules.push(allow(&["socket"], arg(AF_VSOCK, "SCMP_CMP_NE")));
    if !capabilities.contains(&"CAP_SYS_ADMIN") {
        let masked =
            json!([{ "index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }]);
        rules.push(allow(&["clone"], masked));
        rules.push(json!({ "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS }));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": rules,
    })
}

/// A profile as docker's clients send it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Value>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
}

impl Rule {
    /// Whether the rule is for a container with these capabilities on this architecture.
    fn applies(&self, capabilities: &[&str]) -> bool {
        let has = |cap: &String| capabilities.contains(&cap.as_str());
        let here = |arch: &String| matches!(arch.as_str(), "amd64" | "x86_64");
        let included = self.includes.as_ref().is_none_or(|filter| {
            filter.caps.iter().flatten().all(has)
                && filter.arches.as_ref().is_none_or(|arches| arches.is_empty() || arches.iter().any(here))
        });
        let excluded = self.excludes.as_ref().is_some_and(|filter| {
            filter.caps.iter().flatten().any(has) || filter.arches.iter().flatten().any(here)
        });
        included && !excluded
    }
}

/// Turns a caller's profile into `linux.seccomp`.
pub(crate) fn parse_profile(text: &str, capabilities: &[&str]) -> Result<Value, EngineError> {
    let invalid = |why: String| EngineError::Invalid(format!("Decoding seccomp profile failed: {why}"));
    if text.len() > MAX_PROFILE {
        return Err(invalid("it is larger than 1 MiB".into()));
    }
    let profile: Profile = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    let mut rules = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        if !rule.applies(capabilities) {
            continue;
        }
        let names = match (rule.name, rule.names) {
            (Some(_), Some(names)) if !names.is_empty() => {
                return Err(invalid("'name' and 'names' were specified, use either".into()));
            }
            (Some(name), _) => vec![name],
            (None, names) => names.unwrap_or_default(),
        };
        let mut converted =
            json!({ "names": names, "action": rule.action, "args": rule.args.unwrap_or_default() });
        if let Some(errno) = rule.errno_ret {
            converted["errnoRet"] = json!(errno);
        }
        rules.push(converted);
    }
    let architectures = profile.architectures.filter(|list| !list.is_empty());
    let architectures = architectures
        .unwrap_or_else(|| ["X86_64", "X86", "X32"].map(|name| format!("SCMP_ARCH_{name}")).to_vec());
    let mut seccomp =
        json!({ "defaultAction": profile.default_action, "architectures": architectures, "syscalls": rules });
    if let Some(errno) = profile.default_errno_ret {
        seccomp["defaultErrnoRet"] = json!(errno);
    }
    serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(seccomp.clone())
        .map_err(|error| invalid(error.to_string()))?;
    Ok(seccomp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(profile: &Value, name: &str) -> bool {
        let rules = profile["syscalls"].as_array().unwrap();
        rules.iter().any(|rule| {
            rule["action"] == "SCMP_ACT_ALLOW"
                && rule["args"].as_array().is_none_or(Vec::is_empty)
                && rule["names"].as_array().unwrap().contains(&json!(name))
        })
    }

    #[test]
    fn dangerous_calls_need_their_capability() {
        let plain = default_profile(&["CAP_CHOWN", "CAP_SYS_CHROOT"]);
        for name in ["openat", "execve", "chroot"] {
            assert!(allowed(&plain, name), "{name}");
        }
        for name in
            ["mount", "unshare", "setns", "bpf", "reboot", "keyctl", "kexec_load", "io_uring_setup", "clone"]
        {
            assert!(!allowed(&plain, name), "{name}");
        }
        let admin = default_profile(&["CAP_SYS_ADMIN"]);
        assert!(allowed(&admin, "mount") && allowed(&admin, "clone") && allowed(&admin, "clone3"));
        assert!(!allowed(&admin, "chroot"));
    }

    #[test]
    fn clone3_is_not_there_and_namespaces_cannot_be_made() {
        let plain = default_profile(&[]);
        let rules = plain["syscalls"].as_array().unwrap();
        let of = |name: &str| rules.iter().find(|rule| rule["names"] == json!([name])).unwrap();
        assert_eq!(
            (&of("clone3")["action"], &of("clone3")["errnoRet"]),
            (&json!("SCMP_ACT_ERRNO"), &json!(38))
        );
        assert_eq!(of("clone")["args"][0]["value"], 2_114_060_288_u64);
        serde_json::from_value::<oci_spec::runtime::LinuxSeccomp>(plain).unwrap();
    }

    #[test]
    fn a_callers_profile_is_filtered_by_capability_and_architecture() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW"},
            {"names":["mount"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
            {"names":["a"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm64"]}},
            {"name":"write","action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;
        let plain = parse_profile(text, &[]).unwrap();
        assert!(allowed(&plain, "read") && allowed(&plain, "write"));
        assert!(!allowed(&plain, "mount") && !allowed(&plain, "a"));
        let admin = parse_profile(text, &["CAP_SYS_ADMIN"]).unwrap();
        assert!(allowed(&admin, "mount") && !allowed(&admin, "write"));
        assert!(parse_profile("{", &[]).is_err());
        assert!(parse_profile(r#"{"defaultAction":"FLY"}"#, &[]).is_err());
    }
}
