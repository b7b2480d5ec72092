//! What happens when a container's process has ended.
//!
//! The supervisor keeps the exit until it is acknowledged by `delete`, so the record is made durable first; a container
//! that removes itself is not, its record goes anyway.

use std::time::Duration;

use cirro_container::{ContainerError, Exit};
use cirro_seams::container::{Container, Phase};

use super::{health, is_active, restart};
use crate::{Engine, clock, fail};

/// Docker's exit code for an end that nobody saw.
const UNKNOWN: i32 = 255;

/// What follows an exit.
enum Next {
    Nothing,
    Remove,
    Restart(Duration, u64),
}

impl Engine {
    /// Handles the end of a container's process.
    pub(crate) async fn handle_exit(&self, id: &str, exit: Exit) {
        match self.lock_container(id).await {
            Ok(_guard) => self.exit_locked(id, exit).await,
            // A removal by force was faster and has acknowledged it.
            Err(_) => self.acknowledge(id).await,
        }
    }

    /// Handles the end of a container's process; its lock is held.
    pub(crate) async fn exit_locked(&self, id: &str, exit: Exit) {
        fail::passed("exit.begun");
        let noted = self.change(id, |entry| {
            if !is_active(entry.record.container.phase) {
                return None;
            }
            let before = entry.record.container.clone();
            Some((before, note_exit(entry, &exit)))
        });
        let Ok((record, Some((before, next)))) = noted else {
            return self.acknowledge(id).await;
        };
        fail::passed("exit.noted");
        self.emit_die(&record.container);
        match next {
            Next::Remove => self.remove_after_exit(id, &before).await,
            next => {
                tokio::join!(self.make_exit_durable(id), self.leave_or_warn(&before));
                fail::passed("exit.settled");
                self.answer_waiters(id, true);
                if let Next::Restart(wait, plan) = next {
                    self.plan_restart(id, wait, plan);
                }
            }
        }
    }

    /// Takes everything of a container away at once: somebody waits for its end.
    async fn remove_after_exit(&self, id: &str, before: &Container) {
        self.answer_waiters(id, true);
        let removed = match self.begin_removal(id) {
            Ok(()) => {
                let (removed, (), ()) =
                    tokio::join!(self.remove_files(id), self.acknowledge(id), self.leave_or_warn(before));
                self.finish_removal(id, true, removed).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::error!(container = id, %error, "container not removed after its exit");
        }
    }

    async fn make_exit_durable(&self, id: &str) {
        match self.shared.journal.flush().await {
            Ok(()) => {
                fail::passed("exit.durable");
                self.acknowledge(id).await;
            }
            Err(error) => {
                tracing::error!(container = id, %error, "exit not recorded; the supervisor keeps it")
            }
        }
    }

    async fn leave_or_warn(&self, container: &Container) {
        if let Err(error) = self.leave_network(container).await {
            tracing::error!(container = container.id, %error, "network of a container not removed");
        }
    }

    /// Lets the supervisor forget an ended workload.
    pub(crate) async fn acknowledge(&self, id: &str) {
        match self.shared.supervisor.delete(id, true).await {
            Ok(()) | Err(ContainerError::NotFound(_)) => {}
            Err(error) => tracing::warn!(workload = id, %error, "ended workload not deleted"),
        }
    }

    fn emit_die(&self, container: &Container) {
        let ran = container.started_at.as_deref().zip(container.finished_at.as_deref());
        let seconds = ran.and_then(|(from, to)| clock::seconds_between(from, to)).unwrap_or(0.0);
        let code = container.exit_code.unwrap_or(0);
        if container.oom_killed {
            self.emit_container("oom", container, &[]);
        }
        let more = [("exitCode", code.to_string()), ("execDuration", format!("{}", seconds as u64))];
        self.emit_container("die", container, &more);
    }
}

/// Writes an exit into a record and decides what follows.
fn note_exit(entry: &mut super::Entry, exit: &Exit) -> Next {
    let code = exit.code.unwrap_or(UNKNOWN);
    health::at_exit(entry);
    let container = &mut entry.record.container;
    container.pid = None;
    container.exit_code = Some(code);
    container.oom_killed = exit.oom_killed;
    container.finished_at = Some(exit.at.clone());
    container.endpoints = Vec::new();
    container.ports = Vec::new();
    entry.ended.send_replace(true);
    let again =
        restart::wanted(container.spec.restart, code, container.restart_count, entry.record.stopped_by_hand);
    if again {
        container.phase = Phase::Restarting;
        entry.restart_plan += 1;
        let ran = container.started_at.as_deref().and_then(|from| clock::seconds_between(from, &exit.at));
        let wait = entry.backoff.after(Duration::from_secs_f64(ran.unwrap_or(0.0)));
        return Next::Restart(wait, entry.restart_plan);
    }
    container.phase = Phase::Exited;
    if container.spec.auto_remove { Next::Remove } else { Next::Nothing }
}
