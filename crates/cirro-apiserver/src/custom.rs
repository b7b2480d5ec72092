//! Kinds that arrive at run time: what a CustomResourceDefinition becomes.
//!
//! ```text
//! definition written ─▶ follow ─▶ names (who may have which) ─▶ build (a kind per served version) ─▶ registry
//!                          └▶ clean (a deleted definition takes its objects with it)
//! ```
//! `kinds::definition` checks the definition itself, `structural` walks its schema beside each object.

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::json;
use crate::jsonpath::JsonPath;
use crate::registry::Kind;
use crate::schema::{self, Checked};
use crate::structural;

mod build;
mod clean;
mod convert;
mod follow;
mod names;
mod publish;
mod rules;
mod types;

pub(crate) use build::by_priority;
pub(crate) use clean::begin as begin_end;
pub(crate) use convert::Conversion;
pub(crate) use follow::Definitions;
pub(crate) use names::set_condition;
pub(crate) use publish::{published, tag_of};
pub(crate) use types::METADATA;

/// Group of definitions.
pub(crate) const GROUP: &str = "apiextensions.k8s.io";
/// Plural of definitions.
pub(crate) const PLURAL: &str = "customresourcedefinitions";
/// Keeps a deleted definition until its objects are gone.
pub(crate) const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Whether a kind is that of definitions.
pub(crate) fn is_definition(kind: &Kind) -> bool {
    kind.group == GROUP && kind.plural == PLURAL
}

/// What a definition says of one version.
pub(crate) struct CustomVersion {
    /// Its structural schema.
    pub(crate) schema: Value,
    pub(crate) scale: Option<ScalePaths>,
    /// Sent as a warning with every answer.
    pub(crate) deprecation: Option<String>,
    /// Whether the definition is being deleted: nothing new is made.
    pub(crate) ends: bool,
    /// The webhook that converts between versions, when the definition names one.
    pub(crate) conversion: Option<Conversion>,
    /// Cancelled when the definition changes or goes: watches end with it.
    pub(crate) replaced: CancellationToken,
    /// Changes when the definition does.
    pub(crate) tag: String,
}

impl CustomVersion {
    /// Brings an object that was stored under another schema into the form of this one.
    pub(crate) fn complete(&self, object: &mut Value) {
        structural::prune(&self.schema, object);
        structural::fill(&self.schema, object);
    }
}

/// Takes out of an object what its schema does not name, and says what that was.
pub(crate) fn check(custom: &CustomVersion, object: &mut Value) -> Checked {
    let mut checked = match object.get_mut("metadata") {
        Some(metadata) if metadata.is_object() => schema::check(types::METADATA, metadata),
        _ => Checked::default(),
    };
    checked.unknown.iter_mut().for_each(|path| path.insert_str(0, "metadata."));
    checked.unknown.extend(structural::prune(&custom.schema, object));
    checked
}

/// Where the numbers of a scale are.
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: Vec<String>,
    pub(crate) status_replicas: Vec<String>,
    /// A text, the selector of the pods that are counted.
    pub(crate) selector: Option<Vec<String>>,
}

impl ScalePaths {
    fn read(scale: &Value) -> Option<Self> {
        Some(Self {
            spec_replicas: members(json::text(scale, "specReplicasPath"))?,
            status_replicas: members(json::text(scale, "statusReplicasPath"))?,
            selector: members(json::text(scale, "labelSelectorPath")),
        })
    }
}

/// Returns the members that a path names, when it names nothing else.
pub(crate) fn members(path: &str) -> Option<Vec<String>> {
    let path = JsonPath::parse(path).ok()?;
    let members = path.members()?;
    (!members.is_empty()).then(|| members.into_iter().map(str::to_owned).collect())
}

/// Returns what is at the end of members.
pub(crate) fn follow_members<'a>(object: &'a Value, members: &[String]) -> Option<&'a Value> {
    members.iter().try_fold(object, |object, member| object.get(member))
}
