//! What a build tells as it goes: the classic builder's words, and the same in parts that a program can read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirro_types::Digest;
use serde::{Deserialize, Serialize};

use crate::Outline;

/// What a build tells as it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A line for the person who waits, in the classic builder's style and with its line end
    /// (`Step 1/5 : FROM node:latest\n`).
    Line(String),
    /// Output of a step.
    Output(bytes::Bytes),
    /// What is going to be built; comes first.
    Outline(Arc<Outline>),
    /// An image to build on is looked for, and fetched if need be.
    Looking(String),
    /// It was found.
    Found(String),
    /// Where a step is. Lines say the same in words.
    Step(StepEvent),
    /// The image id.
    Image(Digest),
}

/// Where a step is. The events of one step, and its output, come without another's between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepEvent {
    /// It begins.
    Started {
        /// Its number among all steps, from 1.
        number: usize,
        /// How many steps there are.
        total: usize,
        /// Name of its stage, or its number in the Dockerfile.
        stage: String,
        /// Line of the Dockerfile that it begins on, from 1.
        line: usize,
        /// The instruction as it is written.
        text: String,
    },
    /// It makes a layer, and an earlier build's will do.
    Cached {
        /// The step.
        number: usize,
    },
    /// It makes a layer, and must be carried out.
    Missed {
        /// The step.
        number: usize,
        /// Which of its inputs changed since the last build of this name, one in a line.
        why: Vec<String>,
    },
    /// It is done.
    Done {
        /// The step.
        number: usize,
        /// How long it took.
        #[serde(rename = "seconds", with = "seconds")]
        took: Duration,
    },
    /// It failed, and the build with it.
    Failed {
        /// The step.
        number: usize,
        /// Line of the Dockerfile that it begins on, from 1.
        line: usize,
        /// The instruction as it is written.
        text: String,
        /// Exit code, if a command ended with one.
        code: Option<i32>,
        /// What is wrong.
        message: String,
    },
}

/// A step being timed.
#[derive(Debug, Clone)]
pub(crate) struct Timed {
    pub(crate) number: usize,
    pub(crate) line: usize,
    pub(crate) text: String,
    since: Instant,
}

impl Timed {
    /// Starts the clock of a step.
    pub(crate) fn start(number: usize, line: usize, text: &str) -> Self {
        Self { number, line, text: text.to_owned(), since: Instant::now() }
    }

    /// Says that the step is done.
    pub(crate) fn done(&self) -> StepEvent {
        StepEvent::Done { number: self.number, took: self.since.elapsed() }
    }

    /// Says why the step failed.
    pub(crate) fn failed(&self, error: &crate::BuildError) -> StepEvent {
        let code = match error {
            crate::BuildError::Command { code, .. } => Some(*code),
            _ => None,
        };
        // Instruction and line stand beside it.
        let message = match error {
            crate::BuildError::Step { message, .. } => message.clone(),
            error => error.to_string(),
        };
        let (number, line, text) = (self.number, self.line, self.text.clone());
        StepEvent::Failed { number, line, text, code, message }
    }
}

mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(took.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
    }
}
