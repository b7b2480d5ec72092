//! The rules of custom objects: their schema.

use serde_json::Value;

use crate::error::Causes;
use crate::registry::Strategy;
use crate::structural;

/// The rules of one version of a definition.
pub(super) struct CustomRules {
    schema: Value,
    /// The rules in CEL, when there are some.
    rules: Option<structural::Rules>,
}

impl CustomRules {
    pub(super) fn new(schema: &Value) -> Self {
        Self { schema: schema.clone(), rules: structural::Rules::compile(schema) }
    }

    /// Rules see only what has the form that the schema wants.
    fn check(&self, object: &Value, old: Option<&Value>, causes: &mut Causes) {
        structural::validate(&self.schema, object, old, causes);
        if let Some(rules) = self.rules.as_ref().filter(|_| causes.is_empty()) {
            rules.run(object, old, causes);
        }
    }
}

impl Strategy for CustomRules {
    fn has_generation(&self) -> bool {
        true
    }

    fn validates_status(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        structural::fill(&self.schema, object);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        self.check(object, None, causes);
    }

    fn validate_change(&self, object: &Value, old: &Value, causes: &mut Causes) {
        self.check(object, Some(old), causes);
    }
}
