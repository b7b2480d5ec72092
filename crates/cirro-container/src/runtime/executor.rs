//! The last step of a container's first process, in place of libcontainer's own executor.
//!
//! It looks the command up as the container's user does, carries "not found" and "not executable" through libcontainer's errors,
//! which are text, gives signals their defaults back, and asks no name service for a home directory.

use std::collections::HashMap;

use libcontainer::workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError};
use oci_spec::runtime::Spec;

use super::command::{execute, reason, resolve};
use crate::error::ContainerError;

const NOT_FOUND: &str = "\u{1}command-not-found\u{1}";
const NOT_EXECUTABLE: &str = "\u{1}command-not-executable\u{1}";

#[derive(Clone)]
pub(super) struct CommandExecutor;

impl Executor for CommandExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let (args, env) = command_of(spec);
        match resolve(args, env) {
            Ok(_) => Ok(()),
            Err(error) => Err(ExecutorValidationError::ArgValidationError(mark(&error))),
        }
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        // The program gets the spec's environment, in its order, with execve.
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, env) = command_of(spec);
        let error = match resolve(args, env) {
            Ok(program) => execute(&program, args, env),
            Err(error) => std::io::Error::other(error),
        };
        // Nobody waits for an answer any more: as runc does, tell the container's own stderr.
        let name = args.first().map_or("", String::as_str);
        let _ = rustix::io::write(
            rustix::stdio::stderr(),
            format!("exec {name}: {}\n", reason(&error)).as_bytes(),
        );
        cirro_sys::process::end(255)
    }
}

fn command_of(spec: &Spec) -> (&[String], &[String]) {
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().as_deref()).unwrap_or_default();
    let env = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
    (args, env)
}

fn mark(error: &ContainerError) -> String {
    match error {
        ContainerError::CommandNotFound(text) => format!("{NOT_FOUND}{text}"),
        ContainerError::CommandNotExecutable(text) => format!("{NOT_EXECUTABLE}{text}"),
        other => other.to_string(),
    }
}

/// Finds a marked error in the text that libcontainer made of it.
pub(super) fn unmark(text: &str) -> Option<ContainerError> {
    if let Some((_, message)) = text.split_once(NOT_FOUND) {
        return Some(ContainerError::CommandNotFound(message.to_owned()));
    }
    let (_, message) = text.split_once(NOT_EXECUTABLE)?;
    Some(ContainerError::CommandNotExecutable(message.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_being_text() {
        let error = ContainerError::CommandNotExecutable("exec: \"x\": permission denied".to_owned());
        assert_eq!(unmark(&format!("failed: exec process failed with error {}", mark(&error))), Some(error));
        assert_eq!(unmark("no mark"), None);
    }
}
