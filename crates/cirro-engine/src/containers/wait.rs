//! Waiting for containers to end or to go.

use cirro_seams::container::Phase;
use tokio::sync::oneshot;

use super::is_active;
use crate::Engine;
use crate::error::EngineError;

/// What a wait waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitCondition {
    /// It is not running.
    NotRunning,
    /// It exits after now.
    NextExit,
    /// It is removed.
    Removed,
}

/// Exit code and error.
type Answer = (i64, Option<String>);

/// Somebody who waits.
pub(crate) struct Waiter {
    condition: WaitCondition,
    answer: oneshot::Sender<Answer>,
}

impl Engine {
    /// Waits: until it is not running, until its next exit, or until it is removed. The outer future resolves when the
    /// wait is armed (docker's CLI starts the container only then), the inner one with exit code and error.
    pub async fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<oneshot::Receiver<(i64, Option<String>)>, EngineError> {
        let mut table = self.table();
        let id = table.find(name)?.to_owned();
        let entry = table.get_mut(&id).ok_or_else(|| EngineError::no_container(name))?;
        let (answer, receiver) = oneshot::channel();
        let container = &entry.record.container;
        let running = is_active(container.phase) || container.phase == Phase::Restarting;
        if condition == WaitCondition::NotRunning && !running {
            let _ = answer.send((i64::from(container.exit_code.unwrap_or(0)), None));
        } else {
            entry.waiters.retain(|waiter| !waiter.answer.is_closed());
            entry.waiters.push(Waiter { condition, answer });
        }
        Ok(receiver)
    }

    /// Answers who waits for an exit that has just been recorded; all of them when it was removed.
    pub(super) fn answer_waiters(&self, id: &str, exited: bool) {
        let mut table = self.table();
        let Some(entry) = table.get_mut(id) else { return };
        let container = &entry.record.container;
        let code = i64::from(container.exit_code.unwrap_or(0));
        let stopped = !is_active(container.phase) && container.phase != Phase::Restarting;
        let due = |waiter: &Waiter| match waiter.condition {
            WaitCondition::NextExit => exited,
            WaitCondition::NotRunning => stopped,
            WaitCondition::Removed => false,
        };
        let (due, rest) = std::mem::take(&mut entry.waiters).into_iter().partition(due);
        entry.waiters = rest;
        drop(table);
        answer_all(due, code);
    }
}

/// Answers waiters; one that has gone is no error.
pub(super) fn answer_all(waiters: Vec<Waiter>, code: i64) {
    for waiter in waiters {
        let _ = waiter.answer.send((code, None));
    }
}
