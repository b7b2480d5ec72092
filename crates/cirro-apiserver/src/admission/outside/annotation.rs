//! What a policy tells the audit log of each write that it is about.
//!
//! Source: apiserver `pkg/admission/plugin/policy/validating/dispatcher.go`, `validator.go`.

use serde_json::Value;

use super::policy::compile_fault;
use crate::asker;
use crate::cel::{Budget, Cel, Program, Scope};
use crate::error::Causes;
use crate::json;
use crate::validate::names;

/// At most so many annotations may a policy have.
const MAX_ANNOTATIONS: usize = 20;
/// Longest value of one.
const MAX_VALUE: usize = 10 * 1024;

/// An annotation.
pub(super) struct Annotation {
    key: String,
    program: Result<Program, String>,
    text: String,
}

impl Annotation {
    /// Reads the annotations of a policy.
    pub(super) fn read(spec: &Value) -> Vec<Self> {
        let read = |one: &Value| {
            let text = json::text(one, "valueExpression").trim().to_owned();
            Self { key: json::text(one, "key").to_owned(), program: Program::parse(&text), text }
        };
        json::array(spec, "auditAnnotations").iter().map(read).collect()
    }

    /// Tells its value, if it has one.
    ///
    /// # Errors
    /// When it cannot be evaluated.
    pub(super) fn tell(&self, policy: &str, scope: &Scope<'_>, budget: &mut Budget) -> Result<(), String> {
        let failed =
            |why: &dyn std::fmt::Display| format!("expression '{}' resulted in error: {why}", self.text);
        let value = match &self.program {
            Ok(program) => program.run(scope, budget).map_err(|why| failed(&why))?,
            Err(why) => return Err(failed(why)),
        };
        match value {
            Cel::Null => {}
            Cel::Text(text) if text.trim().is_empty() => {}
            Cel::Text(text) => {
                let end = text.floor_char_boundary(MAX_VALUE);
                asker::annotate_also(&format!("{policy}/{}", self.key), text[..end].trim());
            }
            other => {
                return Err(format!(
                    "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                    self.text,
                    other.type_name()
                ));
            }
        }
        Ok(())
    }
}

/// Checks the annotations of a policy that is written.
pub(crate) fn annotation_faults(policy: &Value, causes: &mut Causes) {
    let list = json::array(policy, "spec.auditAnnotations");
    if list.len() > MAX_ANNOTATIONS {
        let detail = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        causes.invalid("spec.auditAnnotations", &policy["spec"]["auditAnnotations"], &detail);
    }
    for (index, one) in list.iter().enumerate() {
        let field = format!("spec.auditAnnotations[{index}]");
        let key = json::text(one, "key");
        if key.is_empty() {
            causes.required(&format!("{field}.key"), "");
        } else if let Err(why) = names::qualified_name(&format!("{}/{key}", json::name(policy))) {
            causes.invalid(&format!("{field}.key"), &key.into(), &why);
        }
        if list[..index].iter().any(|other| json::text(other, "key") == key) {
            causes.duplicate(&format!("{field}.key"), &key.into());
        }
        let text = json::text(one, "valueExpression");
        let at = format!("{field}.valueExpression");
        if text.trim().is_empty() {
            causes.required(&at, "valueExpression is not specified");
        } else {
            compile_fault(&at, text, causes);
        }
    }
}
