//! How containers and commands behave.

use std::time::Duration;

use cirro_seams::node::NodeError;

/// How a container behaves.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// How long its start takes.
    pub start: Duration,
    /// Why it does not start.
    pub start_error: Option<NodeError>,
    /// What it does once it runs.
    pub run: Run,
    /// How long it takes to end after a stop signal, and its exit code; `None`: it does not listen.
    pub on_stop: Option<(Duration, i32)>,
    /// What it prints at its start, line by line.
    pub log: Vec<String>,
}

/// What a container does once it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Run {
    /// Runs until it is stopped.
    #[default]
    Forever,
    /// Ends by itself.
    Exit {
        /// After so long.
        after: Duration,
        /// With this code.
        code: i32,
    },
}

/// How a command behaves that is run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// How long it takes.
    pub after: Duration,
    /// What it prints.
    pub output: String,
    /// How it ends.
    pub code: i32,
}

impl Script {
    /// Runs until it is stopped, and ends at once then.
    pub fn forever() -> Self {
        Self { on_stop: Some((Duration::ZERO, 143)), ..Self::default() }
    }

    /// Ends by itself after a time.
    pub fn exits(after: Duration, code: i32) -> Self {
        Self { run: Run::Exit { after, code }, ..Self::forever() }
    }

    /// Takes a time to start.
    pub fn starts_after(delay: Duration) -> Self {
        Self { start: delay, ..Self::forever() }
    }

    /// Does not start.
    pub fn fails_to_start(error: NodeError) -> Self {
        Self { start_error: Some(error), ..Self::forever() }
    }

    /// Takes a time to end after a stop signal.
    pub fn stops_after(delay: Duration, code: i32) -> Self {
        Self { on_stop: Some((delay, code)), ..Self::default() }
    }

    /// Ends only when it is killed.
    pub fn ignores_stop() -> Self {
        Self::default()
    }
}

/// Spells an image's name out, as the library does.
pub(crate) fn whole_name(name: &str) -> String {
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') { name.to_owned() } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_image_are_one() {
        for name in ["web", "web:latest", "library/web", "docker.io/library/web:latest"] {
            assert_eq!(whole_name(name), "web:latest", "{name}");
        }
        assert_eq!(whole_name("host:5000/web"), "host:5000/web:latest");
    }
}
