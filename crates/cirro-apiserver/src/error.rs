//! Refusals in the words and the shape of upstream's `Status`.
//!
//! Everything that goes wrong in the API becomes an [`ApiError`] here and nowhere else; the HTTP side
//! only writes it out.

use cirro_seams::api::ApiError;
use cirro_store::StoreError;
use serde_json::{Value, json};

use crate::registry::Kind;

fn error(code: u16, reason: &str, message: String, details: Option<Value>) -> ApiError {
    ApiError { code, reason: reason.to_owned(), message, details }
}

fn details(kind: &Kind, name: &str) -> Value {
    named(&kind.group, &kind.plural, name)
}

fn named(group: &str, kind: &str, name: &str) -> Value {
    let mut details = json!({"kind": kind});
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !group.is_empty() {
        details["group"] = group.into();
    }
    details
}

pub(crate) fn not_found(kind: &Kind, name: &str) -> ApiError {
    error(404, "NotFound", format!("{} {name:?} not found", kind.resource()), Some(details(kind, name)))
}

/// 404 for a path that names nothing the server has.
pub(crate) fn no_such_path() -> ApiError {
    error(404, "NotFound", "the server could not find the requested resource".into(), Some(json!({})))
}

pub(crate) fn already_exists(kind: &Kind, name: &str) -> ApiError {
    error(
        409,
        "AlreadyExists",
        format!("{} {name:?} already exists", kind.resource()),
        Some(details(kind, name)),
    )
}

pub(crate) fn conflict(kind: &Kind, name: &str, what: &str) -> ApiError {
    error(
        409,
        "Conflict",
        format!("Operation cannot be fulfilled on {} {name:?}: {what}", kind.resource()),
        Some(details(kind, name)),
    )
}

/// 409 for an apply that would change what other managers own.
pub(crate) fn apply_conflict(message: String, causes: Vec<Value>) -> ApiError {
    error(409, "Conflict", message, Some(json!({"causes": causes})))
}

pub(crate) fn modified(kind: &Kind, name: &str) -> ApiError {
    let what = "the object has been modified; please apply your changes to the latest version and try again";
    conflict(kind, name, what)
}

pub(crate) fn forbidden(kind: &Kind, name: &str, what: &str) -> ApiError {
    error(
        403,
        "Forbidden",
        format!("{} {name:?} is forbidden: {what}", kind.resource()),
        Some(details(kind, name)),
    )
}

pub(crate) fn bad_request(message: impl Into<String>) -> ApiError {
    error(400, "BadRequest", message.into(), None)
}

pub(crate) fn unauthorized() -> ApiError {
    error(401, "Unauthorized", "Unauthorized".into(), None)
}

/// 403 for a user who may not do what was asked.
pub(crate) fn refused(message: String, details: Value) -> ApiError {
    error(403, "Forbidden", message, Some(details))
}

pub(crate) fn method_not_allowed() -> ApiError {
    let message = "the server does not allow this method on the requested resource";
    error(405, "MethodNotAllowed", message.into(), Some(json!({})))
}

pub(crate) fn not_acceptable() -> ApiError {
    let message = "only the following media types are accepted: application/json, application/yaml";
    error(406, "NotAcceptable", message.into(), None)
}

pub(crate) fn unsupported_media_type(message: String) -> ApiError {
    error(415, "UnsupportedMediaType", message, None)
}

pub(crate) fn too_large(message: String) -> ApiError {
    error(413, "RequestEntityTooLarge", message, None)
}

pub(crate) fn unprocessable(message: String) -> ApiError {
    error(422, "Invalid", message, None)
}

/// The same with the causes that clients show.
pub(crate) fn unprocessable_with(message: String, details: Value) -> ApiError {
    error(422, "Invalid", message, Some(details))
}
/// Member of the answer that says how a list goes on.
const CONTINUE: &str = "continue";

/// 410 for a revision or a continue token whose history is gone.
pub(crate) fn expired(message: String) -> ApiError {
    error(410, "Expired", message, None)
}

/// 410 for a continue token whose history is gone, with one that goes on in what there is now.
pub(crate) fn expired_page(token: &str) -> ApiError {
    let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";
    error(410, "Expired", message.into(), Some(json!({(CONTINUE): token})))
}

pub(crate) fn internal(message: impl Into<String>) -> ApiError {
    let message = message.into();
    let details = json!({"causes": [{"message": message}]});
    error(500, "InternalError", format!("Internal error occurred: {message}"), Some(details))
}

/// 429 for one who has too many requests waiting.
pub(crate) fn too_many_requests() -> ApiError {
    let message = "too many requests, please try again later";
    error(429, "TooManyRequests", message.into(), Some(json!({"retryAfterSeconds": 1})))
}

/// 503 for a part of the cloud that is not there (yet).
pub(crate) fn unavailable(message: String) -> ApiError {
    error(503, "ServiceUnavailable", message, None)
}

/// 504 for a revision that has not been reached, which clients retry.
pub(crate) fn future_revision(asked: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {asked}, current: {current}");
    let cause = json!({"reason": "ResourceVersionTooLarge", "message": "Too large resource version"});
    error(504, "Timeout", message, Some(json!({"retryAfterSeconds": 1, "causes": [cause]})))
}

/// Translates what the store says where no kind's own meaning applies.
pub(crate) fn store(source: StoreError, current: u64) -> ApiError {
    match source {
        StoreError::Compacted(revision) => {
            expired(format!("too old resource version: {revision} ({current})"))
        }
        StoreError::Future(revision) => future_revision(revision, current),
        StoreError::TooLarge(what) => too_large(what),
        StoreError::Unavailable(what) => unavailable(what),
        other => internal(other.to_string()),
    }
}

/// 405 for objects of a definition that is being deleted.
pub(crate) fn creation_ended() -> ApiError {
    let message = "create not allowed while custom resource definition is terminating";
    error(405, "MethodNotAllowed", message.into(), None)
}

/// 422 with a cause per fault.
pub(crate) fn invalid(kind: &Kind, name: &str, causes: Causes) -> ApiError {
    let words = causes.summary();
    let qualified =
        if kind.group.is_empty() { kind.kind.clone() } else { format!("{}.{}", kind.kind, kind.group) };
    let mut details = named(&kind.group, &kind.kind, name);
    details["causes"] = causes
        .0
        .into_iter()
        .map(|cause| json!({"reason": cause.reason, "message": cause.body, "field": cause.field}))
        .collect();
    error(422, "Invalid", format!("{qualified} {name:?} is invalid: {words}"), Some(details))
}

/// A refusal as the `Status` object that goes over the wire.
pub(crate) fn status(error: &ApiError) -> Value {
    let mut status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": error.message, "reason": error.reason, "code": error.code,
    });
    match &error.details {
        // A token is the only detail that belongs to the answer as a list.
        Some(details) if details.get(CONTINUE).is_some() => {
            status["metadata"] = details.clone();
        }
        Some(details) => status["details"] = details.clone(),
        None => {}
    }
    status
}

/// One fault of an object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    reason: &'static str,
    field: String,
    body: String,
}

/// The faults of an object, gathered so that a person sees all at once.
#[derive(Debug, Default)]
pub(crate) struct Causes(Vec<Cause>);

impl Causes {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns all faults in one line.
    pub(crate) fn summary(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|cause| format!("{}: {}", cause.field, cause.body)).collect();
        match words.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }
    }

    /// Takes over the faults of a value that stands at `field`.
    pub(crate) fn extend_under(&mut self, field: &str, part: Self) {
        let join = |inner: String| match inner.as_str() {
            "" => field.to_owned(),
            inner if inner.starts_with('[') => format!("{field}{inner}"),
            inner => format!("{field}.{inner}"),
        };
        self.0.extend(part.0.into_iter().map(|cause| Cause { field: join(cause.field), ..cause }));
    }

    fn push(&mut self, reason: &'static str, field: &str, body: String) {
        self.0.push(Cause { reason, field: field.to_owned(), body });
    }

    /// Takes over the faults of a part that lies below `prefix`.
    pub(crate) fn extend_at(&mut self, prefix: &str, part: Self) {
        let placed =
            part.0.into_iter().map(|cause| Cause { field: format!("{prefix}{}", cause.field), ..cause });
        self.0.extend(placed);
    }

    pub(crate) fn required(&mut self, field: &str, detail: &str) {
        self.push("FieldValueRequired", field, with_detail("Required value".into(), detail));
    }

    pub(crate) fn invalid(&mut self, field: &str, value: &Value, detail: &str) {
        let body = with_detail(format!("Invalid value: {}", go_value(value)), detail);
        self.push("FieldValueInvalid", field, body);
    }

    pub(crate) fn forbidden(&mut self, field: &str, detail: &str) {
        self.push("FieldValueForbidden", field, with_detail("Forbidden".into(), detail));
    }

    pub(crate) fn duplicate(&mut self, field: &str, value: &Value) {
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {}", go_value(value)));
    }

    pub(crate) fn not_found(&mut self, field: &str, value: &Value) {
        self.push("FieldValueNotFound", field, format!("Not found: {}", go_value(value)));
    }

    pub(crate) fn unsupported(&mut self, field: &str, value: &Value, supported: &[&str]) {
        let supported: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        let body = with_detail(format!("Unsupported value: {}", go_value(value)), &detail);
        self.push("FieldValueNotSupported", field, body);
    }

    /// A value of another type; `found` is the name of its own.
    pub(crate) fn type_invalid(&mut self, field: &str, found: &str, detail: &str) {
        self.push("FieldValueTypeInvalid", field, with_detail(format!("Invalid value: {found:?}"), detail));
    }

    /// A value that rules refuse; it is told by the name of its type.
    pub(crate) fn invalid_text(&mut self, field: &str, kind: &str, detail: &str) {
        self.invalid(field, &kind.into(), detail);
    }

    pub(crate) fn too_many(&mut self, field: &str, count: u64, limit: u64) {
        let detail = format!("must have at most {limit} items");
        self.push("FieldValueTooMany", field, with_detail(format!("Too many: {count}"), &detail));
    }

    pub(crate) fn too_long(&mut self, field: &str, detail: &str) {
        self.push("FieldValueTooLong", field, with_detail("Too long".into(), detail));
    }
}

fn with_detail(body: String, detail: &str) -> String {
    if detail.is_empty() { body } else { format!("{body}: {detail}") }
}

/// Writes a value the way Go's formatting shows it in upstream's messages.
fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Object(map) if map.values().all(Value::is_string) => {
            let members: Vec<_> = map.iter().map(|(key, value)| format!("{key:?}:{value}")).collect();
            format!("map[string]string{{{}}}", members.join(", "))
        }
        other => other.to_string(),
    }
}
