//! The host's `ps`, for columns that somebody chose.
//!
//! Source: moby `daemon/top_unix.go`.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::error::{EngineError, io};

const LIMIT: Duration = Duration::from_secs(20);
const MAX_OUTPUT: u64 = 8 << 20;

/// Refuses arguments that rename a column so that others look like process ids.
pub(super) fn check(arguments: &str) -> Result<(), EngineError> {
    for word in arguments.split_whitespace().skip(1) {
        if let Some((column, title)) = word.split_once('=')
            && title.trim_start().starts_with("PID")
            && column != "pid"
        {
            let title = title.trim_start();
            return Err(EngineError::Invalid(format!("specifying \"{column}={title}\" is not allowed")));
        }
    }
    Ok(())
}

/// Runs `ps` and keeps the lines of these processes.
pub(super) async fn run(
    arguments: &str,
    pids: &[i32],
) -> Result<(Vec<String>, Vec<Vec<String>>), EngineError> {
    let mut child = Command::new("ps")
        .args(arguments.split_whitespace())
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        // Wide enough for the longest command line.
        .env("COLUMNS", "100000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(io("error running ps"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (mut text, mut complaint) = (String::new(), String::new());
    let read = async {
        let (mut out, mut err) =
            (stdout.expect("piped").take(MAX_OUTPUT), stderr.expect("piped").take(64 << 10));
        tokio::try_join!(out.read_to_string(&mut text), err.read_to_string(&mut complaint))?;
        child.wait().await
    };
    let status = match tokio::time::timeout(LIMIT, read).await {
        Ok(ended) => ended.map_err(io("error running ps"))?,
        Err(_) => return Err(EngineError::Failed("error running ps: it takes too long".into())),
    };
    if !status.success() {
        let line = complaint.lines().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
        return Err(EngineError::Invalid(format!("ps: {line}")));
    }
    parse(&text, pids)
}

fn parse(text: &str, pids: &[i32]) -> Result<(Vec<String>, Vec<Vec<String>>), EngineError> {
    let mut lines = text.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let Some(place) = titles.iter().position(|title| title == "PID") else {
        return Err(EngineError::Failed("Couldn't find PID field in ps output".into()));
    };
    let row = |line: &str| -> Option<Vec<String>> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let pid: i32 = words.get(place)?.parse().ok()?;
        if !pids.contains(&pid) {
            return None;
        }
        // The last column may have blanks.
        let (first, rest) = words.split_at(words.len().min(titles.len() - 1));
        Some(first.iter().map(|word| (*word).to_owned()).chain([rest.join(" ")]).collect())
    };
    let rows = lines.filter_map(row).collect();
    Ok((titles, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_lines_are_kept_and_the_last_column_is_whole() {
        let text = "USER       PID COMMAND\nroot         1 /sbin/init\nweb         42 sh -c sleep 1\n";
        let (titles, rows) = parse(text, &[42]).unwrap();
        assert_eq!(titles, ["USER", "PID", "COMMAND"]);
        assert_eq!(rows, [["web", "42", "sh -c sleep 1"]]);
        let error = parse("USER COMMAND\nroot init\n", &[1]).unwrap_err();
        assert_eq!(error.to_string(), "Couldn't find PID field in ps output");
    }

    #[test]
    fn nobody_passes_another_column_off_as_process_ids() {
        assert!(check("-o pid,comm").is_ok());
        assert!(check("aux").is_ok());
        assert!(check("-ao uid=PID").is_err());
    }

    #[tokio::test]
    async fn the_hosts_ps_knows_us() {
        let own = std::process::id().cast_signed();
        let (titles, rows) = run("-e -o pid,comm", &[own]).await.unwrap();
        assert_eq!(titles, ["PID", "COMMAND"]);
        assert_eq!(rows.len(), 1);
    }
}
