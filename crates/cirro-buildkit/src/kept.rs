//! Contexts that stay from one build to the next, so that a client sends only what changed since.
//!
//! They are known by what a session says of the client's directory (its shared key) and by the directory's name. The
//! files of a context never change once they are here; the next one gets other names of those that it has too.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::Place;

/// Contexts that are kept.
const MAX_KEPT: usize = 16;
/// Bytes of all of them.
const MAX_BYTES: u64 = 4 << 30;

struct Entry {
    key: String,
    place: Arc<dyn Place>,
    bytes: u64,
}

/// The contexts of the last builds, the oldest first.
#[derive(Default)]
pub(crate) struct Kept(Mutex<VecDeque<Entry>>);

impl Kept {
    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was kept under a key.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<dyn Place>> {
        self.lock().iter().find(|entry| entry.key == key).map(|entry| entry.place.clone())
    }

    /// Keeps a context in the place of an earlier one, as far as there is room.
    pub(crate) fn put(&self, key: String, place: Arc<dyn Place>, bytes: u64) {
        let mut entries = self.lock();
        entries.retain(|entry| entry.key != key);
        if bytes > MAX_BYTES {
            return;
        }
        entries.push_back(Entry { key, place, bytes });
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        while entries.len() > MAX_KEPT || total > MAX_BYTES {
            let Some(oldest) = entries.pop_front() else { return };
            total -= oldest.bytes;
        }
    }

    /// Forgets all of them.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use std::any::Any;
    use std::path::Path;

    use super::*;

    struct Nowhere;

    impl Place for Nowhere {
        fn path(&self) -> &Path {
            Path::new("/")
        }

        fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
            self
        }
    }

    #[test]
    fn the_last_contexts_are_kept_as_far_as_there_is_room() {
        let kept = Kept::default();
        let put = |key: &str, bytes| kept.put(key.to_owned(), Arc::new(Nowhere), bytes);
        let keys = || kept.lock().iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
        (0..MAX_KEPT + 2).for_each(|number| put(&number.to_string(), 1));
        assert_eq!((keys().len(), keys()[0].as_str()), (MAX_KEPT, "2"));
        put("2", MAX_BYTES - 3);
        assert_eq!(keys().len(), 4, "room for three others");
        put("2", MAX_BYTES + 1);
        assert!(kept.get("2").is_none() && kept.get("17").is_some());
        kept.clear();
        assert!(kept.get("17").is_none());
    }
}
