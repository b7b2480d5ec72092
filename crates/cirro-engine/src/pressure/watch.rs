//! The task that looks at the disk.

use std::time::Duration;

use cirro_container::WorkloadPhase;

use super::lock;
use super::marks::{Marks, Space, Written, culprit, is_time_to_count, next_look};
use super::reserve::Reserve;
use crate::Engine;
use crate::error::{EngineError, blocking, io};

const FIRST: Duration = Duration::from_millis(250);
/// After a look that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;

/// What the watch knows from its last looks.
struct Watch {
    pause: Duration,
    available: Option<u64>,
    /// What everybody had written, and what was free then.
    counted: Option<(Written, u64)>,
    /// Free bytes below which somebody is stopped next; the low-water mark while there was room.
    line: Option<u64>,
}

impl Engine {
    /// Looks at the disk until the engine stops.
    pub(crate) async fn watch_disk(self) {
        let mut watch = Watch { pause: FIRST, available: None, counted: None, line: None };
        loop {
            let pause = match self.look_at_disk(&mut watch).await {
                Ok(()) => watch.pause,
                Err(error) => {
                    tracing::warn!(%error, "free disk space not looked at");
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.shared.cancelled.cancelled() => return,
            }
        }
    }

    async fn look_at_disk(&self, watch: &mut Watch) -> Result<(), EngineError> {
        let space = self.space().await?;
        let marks = Marks::of(space.total, &self.shared.options.disk);
        if self.keep_reserve(&marks, space).await? {
            // What is left is for the daemon: who still writes is stopped.
            watch.line = None;
        }
        self.note_pressure(&marks, space, watch).await;
        let line = watch.line.unwrap_or(marks.low).min(marks.low);
        if space.available < line {
            self.relieve(&marks, watch).await?;
        } else {
            self.count_if_due(&marks, space, watch).await?;
        }
        let fallen = watch.available.map_or(0, |before| before.saturating_sub(space.available));
        watch.pause = next_look(space.available.saturating_sub(marks.low), fallen, watch.pause);
        watch.available = Some(space.available);
        Ok(())
    }

    async fn space(&self) -> Result<Space, EngineError> {
        let data_dir = self.shared.options.data_dir.clone();
        blocking(move || {
            let found = rustix::fs::statvfs(&data_dir).map_err(std::io::Error::from);
            let found = found.map_err(io(format!("look at the file system of {}", data_dir.display())))?;
            let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            let (total, available) = (bytes(found.f_blocks), bytes(found.f_bavail));
            Ok(Space { total, available, free: bytes(found.f_bfree) })
        })
        .await
    }

    /// Takes the reserved file when there is room, and gives it up when the space is nearly gone.
    ///
    /// Returns whether it was given up.
    async fn keep_reserve(&self, marks: &Marks, space: Space) -> Result<bool, EngineError> {
        let reserve = Reserve::of(&self.shared.options.data_dir);
        let (full, room, bytes) =
            (marks.is_nearly_full(space), marks.has_room_for_reserve(space), marks.reserve);
        let given_up = blocking(move || match reserve.is_held() {
            true if full => reserve.give_up().map_err(io("give the reserved space up")).map(|()| true),
            false if room && bytes > 0 => {
                reserve.take(bytes).map_err(io("reserve space on the disk")).map(|()| false)
            }
            _ => Ok(false),
        })
        .await?;
        if given_up {
            tracing::warn!(free = space.free, "the disk is full: the reserved space is given up");
            self.settle_exits().await;
        }
        Ok(given_up)
    }

    /// Tells when too little is left, and when there is room again.
    async fn note_pressure(&self, marks: &Marks, space: Space, watch: &mut Watch) {
        let was_low = self.shared.pressure.low().is_some();
        if space.available < marks.low {
            *lock(&self.shared.pressure.low) = Some(marks.low);
            if !was_low {
                tracing::warn!(free = space.available, mark = marks.low, "the disk is nearly full");
                self.tell_of_disk("disk_low", space, marks);
                self.shared.collection.notify_one();
            }
        } else if was_low && space.available >= marks.enough() {
            *lock(&self.shared.pressure.low) = None;
            watch.line = None;
            tracing::info!(free = space.available, "the disk has room again");
            self.tell_of_disk("disk_ok", space, marks);
            self.settle_exits().await;
        }
    }

    fn tell_of_disk(&self, action: &str, space: Space, marks: &Marks) {
        let (free, mark) = (space.available.to_string(), marks.low.to_string());
        self.tell_all("daemon", action, &[("free", &free), ("mark", &mark)]);
    }

    /// Counts what everybody has written when enough was lost since the last time.
    async fn count_if_due(&self, marks: &Marks, space: Space, watch: &mut Watch) -> Result<(), EngineError> {
        let due = match &watch.counted {
            Some((_, then)) => is_time_to_count(*then, space.available, marks.low),
            // Not while the daemon starts.
            None => watch.available.is_some() && marks.low > 0,
        };
        if due {
            watch.counted = Some((self.count_written().await?, space.available));
        } else if let Some((_, then)) = &mut watch.counted {
            // What was freed meanwhile is not lost again.
            *then = (*then).max(space.available);
        }
        Ok(())
    }

    /// Stops who wrote most since the last count.
    async fn relieve(&self, marks: &Marks, watch: &mut Watch) -> Result<(), EngineError> {
        let now = self.count_written().await?;
        let space = self.space().await?;
        let Some((before, then)) = watch.counted.replace((now.clone(), space.available)) else {
            return Ok(());
        };
        let lost = then.saturating_sub(space.available);
        let desperate = space.available < marks.low / 2;
        match culprit(&before, &now, lost, desperate) {
            Some((id, bytes)) => {
                let why = format!(
                    "the disk is nearly full ({} MiB free, the low-water mark is {} MiB) and this container wrote most ({} MiB)",
                    space.available / MIB,
                    marks.low / MIB,
                    bytes / MIB
                );
                self.stop_writer(&id, &why).await?;
            }
            None if lost < MIB => return Ok(()),
            None => tracing::warn!(lost, free = space.available, "no container fills the disk"),
        }
        watch.line = Some(self.space().await?.available / 2);
        Ok(())
    }

    /// Has ended workloads forgotten whose end could not be recorded while the disk was full.
    async fn settle_exits(&self) {
        if let Err(error) = self.shared.journal.flush().await {
            tracing::error!(%error, "records still not written");
            return;
        }
        let Ok(workloads) = self.shared.supervisor.list().await else { return };
        let ended = workloads.into_iter().filter(|workload| workload.phase == WorkloadPhase::Exited);
        for id in ended.map(|workload| workload.id) {
            let recorded = self.table().get(&id).is_some_and(|entry| {
                !crate::containers::is_active(entry.record.container.phase) && !entry.is_busy()
            });
            if recorded {
                self.acknowledge(&id).await;
            }
        }
    }
}
