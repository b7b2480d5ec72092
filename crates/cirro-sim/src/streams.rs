//! Logs, commands and attached streams.

use bytes::Bytes;
use cirro_seams::node::{ExecRequest, LogOptions, NodeError, Output, Session};
use tokio::sync::{mpsc, oneshot};

use crate::SimEngine;
use crate::script::Answer;

const CHANNEL: usize = 16;
/// A shell's exit code for a command that is not there.
const NOT_FOUND: i32 = 127;

impl SimEngine {
    /// Returns a container's scripted lines; a follower waits for the container's end.
    pub(crate) fn read_log(
        &self,
        id: &str,
        options: &LogOptions,
    ) -> Result<mpsc::Receiver<Bytes>, NodeError> {
        let lines = self.state().find(id)?.log.clone();
        let (engine, id, follow) = (self.clone(), id.to_owned(), options.follow);
        let tail = options.tail.and_then(|tail| usize::try_from(tail).ok()).unwrap_or(usize::MAX);
        let (sender, receiver) = mpsc::channel(CHANNEL);
        tokio::spawn(async move {
            for line in &lines[lines.len().saturating_sub(tail)..] {
                if sender.send(Bytes::from(format!("{line}\n"))).await.is_err() {
                    return;
                }
            }
            if follow {
                tokio::select! { () = engine.until_end(&id) => {}, () = sender.closed() => {} }
            }
        });
        Ok(receiver)
    }

    /// Runs a scripted command in a running container.
    pub(crate) fn run_command(&self, id: &str, request: &ExecRequest) -> Result<Session, NodeError> {
        let mut state = self.state();
        if state.find(id)?.container.pid.is_none() {
            return Err(NodeError::Conflict(format!("container {id} is not running")));
        }
        let word = request.command.first().map(String::as_str).unwrap_or_default();
        let missing =
            || Answer { output: format!("{word}: not found\n"), code: NOT_FOUND, ..Answer::default() };
        let answer = state.answers.get(word).cloned().unwrap_or_else(missing);
        Ok(play(answer))
    }

    /// Attaches to a container: its output is its log, its end is the session's.
    pub(crate) fn attach_to(&self, id: &str) -> Result<Session, NodeError> {
        let mut state = self.state();
        if state.find(id)?.container.pid.is_none() {
            return Err(NodeError::Conflict(format!("container {id} is not running")));
        }
        drop(state);
        let (engine, id) = (self.clone(), id.to_owned());
        let (output, receiver) = mpsc::channel::<Output>(CHANNEL);
        let (done, exit) = oneshot::channel();
        tokio::spawn(async move {
            engine.until_end(&id).await;
            drop(output);
            let code = engine.state().find(&id).ok().and_then(|entry| entry.container.exit_code);
            let _ = done.send(code.unwrap_or(0));
        });
        Ok(Session { input: None, output: receiver, resize: mpsc::channel(1).0, exit })
    }
}

impl SimEngine {
    /// Resolves when a container does not run (any more).
    async fn until_end(&self, id: &str) {
        let Ok(ended) = self.state().find(id).map(|entry| entry.ended.clone()) else { return };
        let over = ended.notified();
        let runs = self.state().find(id).is_ok_and(|entry| entry.container.pid.is_some());
        if runs {
            over.await;
        }
    }
}

fn play(answer: Answer) -> Session {
    let (output, receiver) = mpsc::channel(CHANNEL);
    let (done, exit) = oneshot::channel();
    tokio::spawn(async move {
        tokio::time::sleep(answer.after).await;
        if !answer.output.is_empty() {
            let _ = output.send(Output::Stdout(Bytes::from(answer.output))).await;
        }
        drop(output);
        let _ = done.send(answer.code);
    });
    Session { input: None, output: receiver, resize: mpsc::channel(1).0, exit }
}
