//! What a container is doing, in docker's words.

use cirro_seams::container::{Container, Health, HealthResult, HealthStatus, Phase};
use serde_json::{Value, json};

use crate::time;

/// Returns the state's name: `running`, `exited`…
pub(crate) fn state(phase: Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Restarting => "restarting",
        Phase::Removing => "removing",
        Phase::Exited => "exited",
        Phase::Dead => "dead",
    }
}

/// Returns the state's name that a word means, none when it is no state.
pub(crate) fn parse(text: &str) -> Option<&'static str> {
    const ALL: [Phase; 7] = [
        Phase::Created,
        Phase::Running,
        Phase::Paused,
        Phase::Restarting,
        Phase::Removing,
        Phase::Exited,
        Phase::Dead,
    ];
    ALL.into_iter().map(state).find(|state| *state == text)
}

/// Returns the sentence of `docker ps`: `Up 5 minutes`, `Exited (0) 2 hours ago`.
pub(crate) fn sentence(container: &Container) -> String {
    let ago =
        |moment: &Option<String>| moment.as_deref().map_or_else(|| "a while".to_owned(), time::since_then);
    let code = container.exit_code.unwrap_or_default();
    match container.phase {
        Phase::Created => "Created".to_owned(),
        Phase::Running => format!("Up {}{}", ago(&container.started_at), health_note(container)),
        Phase::Paused => format!("Up {} (Paused)", ago(&container.started_at)),
        Phase::Restarting => format!("Restarting ({code}) {} ago", ago(&container.finished_at)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Exited => format!("Exited ({code}) {} ago", ago(&container.finished_at)),
        Phase::Dead => "Dead".to_owned(),
    }
}

/// What stands behind the sentence of one that has a check.
fn health_note(container: &Container) -> &'static str {
    match container.health.as_ref().map(|health| health.status) {
        None => "",
        Some(HealthStatus::Starting) => " (health: starting)",
        Some(HealthStatus::Healthy) => " (healthy)",
        Some(HealthStatus::Unhealthy) => " (unhealthy)",
    }
}

/// Writes a health as inspect shows it.
pub(crate) fn health(health: &Health) -> Value {
    let result = |result: &HealthResult| {
        json!({
            "Start": result.start, "End": result.end, "ExitCode": result.exit_code, "Output": result.output,
        })
    };
    json!({
        "Status": health.status.as_str(),
        "FailingStreak": health.failing_streak,
        "Log": health.log.iter().map(result).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_is_known_by_its_name() {
        for text in ["created", "running", "paused", "restarting", "removing", "exited", "dead"] {
            assert_eq!(parse(text), Some(text));
        }
        assert_eq!(parse("sleeping"), None);
    }
}
