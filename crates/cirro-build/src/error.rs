//! Why a build fails.

use cirro_seams::build::BuildFault;

/// Why a build failed: instruction, line, exit code.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong.
    #[error("dockerfile parse error on line {line}: {message}")]
    Parse {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// A `RUN` failed; docker's text.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Command {
        /// Line, from 1.
        line: usize,
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// A step failed.
    #[error("line {line}: {message}")]
    Step {
        /// Line, from 1.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The build context cannot be unpacked or read.
    #[error("build context: {message}")]
    Context {
        /// What is wrong.
        message: String,
    },
    /// The context has no such Dockerfile; docker's text.
    #[error("Cannot locate specified Dockerfile: {path}")]
    NoDockerfile {
        /// The path that was asked for.
        path: String,
    },
    /// What was asked for cannot be built, whatever the Dockerfile says.
    #[error("{message}")]
    Request {
        /// What is wrong.
        message: String,
    },
    /// The image library cannot take the image.
    #[error("store the image")]
    Store {
        /// The library's reason.
        #[source]
        source: BuildFault,
    },
}

/// Why a part of a step cannot be done; the instruction and its line are added where they are known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Refusal(String);

impl Refusal {
    /// Refuses for a reason.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// Returns a function that makes a refusal of an error at `path`.
    pub(crate) fn at(path: impl Into<std::path::PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |error| Self(format!("{}: {error}", path.display()))
    }

    /// Adds the instruction's line.
    pub(crate) fn on(self, line: usize) -> BuildError {
        BuildError::Step { line, message: self.0 }
    }
}

impl From<BuildFault> for Refusal {
    fn from(fault: BuildFault) -> Self {
        Self(fault.0)
    }
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self(reason)
    }
}
