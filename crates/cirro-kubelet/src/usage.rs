//! What the node and its pods use, found out when somebody asks.
//!
//! A rate needs two samples. The last few that questions caused are kept for a minute: the newest that is a second old or
//! more is where the next span begins. Who asks first waits for a second. Nothing runs when nobody asks.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use cirro_seams::container::{Container, Owner};
use cirro_seams::node::NodeError;
use cirro_seams::usage::{Counts, NodeUsage, Usage, UsageSample};
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::Kubelet;
use crate::pods::container_name;

/// The shortest span that says something, and the longest that says something about now.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// Between two samples that are kept, and how many are.
const SPACING: Duration = Duration::from_secs(5);
const KEPT: usize = 4;

/// A sample and when it was taken.
#[derive(Clone)]
struct Taken {
    at: Instant,
    sample: UsageSample,
}

/// The samples of the last minute, the oldest first.
#[derive(Default)]
pub(crate) struct Samples(Mutex<VecDeque<Taken>>);

impl Kubelet {
    /// Returns what the node and its pods used lately.
    pub(crate) async fn node_usage(&self) -> Result<NodeUsage, NodeError> {
        let (before, now) = self.two_samples().await?;
        let at = SystemTime::now();
        let window = now.at.duration_since(before.at);
        let containers = self.engine.list_pod_containers().await?;
        let earlier: HashMap<&str, Counts> =
            before.sample.containers.iter().map(|(id, counts)| (id.as_str(), *counts)).collect();
        let mut pods: Vec<(String, Vec<(String, Usage)>)> = Vec::new();
        for (id, counts) in &now.sample.containers {
            let Some(container) = containers.iter().find(|one| one.id == *id) else { continue };
            let Owner::Pod { uid, .. } = &container.spec.owner else { continue };
            let usage = match earlier.get(id.as_str()) {
                Some(before) => Usage::between(*before, *counts, window, at),
                // It began after the first sample: all that it used counts.
                None => Usage::between(Counts::default(), *counts, age(container), at),
            };
            let own = (container_name(container).to_owned(), usage);
            match pods.iter_mut().find(|(known, _)| known == uid) {
                Some((_, all)) => all.push(own),
                None => pods.push((uid.clone(), vec![own])),
            }
        }
        for (_, containers) in &mut pods {
            containers.sort_by(|(one, _), (other, _)| one.cmp(other));
        }
        let host = Usage::between(before.sample.host, now.sample.host, window, at);
        Ok(NodeUsage { node: self.options.node_name.clone(), host, pods })
    }

    async fn take(&self) -> Result<Taken, NodeError> {
        Ok(Taken { at: Instant::now(), sample: self.engine.usage().await? })
    }

    /// Returns a sample and one from before. Questions at the same time wait for each other, so that they share samples.
    async fn two_samples(&self) -> Result<(Taken, Taken), NodeError> {
        let mut kept = self.samples.0.lock().await;
        while kept.front().is_some_and(|oldest| oldest.at.elapsed() > LONGEST) {
            kept.pop_front();
        }
        if kept.is_empty() {
            kept.push_back(self.take().await?);
        }
        let old_enough = kept.iter().rev().find(|one| one.at.elapsed() >= SHORTEST).cloned();
        let before = match old_enough {
            Some(before) => before,
            None => {
                let first = kept.front().expect("one was put there").clone();
                tokio::time::sleep_until(first.at + SHORTEST).await;
                first
            }
        };
        let now = self.take().await?;
        if kept.back().is_none_or(|newest| newest.at.elapsed() >= SPACING) {
            kept.push_back(now.clone());
            if kept.len() > KEPT {
                kept.pop_front();
            }
        }
        Ok((before, now))
    }
}

/// Returns for how long a container has been running.
fn age(container: &Container) -> Duration {
    let started = container.started_at.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    let age = started.map(|started| Timestamp::now().duration_since(started));
    let age = age.and_then(|age| Duration::try_from(age).ok()).unwrap_or(SHORTEST);
    age.max(Duration::from_millis(1))
}
