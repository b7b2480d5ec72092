//! Who asks, for the code under a request.
//!
//! Writes reach the storage path from requests and from components of this process. A task-local
//! value rather than a parameter: most of the path does not care, and what does (escalation, node
//! restriction, webhooks) must not be forgotten by a handler. Without one it is the server itself.

use std::sync::Arc;

use crate::auth::User;

tokio::task_local! {
    static ASKER: Arc<User>;
}

/// Runs a future as a user's.
pub(crate) async fn scope<F: Future>(user: Arc<User>, future: F) -> F::Output {
    ASKER.scope(user, future).await
}

/// Returns the user whose request runs; `None` is the server itself.
pub(crate) fn current() -> Option<Arc<User>> {
    ASKER.try_with(Arc::clone).ok()
}
