//! Entries for fuzzing (`crates/cirro-fuzz`): whatever the text is, nothing panics.

use serde_json::Value;

use crate::containers::create::translate;
use crate::filters::Filters;

/// Reads the `filters` parameter.
pub fn filters(text: &str) {
    if let Ok(filters) = Filters::parse(text) {
        let _ = filters.any("label", |value| value.is_empty());
        let _ = filters.switch("dangling");
    }
}

/// Translates a request to make a container.
pub fn create(bytes: &[u8]) {
    if let Ok(document) = serde_json::from_slice::<Value>(bytes) {
        let _ = translate(None, document, || None);
    }
}
