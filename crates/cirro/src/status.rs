//! `cirro status`: what runs.

use std::process::ExitCode;

use crate::cli::say;
use crate::config::{Config, Place};
use crate::control::{self, Status};

/// Prints what the daemon says of itself; fails when there is none.
pub(crate) fn run(place: &Place, json: bool) -> anyhow::Result<ExitCode> {
    let config = Config::of_run_dir(place)?;
    let Some(status) = control::ask::<Status>(&config.control_socket(), "GET", "/status")? else {
        say(&format!("cloud {}: the daemon is not running\n", config.name))?;
        return Ok(ExitCode::FAILURE);
    };
    say(&if json { format!("{}\n", serde_json::to_string_pretty(&status)?) } else { table(&status) })?;
    Ok(ExitCode::SUCCESS)
}

fn table(status: &Status) -> String {
    let mut text = format!(
        "cloud        {} (cirro {}, pid {}, up {})\n",
        status.name,
        status.version,
        status.pid,
        duration(status.uptime_seconds)
    );
    for socket in &status.docker {
        text.push_str(&format!("docker       {socket}\n"));
    }
    for address in &status.kubernetes {
        text.push_str(&format!("kubernetes   {address}\n"));
    }
    for address in &status.registry {
        text.push_str(&format!("registry     {address}\n"));
    }
    text.push_str(&format!(
        "containers   {} running, {} in all\n",
        status.containers_running, status.containers_total
    ));
    text.push_str(&format!("instances    {} running\n", status.instances_running));
    text.push_str(&format!("images       {}\n", status.images));
    text
}

fn duration(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes}m"),
        (days, hours, ..) => format!("{days}d{hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_shows_its_two_largest_units() {
        assert_eq!(duration(5), "5s");
        assert_eq!(duration(65), "1m5s");
        assert_eq!(duration(3 * 3600 + 62), "3h1m");
        assert_eq!(duration(90_000), "1d1h");
    }
}
