//! An object as those who follow a kind see it.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use cirro_seams::api::{Head, Packed};
use serde_json::Value;

/// An object that a change is about. It is decoded when more than its head is looked at, once for all who look.
pub struct Object {
    packed: Packed,
    decoded: OnceLock<Arc<Value>>,
}

impl Object {
    pub(crate) fn new(packed: Packed) -> Self {
        Self { packed, decoded: OnceLock::new() }
    }

    /// Returns what needs no decoding.
    pub fn head(&self) -> &Head {
        self.packed.head()
    }

    /// Returns namespace and name.
    pub fn place(&self) -> (String, String) {
        (self.head().namespace.to_string(), self.head().name.to_string())
    }

    /// Returns the string at a JSON pointer, empty when there is none; for those who look at many objects and need
    /// few of them.
    pub fn peek(&self, pointer: &str) -> String {
        match self.decoded.get() {
            Some(object) => crate::text(object, pointer).to_owned(),
            None => self.packed.text(pointer),
        }
    }
}

impl Deref for Object {
    type Target = Value;

    fn deref(&self) -> &Value {
        self.decoded.get_or_init(|| self.packed.decode())
    }
}
