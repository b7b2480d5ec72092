//! Conversion of custom objects between their versions by a webhook.
//!
//! ```text
//! stored (any version) ─▶ read ─▶ asked version ─▶ defaults, admission, validation ─▶ storage version ─▶ store
//! ```
//! A kind whose definition names a webhook works in the version that was asked for; objects are converted where they
//! enter and leave the store, many in one question. Nothing is kept between questions. The webhook may change labels
//! and annotations, of the rest of the metadata nothing.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/conversion/webhook_converter.go`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cirro_seams::Pending;
use cirro_seams::api::ApiError;
use cirro_store::{Change, Record};
use serde_json::{Map, Value, json};

use crate::admission::outside::Target;
use crate::error::Causes;
use crate::json;
use crate::record;
use crate::registry::{Kind, Served, join_version};
use crate::storage::Storage;
use crate::validate;

/// How long the webhook may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most objects of one question, and most bytes: the answer is bounded too.
const MAX_OBJECTS: usize = 500;
const MAX_BYTES: usize = 1024 * 1024;

/// What a definition says of its webhook.
pub(crate) struct Conversion {
    /// `apiVersion` of what is stored.
    pub(crate) storage: String,
    target: Target,
    /// The version of the review that both sides know.
    review: Option<&'static str>,
}

impl Conversion {
    /// Reads a definition; `None` when all versions have one form.
    pub(super) fn read(definition: &Value, storage: &str) -> Option<Self> {
        let conversion = &definition["spec"]["conversion"];
        if json::text(conversion, "strategy") != "Webhook" {
            return None;
        }
        let hook = &conversion["webhook"];
        let known =
            |version: &Value| ["v1", "v1beta1"].into_iter().find(|known| version.as_str() == Some(*known));
        Some(Self {
            storage: join_version(json::text(definition, "spec.group"), storage),
            target: Target::read(&hook["clientConfig"], PATIENCE),
            review: json::array(hook, "conversionReviewVersions").iter().find_map(known),
        })
    }

    /// Converts objects, all of which have another version than `wanted`.
    ///
    /// Boxed: finding the webhook reads objects, and reading may convert.
    fn ask<'a>(
        &'a self,
        storage: &'a Storage,
        objects: Vec<Value>,
        wanted: &'a str,
    ) -> Pending<'a, Result<Vec<Value>, ApiError>> {
        Box::pin(self.asked(storage, objects, wanted))
    }

    async fn asked(
        &self,
        storage: &Storage,
        objects: Vec<Value>,
        wanted: &str,
    ) -> Result<Vec<Value>, ApiError> {
        let review = self.review.ok_or_else(|| failed("no supported conversion review versions".into()))?;
        let about = Subject::of(&objects);
        let uid = crate::identity::uid();
        let api_version = format!("apiextensions.k8s.io/{review}");
        let question = json!({"kind": "ConversionReview", "apiVersion": api_version,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
        let answer = self.target.post(storage, &question).await;
        let answer = answer.and_then(|answer| response(answer, review, &uid));
        let converted = answer.map_err(|why| failed(format!("{about} failed: {why}")))?;
        if converted.len() != objects.len() {
            let (got, expected) = (converted.len(), objects.len());
            return Err(failed(format!("{about} returned {got} objects, expected {expected}")));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs.map(|(index, (before, after))| about.checked(index, before, after, wanted)).collect()
    }
}

/// What a question is about, as failures name it.
struct Subject {
    name: String,
    /// Whether it is about more than one object.
    is_list: bool,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "conversion webhook for {}", self.name)
    }
}

impl Subject {
    fn of(objects: &[Value]) -> Self {
        let first = objects.first().unwrap_or(&Value::Null);
        let (version, kind) = (json::text(first, "apiVersion"), json::text(first, "kind"));
        let is_list = objects.len() > 1;
        let list = if is_list { "List" } else { "" };
        Self { name: format!("{version}, Kind={kind}{list}"), is_list }
    }

    /// Checks one answer, and gives it the metadata that it may not change.
    fn checked(&self, index: usize, before: &Value, after: Value, wanted: &str) -> Result<Value, ApiError> {
        let (object, at) = match self.is_list {
            true => ("invalid converted object", format!(" at index {index}")),
            false => ("invalid object", String::new()),
        };
        let place = if self.is_list { at.clone() } else { " at index 0".into() };
        for (what, member, expected) in
            [("groupVersion", "apiVersion", wanted), ("kind", "kind", json::text(before, "kind"))]
        {
            let received = json::text(&after, member);
            if received != expected {
                return Err(failed(format!(
                    "{self} returned {object}{place}: invalid {what} (expected {expected}, received {received})"
                )));
            }
        }
        same_identity(before, &after)
            .map_err(|why| failed(format!("{self} returned {object}{at}: {why}")))?;
        restored(before, after).map_err(|why| {
            let place = if self.is_list { format!(" in object{at}") } else { String::new() };
            failed(format!("{self} returned invalid metadata{place}: {why}"))
        })
    }
}

/// Upstream gives these failures no reason.
fn failed(message: String) -> ApiError {
    ApiError { code: 500, reason: String::new(), message, details: None }
}

/// Returns the objects of an answer.
fn response(mut answer: Value, review: &str, uid: &str) -> Result<Vec<Value>, String> {
    if review == "v1" {
        let (version, kind) = (json::text(&answer, "apiVersion"), json::text(&answer, "kind"));
        if version != "apiextensions.k8s.io/v1" || kind != "ConversionReview" {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {group}/{version}, Kind={kind}"
            ));
        }
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    let given = json::text(response, "uid");
    if review == "v1" && given != uid {
        return Err(format!("expected response.uid={uid:?}, got {given:?}"));
    }
    let status = json::text(response, "result.status");
    if status != "Success" {
        return Err(match json::text(response, "result.message") {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

fn same_identity(before: &Value, after: &Value) -> Result<(), String> {
    for (what, path) in
        [("name", "metadata.name"), ("namespace", "metadata.namespace"), ("UID", "metadata.uid")]
    {
        let (expected, given) = (json::text(before, path), json::text(after, path));
        if expected != given {
            return Err(format!("must have the same {what}: {expected} != {given}"));
        }
    }
    Ok(())
}

/// Returns a converted object with the metadata of what it was made from, all but labels and annotations.
fn restored(before: &Value, mut after: Value) -> Result<Value, String> {
    let given = match after.get("metadata") {
        None => return Err("missing metadata in converted object".into()),
        Some(Value::Object(given)) => given.clone(),
        Some(other) => {
            return Err(format!("invalid metadata of type {} in converted object", go_type(other)));
        }
    };
    let mut metadata = before["metadata"].as_object().cloned().unwrap_or_default();
    for member in ["labels", "annotations"] {
        match given.get(member) {
            None | Some(Value::Null) => drop(metadata.remove(member)),
            Some(Value::Object(texts)) => {
                check_texts(member, texts)?;
                if metadata.get(member).and_then(Value::as_object) != Some(texts) {
                    check_words(member, texts)?;
                }
                metadata.insert(member.into(), Value::Object(texts.clone()));
            }
            Some(other) => {
                return Err(format!(
                    "invalid metadata.{member} of type {} in converted object",
                    go_type(other)
                ));
            }
        }
    }
    after["metadata"] = Value::Object(metadata);
    Ok(after)
}

fn check_texts(member: &str, texts: &Map<String, Value>) -> Result<(), String> {
    match texts.iter().find(|(_, value)| !value.is_string()) {
        Some((key, value)) => Err(format!(
            "metadata.{member}[{key}] must be a string, but is {} in converted object",
            go_type(value)
        )),
        None => Ok(()),
    }
}

fn check_words(member: &str, texts: &Map<String, Value>) -> Result<(), String> {
    let mut causes = Causes::default();
    let object = json!({"metadata": {member: texts}});
    match member {
        "labels" => validate::labels("metadata.labels", object["metadata"].get(member), &mut causes),
        _ => validate::annotations(&object, &mut causes),
    }
    if causes.is_empty() { Ok(()) } else { Err(causes.summary()) }
}

/// Names a type as Go does.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

impl Storage {
    /// Returns an object in a kind's version.
    ///
    /// # Errors
    /// When the webhook fails.
    pub(crate) async fn converted(&self, kind: &Kind, object: Value) -> Result<Value, ApiError> {
        self.converted_to(kind, object, &kind.api_version()).await
    }

    async fn converted_to(&self, kind: &Kind, object: Value, wanted: &str) -> Result<Value, ApiError> {
        match kind.conversion() {
            Some(conversion) if json::text(&object, "apiVersion") != wanted => {
                let mut converted = conversion.ask(self, vec![object], wanted).await?;
                Ok(converted.pop().expect("as many come back as went"))
            }
            _ => Ok(object),
        }
    }

    /// Returns a record's object in a kind's version.
    pub(crate) async fn object_of(&self, kind: &Kind, record: &Record) -> Result<Arc<Value>, ApiError> {
        if kind.conversion().is_none() || record::is_in(record, &kind.kind, &kind.api_version()) {
            return self.decoded.decode(record);
        }
        let object = record::decode(&record.value, record.revision)?;
        Ok(Arc::new(self.converted(kind, object).await?))
    }

    /// Encodes an object for the store, in the version that is stored.
    pub(crate) async fn stored(&self, kind: &Kind, object: &Value) -> Result<Bytes, ApiError> {
        match kind.conversion() {
            Some(conversion) if conversion.storage != kind.api_version() => {
                let converted = self.converted_to(kind, object.clone(), &conversion.storage).await?;
                record::encode(kind, &converted)
            }
            _ => record::encode(kind, object),
        }
    }

    /// Returns records in a kind's version; those of the others are converted, many at a time.
    pub(crate) async fn in_version(
        &self,
        kind: &Kind,
        mut records: Vec<Record>,
    ) -> Result<Vec<Record>, ApiError> {
        let Some(conversion) = kind.conversion() else { return Ok(records) };
        let wanted = kind.api_version();
        let is_other = |record: &Record| !record::is_in(record, &kind.kind, &wanted);
        let others: Vec<usize> = (0..records.len()).filter(|index| is_other(&records[*index])).collect();
        let mut left = others.as_slice();
        while !left.is_empty() {
            let (now, later) = left.split_at(batch(&records, left));
            let decoded =
                now.iter().map(|index| record::decode(&records[*index].value, records[*index].revision));
            let objects = decoded.collect::<Result<Vec<_>, _>>()?;
            for (index, object) in now.iter().zip(conversion.ask(self, objects, &wanted).await?) {
                records[*index].value = object.to_string().into();
            }
            left = later;
        }
        Ok(records)
    }

    /// Returns a change in a kind's version.
    pub(crate) async fn change_in_version(&self, kind: &Kind, change: &Change) -> Result<Change, ApiError> {
        let one = |record: &Record| self.in_version(kind, vec![record.clone()]);
        let only = |mut records: Vec<Record>| records.pop().expect("one went in");
        Ok(match change {
            Change::Put(now, None) => Change::Put(only(one(now).await?), None),
            Change::Put(now, Some(before)) => {
                let mut both = self.in_version(kind, vec![before.clone(), now.clone()]).await?;
                let now = both.pop().expect("two went in");
                Change::Put(now, both.pop())
            }
            Change::Delete(revision, last) => Change::Delete(*revision, only(one(last).await?)),
        })
    }

    /// Decodes a record that is in a kind's version already.
    pub(crate) fn decoded_in(&self, kind: &Kind, record: &Record) -> Result<Arc<Value>, ApiError> {
        match kind.conversion() {
            // What is remembered of a revision is what is stored.
            Some(_) => record::decode(&record.value, record.revision).map(Arc::new),
            None => self.decoded.decode(record),
        }
    }

    /// Returns an object in the form of a served version, whichever it has.
    pub(crate) async fn exported(&self, served: &Served, object: &Value) -> Result<Value, ApiError> {
        match served.kind.conversion() {
            None => Ok(served.export(object).into_owned()),
            Some(_) => {
                let converted = self.converted(&served.kind, object.clone()).await?;
                Ok(served.export(&converted).into_owned())
            }
        }
    }
}

/// Returns how many of the records go into one question.
fn batch(records: &[Record], left: &[usize]) -> usize {
    let mut bytes = 0;
    let fits = left.iter().take(MAX_OBJECTS).take_while(|index| {
        bytes += records[**index].value.len();
        bytes <= MAX_BYTES
    });
    fits.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(version: &str, metadata: Value) -> Value {
        json!({"apiVersion": version, "kind": "Tab", "metadata": metadata})
    }

    fn told(before: Value, after: Value) -> Result<Value, String> {
        let subject = Subject::of(std::slice::from_ref(&before));
        subject.checked(0, &before, after, "x.io/v2").map_err(|refusal| refusal.message)
    }

    #[test]
    fn of_the_metadata_only_labels_and_annotations_change() {
        let before = object(
            "x.io/v1",
            json!({"name": "a", "uid": "1", "finalizers": ["x/y"], "labels": {"a": "b"},
            "annotations": {"gone": "now"}}),
        );
        let after = object(
            "x.io/v2",
            json!({"name": "a", "uid": "1", "finalizers": [], "generation": 7,
            "labels": {"a": "c"}}),
        );
        let expected = json!({"name": "a", "uid": "1", "finalizers": ["x/y"], "labels": {"a": "c"}});
        assert_eq!(told(before, after).unwrap()["metadata"], expected);
    }

    #[test]
    fn wrong_answers_are_told_in_upstreams_words() {
        let before = || object("x.io/v1", json!({"name": "a"}));
        let name = told(before(), object("x.io/v2", json!({"name": "b"}))).unwrap_err();
        assert_eq!(
            name,
            "conversion webhook for x.io/v1, Kind=Tab returned invalid object: must have the same name: a != b"
        );
        let version = told(before(), object("x.io/v3", json!({"name": "a"}))).unwrap_err();
        assert_eq!(
            version,
            "conversion webhook for x.io/v1, Kind=Tab returned invalid object at index 0: invalid groupVersion (expected x.io/v2, received x.io/v3)"
        );
        let label = told(before(), object("x.io/v2", json!({"name": "a", "labels": {"n": 1}}))).unwrap_err();
        assert!(label.ends_with(
            "returned invalid metadata: metadata.labels[n] must be a string, but is int64 in converted object"
        ));
        assert_eq!(
            response(
                json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "response": {"uid": "1", "result": {"status": "Failed"}}}),
                "v1",
                "1"
            ),
            Err("response.result.status was 'Failed', not 'Success'".into())
        );
    }
}
