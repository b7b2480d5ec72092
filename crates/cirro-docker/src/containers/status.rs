//! What a container is doing, in docker's words.

use cirro_seams::container::{Container, Phase};

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
        Phase::Running => format!("Up {}", ago(&container.started_at)),
        Phase::Paused => format!("Up {} (Paused)", ago(&container.started_at)),
        Phase::Restarting => format!("Restarting ({code}) {} ago", ago(&container.finished_at)),
        Phase::Removing => "Removal In Progress".to_owned(),
        Phase::Exited => format!("Exited ({code}) {} ago", ago(&container.finished_at)),
        Phase::Dead => "Dead".to_owned(),
    }
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
