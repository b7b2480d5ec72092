//! Watching the health of containers: one task for each that has a check and runs.
//!
//! ```text
//! start, unpause, adopt ─▶ watch ─▶ wait ─▶ exec ─▶ take in ─▶ wait …     until exit, pause, removal
//! ```
//! Results live in memory; a change of the status is noted in the journal, so that it survives the daemon.

use std::time::Duration;

use cirro_seams::container::{HealthCheck, HealthResult, HealthStatus, Phase};
use cirro_seams::node::{ExecRequest, Output, Session};
use tokio_util::sync::CancellationToken;

use super::Entry;
use crate::error::EngineError;
use crate::journal::CONTAINERS;
use crate::spec::health;
use crate::{Engine, clock};

/// How long a killed check may take to end before it is left alone.
const KILL_WAIT: Duration = Duration::from_secs(10);

impl Entry {
    /// Ends the watch; docker says that what nobody watches is not healthy.
    pub(crate) fn stop_health(&mut self) {
        if let Some(watch) = self.health_watch.take() {
            watch.cancel();
        }
    }
}

impl Engine {
    /// Watches a running container's health from now on, if it has a check. `fresh`: it has just been started.
    pub(crate) fn watch_health(&self, id: &str, fresh: bool) {
        let watch = {
            let mut table = self.table();
            let Some(entry) = table.get_mut(id) else { return };
            entry.stop_health();
            let container = &mut entry.record.container;
            let Some(check) = container.health_check.clone() else { return };
            let Some(command) = health::command(&check, &entry.record.shell) else { return };
            if fresh || container.health.is_none() {
                container.health = Some(health::fresh());
                self.shared.journal.put_lazily(CONTAINERS, id, &entry.record);
            }
            let cancelled = self.shared.cancelled.child_token();
            entry.health_watch = Some(cancelled.clone());
            Watch { engine: self.clone(), id: id.to_owned(), check, command, cancelled }
        };
        self.shared.tasks.spawn(watch.run());
    }

    /// Ends the watch of a container that is frozen.
    pub(crate) fn pause_health(&self, id: &str) {
        if let Some(entry) = self.table().get_mut(id) {
            entry.stop_health();
        }
    }
}

/// What one watch goes by.
struct Watch {
    engine: Engine,
    id: String,
    check: HealthCheck,
    command: Vec<String>,
    cancelled: CancellationToken,
}

impl Watch {
    async fn run(self) {
        while let Some(wait) = self.next_wait() {
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.cancelled.cancelled() => return,
            }
            // A check that was begun is brought to its end, so that nothing of it stays behind.
            let result = self.look().await;
            if self.cancelled.is_cancelled() {
                return;
            }
            self.take_in(result);
        }
    }

    /// How long the next check waits; nothing when there is none any more.
    fn next_wait(&self) -> Option<Duration> {
        let table = self.engine.table();
        let container = &table.get(&self.id)?.record.container;
        let status = container.health.as_ref()?.status;
        let ran = ran(container.started_at.as_deref(), &clock::now());
        (container.phase == Phase::Running).then(|| health::wait(&self.check, status, ran))
    }

    fn take_in(&self, result: HealthResult) {
        let changed = {
            let mut table = self.engine.table();
            let Some(entry) = table.get_mut(&self.id) else { return };
            let container = &mut entry.record.container;
            let ran = ran(container.started_at.as_deref(), &result.start);
            let Some(health) = container.health.as_mut().filter(|_| container.phase == Phase::Running) else {
                return;
            };
            if !health::take_in(health, &self.check, result, ran) {
                return;
            }
            let status = health.status;
            self.engine.shared.journal.put_lazily(CONTAINERS, &self.id, &entry.record);
            (entry.record.container.clone(), status)
        };
        let (container, status) = changed;
        self.engine.emit_container(&format!("health_status: {}", status.as_str()), &container, &[]);
    }

    /// Runs the check once.
    async fn look(&self) -> HealthResult {
        let start = clock::now();
        let (exit_code, output) = match self.begin().await {
            Ok((exec, session)) => {
                let found = self.follow(&exec, session).await;
                self.engine.forget_exec(&exec);
                found
            }
            Err(error) => (-1, error.to_string()),
        };
        HealthResult { start, end: clock::now(), exit_code, output }
    }

    async fn begin(&self) -> Result<(String, Session), EngineError> {
        let request = ExecRequest {
            command: self.command.clone(),
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let exec = self.engine.create_exec(&self.id, request).await?;
        match self.engine.start_exec(&exec).await {
            Ok(session) => Ok((exec, session)),
            Err(error) => {
                self.engine.forget_exec(&exec);
                Err(error)
            }
        }
    }

    /// Reads what it writes until it ends; kills it when it takes too long.
    async fn follow(&self, exec: &str, mut session: Session) -> (i32, String) {
        let mut output = Vec::new();
        let limit = health::timeout(&self.check);
        let whole = async {
            while let Some(Output::Stdout(bytes) | Output::Stderr(bytes)) = session.output.recv().await {
                let room = health::MAX_OUTPUT.saturating_sub(output.len());
                output.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            (&mut session.exit).await.ok()
        };
        let ended = tokio::select! {
            ended = tokio::time::timeout(limit, whole) => ended.ok(),
            () = self.cancelled.cancelled() => None,
        };
        let text = String::from_utf8_lossy(&output).into_owned();
        if let Some(code) = ended {
            // A check that its container took with it has no code.
            return (code.unwrap_or(-1), text);
        }
        self.engine.kill_exec(exec);
        let _ = tokio::time::timeout(KILL_WAIT, &mut session.exit).await;
        let seconds = limit.as_secs_f64();
        let late = format!("Health check exceeded timeout ({seconds}s)");
        (-1, if text.is_empty() { late } else { format!("{late}: {text}") })
    }
}

/// How long a container had run at a moment.
fn ran(started: Option<&str>, at: &str) -> Duration {
    let seconds = started.and_then(|started| clock::seconds_between(started, at)).unwrap_or(0.0);
    Duration::from_secs_f64(seconds)
}

/// What an exit leaves of a health: nobody watches any more.
pub(super) fn at_exit(entry: &mut Entry) {
    let watched = entry.health_watch.is_some();
    entry.stop_health();
    if let Some(health) = entry.record.container.health.as_mut().filter(|_| watched) {
        health.status = HealthStatus::Unhealthy;
    }
}
