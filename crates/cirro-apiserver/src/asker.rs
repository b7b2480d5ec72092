//! Who asks, for the code under a request; and what it is to be told beside the answer.
//!
//! Writes reach the storage path from requests and from components of this process. A task-local
//! value rather than a parameter: most of the path does not care, and what does (escalation, node
//! restriction, warnings) must not be forgotten by a handler. Without one it is the server itself.

use std::sync::{Arc, Mutex};

use crate::auth::User;

tokio::task_local! {
    static ASKER: Asker;
}

#[derive(Clone)]
struct Asker {
    user: Arc<User>,
    warnings: Arc<Mutex<Vec<String>>>,
}

/// Runs a future as a user's; returns its output and what it warned of.
pub(crate) async fn scope<F: Future>(user: Arc<User>, future: F) -> (F::Output, Vec<String>) {
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let output = ASKER.scope(Asker { user, warnings: warnings.clone() }, future).await;
    let warnings = std::mem::take(&mut *warnings.lock().expect("no panic while it is held"));
    (output, warnings)
}

/// Returns the user whose request runs; `None` is the server itself.
pub(crate) fn current() -> Option<Arc<User>> {
    ASKER.try_with(|asker| asker.user.clone()).ok()
}

/// Tells the one who asks something that does not refuse the request. A write that is tried again says
/// it once.
pub(crate) fn warn(warning: String) {
    let _ = ASKER.try_with(|asker| {
        let mut warnings = asker.warnings.lock().expect("no panic while it is held");
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    });
}
