//! Stopping, killing, pausing.

use std::time::Duration;

use cirro_container::ContainerError;
use cirro_seams::container::{Container, Phase};

use super::is_active;
use super::wait::WaitCondition;
use crate::error::EngineError;
use crate::journal::CONTAINERS;
use crate::{Engine, fail, signals};

const DEFAULT_GRACE: i64 = 10;
/// How long a killed process may take to end: the kernel may be writing its memory out.
const KILL_WAIT: Duration = Duration::from_secs(30);

impl Engine {
    /// Stops it: its stop signal, then SIGKILL after the grace (its own when absent; negative: no end).
    pub async fn stop_container(
        &self,
        name: &str,
        signal: Option<&str>,
        grace_seconds: Option<i64>,
    ) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        self.stop_by_id(&id, signal, grace_seconds).await
    }

    /// Stops a container, a pod's too.
    pub(crate) async fn stop_by_id(
        &self,
        id: &str,
        signal: Option<&str>,
        grace_seconds: Option<i64>,
    ) -> Result<(), EngineError> {
        let signal = signal.filter(|signal| !signal.is_empty()).map(signals::parse).transpose()?;
        let record = self.begin_stop(id).await?;
        fail::passed("stop.begun");
        let container = &record.container;
        let grace = grace_seconds.or(container.spec.stop_timeout_seconds).unwrap_or(DEFAULT_GRACE);
        // No lock is held from here on: the exit needs it.
        let ended = self.wait_container(id, WaitCondition::NotRunning).await?;
        tokio::pin!(ended);
        self.send(container, signal.unwrap_or(record.stop_signal)).await?;
        fail::passed("stop.signalled");
        let graceful = async {
            match u64::try_from(grace) {
                Ok(seconds) => tokio::time::timeout(Duration::from_secs(seconds), &mut ended).await.is_ok(),
                Err(_) => (&mut ended).await.is_ok(),
            }
        };
        if !graceful.await {
            self.send(container, signals::KILL).await?;
            if tokio::time::timeout(KILL_WAIT, &mut ended).await.is_err() {
                let text = format!(
                    "cannot stop container: {id}: tried to kill container, but did not receive an exit event"
                );
                return Err(EngineError::Failed(text));
            }
        }
        fail::passed("stop.ended");
        let container = self.container(id).unwrap_or(record.container);
        self.emit_container("stop", &container, &[]);
        Ok(())
    }

    /// Notes that somebody stops it; a container that only waits for its restart is stopped by that.
    async fn begin_stop(&self, id: &str) -> Result<super::Record, EngineError> {
        let _guard = self.lock_container(id).await?;
        let (record, was) = self.change(id, |entry| {
            entry.record.stopped_by_hand = true;
            entry.restart_plan += 1;
            let was = entry.record.container.phase;
            if was == Phase::Restarting {
                entry.record.container.phase = Phase::Exited;
            }
            was
        })?;
        if was == Phase::Restarting {
            self.answer_waiters(id, false);
        }
        if is_active(was) {
            Ok(record)
        } else {
            Err(EngineError::NotModified("container is already stopped".into()))
        }
    }

    /// Sends a signal and lets a frozen container take it.
    async fn send(&self, container: &Container, signal: i32) -> Result<(), EngineError> {
        match self.shared.supervisor.kill(&container.id, signal, false).await {
            // It ended by itself meanwhile.
            Ok(()) | Err(ContainerError::NotFound(_) | ContainerError::State(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let paused = self
            .table()
            .get(&container.id)
            .is_some_and(|entry| entry.record.container.phase == Phase::Paused);
        if paused {
            let _ = self.shared.supervisor.set_paused(&container.id, false).await;
        }
        self.emit_container("kill", container, &[("signal", signal.to_string())]);
        Ok(())
    }

    /// Stops and starts it.
    pub async fn restart_container(
        &self,
        name: &str,
        signal: Option<&str>,
        grace_seconds: Option<i64>,
    ) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        match self.stop_by_id(&id, signal, grace_seconds).await {
            Ok(()) | Err(EngineError::NotModified(_)) => {}
            Err(error) => return Err(error),
        }
        match self.start_by_hand(&id).await {
            Ok(()) | Err(EngineError::NotModified(_)) => {}
            Err(error) => return Err(error),
        }
        self.emit_container("restart", &self.container(&id)?, &[]);
        Ok(())
    }

    /// Sends a signal (name or number; SIGKILL when empty); returns after SIGKILL when it has ended.
    pub async fn kill_container(&self, name: &str, signal: &str) -> Result<(), EngineError> {
        let signal = if signal.is_empty() { signals::KILL } else { signals::parse(signal)? };
        let id = self.find_own(name)?;
        let record = {
            let mut table = self.table();
            let entry = table.get_mut(&id).ok_or_else(|| EngineError::no_container(name))?;
            if !is_active(entry.record.container.phase) {
                let text = format!("cannot kill container: {name}: container {id} is not running");
                return Err(EngineError::Conflict(text));
            }
            if signal == signals::KILL || signal == entry.record.stop_signal || signal == signals::TERM {
                entry.record.stopped_by_hand = true;
                self.shared.journal.put(CONTAINERS, &id, &entry.record);
            }
            entry.record.clone()
        };
        if signal == signals::KILL {
            // No lock is held: the exit needs it.
            let ended = self.wait_container(&id, WaitCondition::NotRunning).await?;
            self.send(&record.container, signal).await?;
            return match tokio::time::timeout(KILL_WAIT, ended).await {
                Ok(_) => Ok(()),
                Err(_) => Err(EngineError::Failed(format!(
                    "cannot kill container: {name}: tried to kill container, but did not receive an exit event"
                ))),
            };
        }
        self.shared.supervisor.kill(&id, signal, false).await?;
        self.emit_container("kill", &record.container, &[("signal", signal.to_string())]);
        Ok(())
    }

    /// Kills a container and waits for its end.
    pub(crate) async fn kill_and_wait(&self, id: &str) -> Result<(), EngineError> {
        match self.stop_by_id(id, Some("KILL"), Some(KILL_WAIT.as_secs() as i64)).await {
            Ok(()) | Err(EngineError::NotModified(_) | EngineError::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Freezes it.
    pub async fn pause_container(&self, name: &str) -> Result<(), EngineError> {
        self.set_paused(name, true).await
    }

    /// Thaws it.
    pub async fn unpause_container(&self, name: &str) -> Result<(), EngineError> {
        self.set_paused(name, false).await
    }

    async fn set_paused(&self, name: &str, paused: bool) -> Result<(), EngineError> {
        let id = self.find_own(name)?;
        let _guard = self.lock_container(&id).await?;
        let phase = self.container(&id)?.phase;
        let conflict = |text: String| Err(EngineError::Conflict(text));
        match (phase, paused) {
            (Phase::Running, true) | (Phase::Paused, false) => {}
            (Phase::Paused, true) => return conflict(format!("Container {id} is already paused")),
            (Phase::Running, false) => return conflict(format!("Container {id} is not paused")),
            _ => return conflict(format!("container {id} is not running")),
        }
        self.shared.supervisor.set_paused(&id, paused).await?;
        let (record, ()) = self.change(&id, |entry| {
            entry.record.container.phase = if paused { Phase::Paused } else { Phase::Running };
        })?;
        if paused {
            self.pause_health(&id);
        } else {
            self.watch_health(&id, false);
        }
        self.emit_container(if paused { "pause" } else { "unpause" }, &record.container, &[]);
        Ok(())
    }
}
