//! The processes of a container, as `ps -ef` lists them, read from /proc; with other arguments, as the host's `ps` does.

mod ps;

use std::path::Path;

use cirro_seams::container::{Phase, PidMode};

use super::is_active;
use crate::Engine;
use crate::error::{EngineError, blocking, io};
use crate::spec::users;

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
/// USER_HZ, the unit of times in /proc/PID/stat; fixed by the kernel's interface on every architecture we run on.
const TICKS: u64 = 100;

/// A process as /proc shows it.
#[derive(Debug, PartialEq, Eq)]
struct Process {
    pid: i32,
    parent: i32,
    name: String,
    tty: u32,
    /// User and system time, in ticks.
    cpu: u64,
    /// Start after boot, in ticks.
    start: u64,
}

/// Parses /proc/PID/stat; the name in it may hold anything, parentheses too.
fn parse_stat(text: &str) -> Option<Process> {
    let (pid, rest) = text.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Process {
        pid: pid.parse().ok()?,
        parent: i32::try_from(number(1)?).ok()?,
        name: name.to_owned(),
        tty: u32::try_from(number(4)?).ok()?,
        cpu: number(11)? + number(12)?,
        start: number(19)?,
    })
}

fn tty_name(device: u32) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        0 => "?".into(),
        136..=143 => format!("pts/{}", minor + (major - 136) * 256),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn row(process: &Process, uid: u32, command: &[u8], boot: i64, now: i64, passwd: &str) -> Vec<String> {
    let started = boot + i64::try_from(process.start / TICKS).unwrap_or(0);
    let lived = u64::try_from(now - started).unwrap_or(0).max(1);
    let seconds = process.cpu / TICKS;
    let words: Vec<_> = command
        .split(|byte| *byte == 0)
        .filter(|word| !word.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    vec![
        users::name_of(uid, passwd).map_or_else(|| uid.to_string(), str::to_owned),
        process.pid.to_string(),
        process.parent.to_string(),
        (seconds * 100 / lived).min(99).to_string(),
        start_time(started, now),
        tty_name(process.tty),
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        if words.is_empty() { format!("[{}]", process.name) } else { words.join(" ") },
    ]
}

/// Hours and minutes for a process of today, the day otherwise.
fn start_time(started: i64, now: i64) -> String {
    let format = if now - started < 24 * 3600 { "%H:%M" } else { "%b%d" };
    jiff::Timestamp::from_second(started)
        .map_or_else(|_| "?".into(), |time| time.strftime(format).to_string())
}

/// Which processes are the container's: those in its pid namespace, or in its cgroup when that is shared.
enum Membership {
    Namespace(std::path::PathBuf),
    Cgroup(String),
}

impl Membership {
    fn of(pid: i32, shared: bool) -> std::io::Result<Self> {
        let proc = format!("/proc/{pid}");
        if shared {
            return std::fs::read_to_string(format!("{proc}/cgroup")).map(Self::Cgroup);
        }
        std::fs::read_link(format!("{proc}/ns/pid")).map(Self::Namespace)
    }

    fn has(&self, proc: &Path) -> bool {
        match self {
            Self::Namespace(namespace) => {
                std::fs::read_link(proc.join("ns/pid")).is_ok_and(|own| own == *namespace)
            }
            Self::Cgroup(cgroup) => {
                std::fs::read_to_string(proc.join("cgroup")).is_ok_and(|own| own == *cgroup)
            }
        }
    }
}

/// Lists the directories in /proc of the container's processes.
fn members(pid: i32, shared: bool) -> std::io::Result<impl Iterator<Item = std::path::PathBuf>> {
    let membership = Membership::of(pid, shared)?;
    let numbered = |name: &std::ffi::OsStr| {
        name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let entries = std::fs::read_dir("/proc")?.flatten();
    let paths = entries.filter(move |entry| numbered(&entry.file_name())).map(|entry| entry.path());
    Ok(paths.filter(move |path| membership.has(path)))
}

fn pids(pid: i32, shared: bool) -> std::io::Result<Vec<i32>> {
    let number = |path: std::path::PathBuf| path.file_name()?.to_str()?.parse().ok();
    Ok(members(pid, shared)?.filter_map(number).collect())
}

fn list(pid: i32, shared: bool) -> std::io::Result<Vec<Vec<String>>> {
    use std::os::unix::fs::MetadataExt;
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let stat = std::fs::read_to_string("/proc/stat")?;
    let boot =
        stat.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|text| text.trim().parse().ok());
    let now = jiff::Timestamp::now().as_second();
    let mut rows = Vec::new();
    for path in members(pid, shared)? {
        // A process may end at any moment between these.
        let Ok(stat) = std::fs::read(path.join("stat")) else { continue };
        let Some(process) = parse_stat(&String::from_utf8_lossy(&stat)) else { continue };
        let Ok(uid) = std::fs::metadata(&path).map(|meta| meta.uid()) else { continue };
        let command = std::fs::read(path.join("cmdline")).unwrap_or_default();
        rows.push((process.start, row(&process, uid, &command, boot.unwrap_or(0), now, &passwd)));
    }
    rows.sort_by_key(|(start, _)| *start);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

impl Engine {
    /// Lists its processes: (titles, rows), as `ps ARGS` gives them.
    pub async fn container_top(
        &self,
        name: &str,
        ps_args: &str,
    ) -> Result<(Vec<String>, Vec<Vec<String>>), EngineError> {
        let container = self.container(name)?;
        ps::check(ps_args)?;
        match container.phase {
            Phase::Restarting => {
                let text =
                    format!("Container {} is restarting, wait until the container is running", container.id);
                return Err(EngineError::Conflict(text));
            }
            phase if is_active(phase) => {}
            _ => return Err(EngineError::Conflict(format!("container {} is not running", container.id))),
        }
        let Some(pid) = container.pid else {
            return Err(EngineError::Conflict(format!("container {} is not running", container.id)));
        };
        let shared = container.spec.pid_mode != PidMode::Private;
        let found = if matches!(ps_args.trim(), "" | "-ef" | "ef" | "-fe") {
            let rows = blocking(move || list(pid, shared).map_err(io("read /proc"))).await?;
            (TITLES.map(str::to_owned).to_vec(), rows)
        } else {
            let pids = blocking(move || pids(pid, shared).map_err(io("read /proc"))).await?;
            ps::run(ps_args, &pids).await?
        };
        self.emit_container("top", &container, &[]);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stat_line_is_parsed_whatever_the_name_is() {
        let text = "42 (a) b (c) S 1 42 42 34817 42 4194560 1 0 0 0 150 50 0 0 20 0 1 0 12345 1 1";
        let process = parse_stat(text).unwrap();
        assert_eq!(process.name, "a) b (c");
        assert_eq!((process.pid, process.parent, process.cpu, process.start), (42, 1, 200, 12345));
        assert_eq!(tty_name(process.tty), "pts/1");
        assert!(parse_stat("42 nonsense").is_none());
    }

    #[test]
    fn a_row_reads_like_ps() {
        let process = Process { pid: 7, parent: 1, name: "x".into(), tty: 0, cpu: 6200, start: 0 };
        let row = row(&process, 0, b"sleep\x001\0", 1_700_000_000, 1_700_000_620, "root:x:0:0::/:/bin/sh\n");
        assert_eq!(row, ["root", "7", "1", "10", "22:13", "?", "00:01:02", "sleep 1"]);
    }

    #[test]
    fn our_own_process_is_in_the_list_of_its_namespace() {
        let own = std::process::id();
        let rows = list(i32::try_from(own).unwrap(), false).unwrap();
        assert!(rows.iter().any(|row| row[1] == own.to_string()));
    }
}
