//! Deletes objects whose time is over: events, signing requests, bootstrap tokens.
//!
//! Upstream's server gives events a lease in etcd, and looks at the others every ten minutes; here the time of each is
//! waited for.

use std::sync::Arc;
use std::time::Duration;

use cirro_client::{Next, WorkQueue, key_of, namespaced_name, uid};
use cirro_seams::api::{DeleteOptions, Resource};
use jiff::Timestamp;
use serde_json::Value;

use crate::Context;

mod certificate;
mod event;
mod token;

/// How long an object has to live.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    /// It is over.
    Over,
    /// So long.
    Left(Duration),
    /// As long as nobody deletes it.
    Endless,
}

/// Runs the controllers until the context's stop.
pub(crate) async fn run(context: Arc<Context>) {
    let of = |name, group, plural, life| follow(context.clone(), name, Resource::new(group, plural), life);
    tokio::join!(
        of("event", "", "events", event::life),
        of("csr-cleaner", "certificates.k8s.io", "certificatesigningrequests", certificate::life),
        of("token-cleaner", "", "secrets", token::life),
    );
}

/// Follows a kind; `life` says how long an object has at a moment.
async fn follow(
    context: Arc<Context>,
    name: &'static str,
    resource: Resource,
    life: fn(&Value, Timestamp) -> Life,
) {
    let objects = context.cache(&resource.group, &resource.plural);
    objects.synced().await;
    let queue: Arc<WorkQueue<(String, String)>> = WorkQueue::new();
    let own = queue.clone();
    objects.on_change(move |old, new| {
        // A change that makes it live longer is seen when the time is over that an earlier look found out.
        let Some(object) = new else { return };
        let now = Timestamp::now();
        if life(object, now) < old.map_or(Life::Endless, |old| life(old, now)) {
            own.add(namespaced_name(object));
        }
    });
    let api = context.api.clone();
    cirro_client::run(name, queue, 1, context.stop.clone(), move |(namespace, name)| {
        let (api, objects, resource) = (api.clone(), objects.clone(), resource.clone());
        async move {
            let Some(object) = objects.get(&namespace, &name) else { return Ok(Next::Wait) };
            match life(&object, Timestamp::now()) {
                Life::Endless => return Ok(Next::Wait),
                Life::Left(left) => return Ok(Next::After(left)),
                Life::Over => {}
            }
            let options = DeleteOptions { uid: Some(uid(&object).to_owned()), ..DeleteOptions::default() };
            match api.delete(&key_of(&resource, &object), options).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Wait),
            }
        }
    })
    .await;
}

impl Life {
    /// Returns what is left until a moment.
    fn until(end: Timestamp, now: Timestamp) -> Self {
        match Duration::try_from(end.duration_since(now)) {
            Ok(left) if !left.is_zero() => Self::Left(left),
            _ => Self::Over,
        }
    }
}
