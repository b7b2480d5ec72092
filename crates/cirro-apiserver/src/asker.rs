//! Who asks, for the code under a request; and what it is to be told beside the answer.
//!
//! Writes reach the storage path from requests and from components of this process. A task-local
//! value rather than a parameter: most of the path does not care, and what does (escalation, node
//! restriction, warnings) must not be forgotten by a handler. Without one it is the server itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::auth::User;

tokio::task_local! {
    static ASKER: Asker;
}

#[derive(Clone)]
struct Asker {
    user: Arc<User>,
    said: Arc<Mutex<Said>>,
}

/// What came beside the answer.
#[derive(Default)]
pub(crate) struct Said {
    /// For the client.
    pub(crate) warnings: Vec<String>,
    /// For the audit log.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// Runs a future as a user's; returns its output and what was said beside it.
pub(crate) async fn scope<F: Future>(user: Arc<User>, future: F) -> (F::Output, Said) {
    let said = Arc::new(Mutex::new(Said::default()));
    let output = ASKER.scope(Asker { user, said: said.clone() }, future).await;
    let said = std::mem::take(&mut *said.lock().expect("no panic while it is held"));
    (output, said)
}

/// Notes something for the audit log.
pub(crate) fn annotate(key: &str, value: String) {
    let _ = ASKER.try_with(|asker| {
        asker.said.lock().expect("no panic while it is held").annotations.insert(key.to_owned(), value);
    });
}

/// Notes something for the audit log beside what was noted under the same key.
pub(crate) fn annotate_also(key: &str, value: &str) {
    let _ = ASKER.try_with(|asker| {
        let mut said = asker.said.lock().expect("no panic while it is held");
        let noted = said.annotations.entry(key.to_owned()).or_default();
        if noted.is_empty() {
            value.clone_into(noted);
        } else if !noted.split(", ").any(|one| one == value) {
            noted.push_str(", ");
            noted.push_str(value);
        }
    });
}

/// Returns the user whose request runs; `None` is the server itself.
pub(crate) fn current() -> Option<Arc<User>> {
    ASKER.try_with(|asker| asker.user.clone()).ok()
}

/// Notes for the audit log that a policy would have refused a write.
pub(crate) fn annotate_failure(failure: serde_json::Value) {
    const KEY: &str = "validation.policy.admission.k8s.io/validation_failure";
    let _ = ASKER.try_with(|asker| {
        let mut said = asker.said.lock().expect("no panic while it is held");
        let before = said.annotations.get(KEY).and_then(|text| serde_json::from_str(text).ok());
        let mut all: Vec<serde_json::Value> = before.unwrap_or_default();
        if !all.contains(&failure) {
            all.push(failure);
        }
        said.annotations.insert(KEY.into(), serde_json::Value::Array(all).to_string());
    });
}

/// Tells the one who asks something that does not refuse the request. A write that is tried again says
/// it once.
pub(crate) fn warn(warning: String) {
    let _ = ASKER.try_with(|asker| {
        let mut said = asker.said.lock().expect("no panic while it is held");
        if !said.warnings.contains(&warning) {
            said.warnings.push(warning);
        }
    });
}
