//! `ps`: the processes in a container.

use std::collections::HashSet;
use std::process::Command;

use serde_json::json;

use super::context::{Context, hierarchies, print, print_json};
use super::error::CliError;
use super::flags::{Flag, Parsed};

pub(super) const FLAGS: &[Flag] = &[Flag::value("format", "FORMAT", "table or json").short("f")];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let record = context.store.load(parsed.id()?)?;
    let processes = hierarchies()?.group(&record.cgroup).processes();
    match parsed.value("format") {
        Some("json") => print_json(&json!(processes))?,
        None | Some("table") => {
            let options = match &parsed.arguments[1..] {
                [] => &["-ef".to_owned()][..],
                given => given,
            };
            let output = Command::new("ps").args(options).output().map_err(CliError::system("run ps"))?;
            if !output.status.success() {
                let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                return Err(CliError::State(format!("ps: {}: {text}", output.status)));
            }
            print(&select(&String::from_utf8_lossy(&output.stdout), &processes)?)?;
        }
        Some(_) => return Err(CliError::Usage("invalid format option".to_owned())),
    }
    Ok(0)
}

/// The heading and those lines whose process is one of the container's.
fn select(text: &str, processes: &[i32]) -> Result<String, CliError> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or_else(|| CliError::State("couldn't find PID field in ps output".to_owned()))?;
    let wanted: HashSet<String> = processes.iter().map(ToString::to_string).collect();
    let ours = |line: &&str| line.split_whitespace().nth(column).is_some_and(|pid| wanted.contains(pid));
    Ok(std::iter::once(heading).chain(lines.filter(ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let text = "UID  PID PPID CMD\nroot   1   0 init\nroot  42   1 sleep 1\n";
        assert_eq!(select(text, &[42]).expect("a table"), "UID  PID PPID CMD\nroot  42   1 sleep 1\n");
        assert!(select("USER CMD\n", &[42]).is_err());
    }
}
