//! Containers of pods: their names, labels and logs.

use bytes::{Bytes, BytesMut};
use cirro_container::LogEntry;
use cirro_seams::container::{ContainerSpec, NetworkMode, Owner};
use cirro_seams::node::LogOptions;
use tokio::sync::mpsc;

use crate::Engine;
use crate::error::EngineError;

const CHANNEL: usize = 64;

impl Engine {
    /// Makes a pod's container and starts it; returns its id. One that cannot be started is gone again.
    pub(super) async fn run_pod_container(&self, mut spec: ContainerSpec) -> Result<String, EngineError> {
        let Owner::Pod { uid, namespace, name, container } = spec.owner.clone() else {
            return Err(EngineError::Invalid("a pod's container needs its pod as its owner".into()));
        };
        if !matches!(&spec.network, NetworkMode::Sandbox(of) if *of == uid) {
            return Err(EngineError::Invalid(
                "a pod's container needs its pod's sandbox as its network".into(),
            ));
        }
        self.sandbox_network(&uid)?;
        for (label, value) in [
            ("io.kubernetes.pod.name", &name),
            ("io.kubernetes.pod.namespace", &namespace),
            ("io.kubernetes.pod.uid", &uid),
            ("io.kubernetes.container.name", &container),
        ] {
            spec.labels.insert(label.into(), value.clone());
        }
        if spec.name.is_none() {
            let base = format!("k8s_{container}_{name}_{namespace}_{uid}_");
            let table = self.table();
            // The attempt: how often this container of the pod was made before, as far as it is still known.
            let last =
                table.newest_first().filter_map(|entry| attempt(&entry.record.container.name, &base)).max();
            spec.name = Some(format!("{base}{}", last.map_or(0, |last| last + 1)));
        }
        let (id, _) = self.create_container(spec).await?;
        match self.start_by_hand(&id).await {
            Ok(()) => Ok(id),
            Err(error) => {
                if let Err(undo) = self.remove_by_id(&id, true, true).await {
                    tracing::warn!(container = id, error = %undo, "container that failed to start not removed");
                }
                Err(error)
            }
        }
    }

    /// Turns a log into the text that the Kubernetes API gives.
    pub(super) fn plain_log(
        &self,
        mut entries: mpsc::Receiver<LogEntry>,
        options: LogOptions,
    ) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let mut left = options.limit_bytes.unwrap_or(u64::MAX);
        let cancelled = self.shared.cancelled.clone();
        self.shared.tasks.spawn(async move {
            let mut at_line_start = true;
            loop {
                let entry = tokio::select! {
                    entry = entries.recv() => entry,
                    // A follower that has gone need not wait for the next line.
                    () = sender.closed() => return,
                    () = cancelled.cancelled() => return,
                };
                let Some(entry) = entry else { return };
                let mut text = plain_line(&entry, options.timestamps && at_line_start);
                at_line_start = text.ends_with(b"\n");
                text.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                left -= text.len() as u64;
                if sender.send(text).await.is_err() || left == 0 {
                    return;
                }
            }
        });
        receiver
    }
}

fn attempt(name: &str, base: &str) -> Option<u32> {
    name.strip_prefix(base)?.parse().ok()
}

fn plain_line(entry: &LogEntry, with_time: bool) -> Bytes {
    if !with_time {
        return entry.line.clone();
    }
    let mut text = BytesMut::with_capacity(entry.time.len() + 1 + entry.line.len());
    text.extend_from_slice(entry.time.as_bytes());
    text.extend_from_slice(b" ");
    text.extend_from_slice(&entry.line);
    text.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_by_name() {
        assert_eq!(attempt("k8s_web_pod_ns_uid_3", "k8s_web_pod_ns_uid_"), Some(3));
        assert_eq!(attempt("k8s_other_pod_ns_uid_3", "k8s_web_pod_ns_uid_"), None);
    }

    #[test]
    fn a_line_has_its_time_only_when_asked_for() {
        let entry = LogEntry {
            time: "2024-01-01T00:00:00Z".into(),
            stderr: false,
            line: Bytes::from("x\n"),
            attributes: Default::default(),
        };
        assert_eq!(plain_line(&entry, false), "x\n");
        assert_eq!(plain_line(&entry, true), "2024-01-01T00:00:00Z x\n");
    }
}
