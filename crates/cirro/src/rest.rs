//! Gives back memory when the cloud has come to rest: what only the start or a burst of work has needed.

use std::time::Duration;

use cirro_engine::Event;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// The cloud rests when for so long nothing has happened to any container, image, network or volume.
const REST: Duration = Duration::from_secs(3);

/// Does so after the start, and after each burst.
pub(crate) async fn keep(mut events: Receiver<Event>, stop: CancellationToken) {
    let rest_and_wait = async {
        loop {
            while tokio::time::timeout(REST, events.recv()).await.is_ok_and(|event| !is_closed(&event)) {}
            cirro_sys::memory::let_go();
            if is_closed(&events.recv().await) {
                return;
            }
        }
    };
    stop.run_until_cancelled(rest_and_wait).await;
}

fn is_closed(event: &Result<Event, RecvError>) -> bool {
    matches!(event, Err(RecvError::Closed))
}
