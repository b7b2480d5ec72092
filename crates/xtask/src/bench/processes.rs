//! Memory and processor time of all processes that have a directory on their command line.

use std::path::Path;

use anyhow::Context;

/// Process ids and argument vectors of the processes that name `directory`.
pub(crate) fn of(directory: &Path) -> anyhow::Result<Vec<(u32, Vec<String>)>> {
    let directory = directory.to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(line) = std::fs::read(format!("/proc/{pid}/cmdline")) else { continue };
        let words: Vec<String> =
            line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect();
        if pid != std::process::id() && words.iter().any(|word| word.contains(&directory)) {
            found.push((pid, words));
        }
    }
    Ok(found)
}

/// PSS of a process in kB.
pub(crate) fn memory(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("Pss in smaps_rollup")?;
    Ok(pss.trim().trim_end_matches("kB").trim().parse()?)
}

/// Processor time that a process has used, in ticks (USER_HZ is 100 on every Linux that we run on).
pub(crate) fn ticks(pid: u32) -> anyhow::Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // utime and stime are fields 14 and 15; the two before the name's end are cut off.
    Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
}

/// PSS of all processes of a directory, in kB.
pub(crate) fn memory_of(directory: &Path) -> anyhow::Result<u64> {
    of(directory)?.iter().map(|(pid, _)| memory(*pid)).sum()
}

/// Processor time of all processes of a directory, in ticks.
pub(crate) fn ticks_of(directory: &Path) -> anyhow::Result<u64> {
    of(directory)?.iter().map(|(pid, _)| ticks(*pid)).sum()
}
