//! Restart policies: whether a container is started again, and after how long.

use std::time::Duration;

use cirro_seams::container::{Phase, RestartPolicy};

use crate::Engine;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
/// A run of this length makes the next wait the first one again.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// How long the next restart waits: twice as long each time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// Returns the wait after a run of this length.
    pub(crate) fn after(&mut self, run: Duration) -> Duration {
        let next = match self.last {
            Some(last) if run < GOOD_RUN => (last * 2).min(LONGEST),
            _ => FIRST,
        };
        self.last = Some(next);
        next
    }
}

/// Whether a policy starts a container again after this exit.
pub(crate) fn wanted(policy: RestartPolicy, exit_code: i32, restarts: u32, stopped_by_hand: bool) -> bool {
    if stopped_by_hand {
        return false;
    }
    match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure(most) => exit_code != 0 && (most == 0 || restarts < most),
    }
}

/// Whether a policy starts a container when the daemon starts and finds it not running.
pub(crate) fn wanted_at_startup(policy: RestartPolicy, stopped_by_hand: bool) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::UnlessStopped => !stopped_by_hand,
        RestartPolicy::No | RestartPolicy::OnFailure(_) => false,
    }
}

impl Engine {
    /// Starts a container again after a wait, unless that is no longer wanted by then.
    pub(super) fn plan_restart(&self, id: &str, wait: Duration, plan: u64) {
        let (engine, id) = (self.clone(), id.to_owned());
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(wait) => engine.restart_as_planned(&id, plan).await,
                () = engine.shared.cancelled.cancelled() => {}
            }
        });
    }

    async fn restart_as_planned(&self, id: &str, plan: u64) {
        let Ok(_guard) = self.lock_container(id).await else { return };
        let wanted = {
            let mut table = self.table();
            let Some(entry) = table.get_mut(id) else { return };
            let wanted = entry.restart_plan == plan && entry.record.container.phase == Phase::Restarting;
            if wanted {
                entry.record.container.restart_count += 1;
            }
            wanted
        };
        if !wanted {
            return;
        }
        if let Err(error) = self.start_locked(id).await {
            tracing::warn!(container = id, %error, "restart failed");
            self.after_failed_restart(id);
        }
    }

    /// A restart that fails is an exit like any other: the policy decides again.
    fn after_failed_restart(&self, id: &str) {
        let planned = self.change(id, |entry| {
            let container = &mut entry.record.container;
            let code = container.exit_code.filter(|code| *code != 0).unwrap_or(128);
            let again =
                wanted(container.spec.restart, code, container.restart_count, entry.record.stopped_by_hand);
            if again {
                container.phase = Phase::Restarting;
                entry.restart_plan += 1;
                return Some((entry.backoff.after(Duration::ZERO), entry.restart_plan));
            }
            container.phase = Phase::Exited;
            None
        });
        match planned {
            Ok((_, Some((wait, plan)))) => self.plan_restart(id, wait, plan),
            Ok((_, None)) => self.answer_waiters(id, false),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_a_good_run_resets_them() {
        let mut backoff = Backoff::default();
        let short = Duration::from_secs(1);
        let waits: Vec<_> = (0..12).map(|_| backoff.after(short).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[10..], [60_000, 60_000]);
        assert_eq!(backoff.after(GOOD_RUN), FIRST);
        assert_eq!(backoff.after(short), FIRST * 2);
    }

    #[test]
    fn policies_decide_by_exit_code_count_and_hand() {
        use RestartPolicy::{Always, No, OnFailure, UnlessStopped};
        assert!(!wanted(No, 1, 0, false));
        assert!(wanted(Always, 0, 99, false) && !wanted(Always, 0, 0, true));
        assert!(wanted(UnlessStopped, 0, 0, false) && !wanted(UnlessStopped, 0, 0, true));
        assert!(wanted(OnFailure(0), 1, 99, false) && !wanted(OnFailure(0), 0, 0, false));
        assert!(wanted(OnFailure(2), 1, 1, false) && !wanted(OnFailure(2), 1, 2, false));
    }

    #[test]
    fn at_startup_always_means_always() {
        assert!(wanted_at_startup(RestartPolicy::Always, true));
        assert!(!wanted_at_startup(RestartPolicy::UnlessStopped, true));
        assert!(wanted_at_startup(RestartPolicy::UnlessStopped, false));
        assert!(!wanted_at_startup(RestartPolicy::OnFailure(0), false));
    }
}
