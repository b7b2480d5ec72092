//! The one way of every object into and out of the store.
//!
//! defaults ─▶ preparation ─▶ admission ─▶ allocation ─▶ validation ─▶ checks ─▶ compare-and-put
//!
//! A write looks at the newest state, makes the next one and commits it under the condition that
//! nothing moved meanwhile; when something did, it looks again, unless the client named the
//! resource version that it meant.

use std::ops::RangeInclusive;
use std::sync::Arc;

use cirro_seams::api::{ApiError, DeleteOptions};
use cirro_store::{Condition, ObjectStore, Operation, Record, StoreError, WatchItem};
use ipnet::Ipv4Net;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::admission::Admitted;
use crate::admission::outside::{Attributes, Operation as Write, Outside};
use crate::admission::quota::Gate;
use crate::allocate::{self, Pool};
use crate::audit::Audit;
use crate::custom::{self, Definitions};
use crate::error::{self, Causes};
use crate::fairness::Fairness;
use crate::json;
use crate::managed;
use crate::pki::Pki;
use crate::rbac::Rbac;
use crate::record::{self, DecodeCache};
use crate::registry::{Kind, Registry, Subresource};
use crate::server::Plugin;
use crate::tokens::Tokens;
use crate::validate;

mod batch;
mod delete;
mod list;
mod outside;

pub(crate) use delete::Deletion;
pub(crate) use list::{ListOptions, Page};

/// How often a write looks again before it gives up.
const MAX_ATTEMPTS: usize = 16;

/// Storage of all kinds.
pub(crate) struct Storage {
    pub(crate) store: Arc<dyn ObjectStore>,
    /// The kinds that are built in.
    pub(crate) registry: Registry,
    /// All kinds, those that came at run time too.
    pub(crate) definitions: Definitions,
    pub(crate) decoded: Arc<DecodeCache>,
    pub(crate) rbac: Rbac,
    pub(crate) quotas: Gate,
    pub(crate) fairness: Fairness,
    /// Who asked for what, when that is to be told.
    pub(crate) audit: Option<Arc<Audit>>,
    /// Webhooks and policies.
    pub(crate) outside: Outside,
    pub(crate) tokens: Tokens,
    /// The cloud's authority, where there is one.
    pub(crate) pki: Option<Arc<Pki>>,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) node_ports: RangeInclusive<u16>,
    /// Parts of admission that are left out.
    pub(crate) without_admission: Vec<Plugin>,
}

/// An object that was just made.
pub(crate) struct Created {
    pub(crate) object: Arc<Value>,
    /// What is stored of it, and at which revision; nothing of a dry run.
    pub(crate) record: Option<(bytes::Bytes, u64)>,
}

/// What part of an object a write may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// All but the status.
    Object,
    /// The status.
    Status,
    /// What a subresource of the object's own kind is about.
    Part(Subresource),
    /// Whatever the change says; it is the server's own and is trusted.
    Whole,
}

impl Target {
    /// Returns the subresource that is written; empty when it is the object itself.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Status => Subresource::Status.name(),
            Self::Part(part) => part.name(),
            Self::Object | Self::Whole => "",
        }
    }
}

/// Who says which members a write owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracking {
    /// The storage path: what differs becomes the writer's.
    Difference,
    /// The new state itself, in its `managedFields`: server-side apply.
    Given,
}

/// Name and place of one object.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) kind: &'a Arc<Kind>,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

impl Place<'_> {
    pub(crate) fn key(&self) -> String {
        self.kind.key(self.namespace, self.name)
    }
}

impl Storage {
    fn translate(&self, source: StoreError) -> ApiError {
        error::store(source, self.store.revision())
    }

    /// Returns the newest revision of all servers on this store.
    pub(crate) async fn newest_revision(&self) -> Result<u64, ApiError> {
        self.store.newest_revision().await.map_err(|source| self.translate(source))
    }

    /// Reads one object's record.
    pub(crate) async fn record(&self, place: Place<'_>) -> Result<Record, ApiError> {
        let record = self.store.get(&place.key()).await.map_err(|source| self.translate(source))?;
        record.ok_or_else(|| error::not_found(place.kind, place.name))
    }

    /// Reads one object.
    pub(crate) async fn get(&self, place: Place<'_>) -> Result<Arc<Value>, ApiError> {
        self.object_of(place.kind, &self.record(place).await?).await
    }

    /// Watches a kind for what comes after `revision`.
    pub(crate) async fn watch(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        revision: u64,
    ) -> Result<mpsc::Receiver<WatchItem>, ApiError> {
        let prefix = kind.prefix_in(namespace);
        self.store.watch(&prefix, revision).await.map_err(|source| self.translate(source))
    }

    /// Creates an object. On a dry run everything but the commit is done.
    pub(crate) async fn create(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: Value,
        dry_run: bool,
    ) -> Result<Created, ApiError> {
        self.create_tracked(kind, namespace, object, Tracking::Difference, dry_run).await
    }

    /// Creates an object whose owned members somebody may have said already.
    pub(crate) async fn create_tracked(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: Value,
        tracking: Tracking,
        dry_run: bool,
    ) -> Result<Created, ApiError> {
        let created = self.create_now(kind, namespace, object, tracking, dry_run).await?;
        if !dry_run {
            self.settled(kind, &created.object).await;
        }
        Ok(created)
    }

    /// Waits until what a definition defines is served.
    async fn settled(&self, kind: &Kind, object: &Value) {
        if custom::is_definition(kind) {
            let revision = json::text(object, "metadata.resourceVersion").parse();
            self.definitions.reached(revision.unwrap_or(0)).await;
        }
    }

    async fn create_now(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: Value,
        tracking: Tracking,
        dry_run: bool,
    ) -> Result<Created, ApiError> {
        let object = begin_creation(kind, namespace, object, tracking)?;
        for _ in 0..MAX_ATTEMPTS {
            let mut object = object.clone();
            let generated = generate_name(&mut object);
            kind.strategy.named(&mut object);
            let early = self.early_pass(kind, namespace).await?;
            let guard = self.namespace_guard(kind, namespace, json::name(&object)).await?;
            self.admit(kind, namespace, &mut object, None).await?;
            self.mutate_creation(kind, namespace, &mut object, dry_run).await?;
            let (claims, value) = self.complete_creation(kind, &mut object).await?;
            let place = Place { kind, namespace, name: json::name(&object) };
            let admitted = self.check(kind, &object, None).await?;
            let write = Attributes::of(place, Write::Create, Some(&object), None, dry_run);
            self.validate_outside(&write).await?;
            let pass = self.late_pass(early, kind, namespace).await?;
            let admitted = admitted.and(self.charge(&pass, kind, namespace, None, Some(&object)).await?);
            let mut conditions = admitted.conditions;
            conditions.push(Condition::Absent(place.key()));
            conditions.extend(guard);
            conditions.extend(claims.iter().cloned().map(Condition::Absent));
            let mut operations = admitted.operations;
            operations.push(Operation::Put(place.key(), value.clone()));
            operations.extend(claims.into_iter().map(|claim| Operation::Put(claim, place.key().into())));
            if dry_run {
                let object = self.dry_creation(place, &object).await?;
                return Ok(Created { object, record: None });
            }
            match self.store.commit(conditions, operations).await {
                Ok(revision) => {
                    let object = versioned(object, revision);
                    return Ok(Created { object, record: Some((value, revision)) });
                }
                Err(StoreError::Conflict { key, .. }) if key == place.key() => {
                    if !generated {
                        return Err(error::already_exists(kind, place.name));
                    }
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(self.translate(source)),
            }
        }
        Err(error::conflict(kind, json::name(&object), "too many writers at once; please try again"))
    }

    async fn dry_creation(&self, place: Place<'_>, object: &Value) -> Result<Arc<Value>, ApiError> {
        match self.record(place).await {
            Ok(_) => Err(error::already_exists(place.kind, place.name)),
            Err(refusal) if refusal.is_not_found() => Ok(Arc::new(object.clone())),
            Err(refusal) => Err(refusal),
        }
    }

    /// Allocates and validates a new object; returns its claims and its bytes.
    async fn complete_creation(
        &self,
        kind: &Kind,
        object: &mut Value,
    ) -> Result<(Vec<String>, bytes::Bytes), ApiError> {
        let mut causes = Causes::default();
        self.allocate(kind, object, None, &mut causes).await?;
        validate::metadata(kind, object, &mut causes);
        kind.strategy.validate(object, &mut causes);
        if !causes.is_empty() {
            return Err(error::invalid(kind, json::name(object), causes));
        }
        Ok((kind.strategy.claims(object), self.stored(kind, object).await?))
    }

    async fn allocate(
        &self,
        kind: &Kind,
        object: &mut Value,
        old: Option<&Value>,
        causes: &mut Causes,
    ) -> Result<(), ApiError> {
        if !kind.strategy.allocates() {
            return Ok(());
        }
        let claims = self.store.list(allocate::CLAIMS, None, 0, 0).await;
        let claims = claims.map_err(|source| self.translate(source))?;
        let keys = claims.records.iter().map(|record| &*record.key);
        let mut pool = Pool::new(self.service_cidr, self.node_ports.clone(), keys);
        kind.strategy.allocate(object, old, &mut pool, causes);
        Ok(())
    }

    /// Returns the condition that the namespace of a new object is still as it was seen: there, and
    /// not being deleted.
    async fn namespace_guard(
        &self,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Condition>, ApiError> {
        if !kind.namespaced {
            return Ok(None);
        }
        let namespaces = self.registry.kind("", "namespaces").expect("namespaces are built in");
        let record = self.record(Place { kind: namespaces, namespace: "", name: namespace }).await?;
        let object = self.decoded.decode(&record)?;
        if json::at(&object, "metadata.deletionTimestamp").is_some() {
            let what = format!(
                "unable to create new content in namespace {namespace} because it is being terminated"
            );
            let mut refusal = error::forbidden(kind, name, &what);
            if let Some(details) = &mut refusal.details {
                details["causes"] = serde_json::json!([{"reason": "NamespaceTerminating",
                    "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"}]);
            }
            return Err(refusal);
        }
        Ok(Some(Condition::Revision(record.key.to_string(), record.revision)))
    }

    /// Changes an object: `change` makes the next state from the present one and may be called again
    /// when the object moved meanwhile.
    pub(crate) async fn modify(
        &self,
        place: Place<'_>,
        target: Target,
        dry_run: bool,
        change: impl FnMut(&Value) -> Result<Value, ApiError> + Send,
    ) -> Result<Arc<Value>, ApiError> {
        self.modify_tracked(place, target, Tracking::Difference, dry_run, change).await
    }

    /// Changes an object whose owned members `change` may have said already.
    pub(crate) async fn modify_tracked(
        &self,
        place: Place<'_>,
        target: Target,
        tracking: Tracking,
        dry_run: bool,
        change: impl FnMut(&Value) -> Result<Value, ApiError> + Send,
    ) -> Result<Arc<Value>, ApiError> {
        let changed = self.modify_now(place, target, tracking, dry_run, change).await?;
        // The task that follows definitions writes with trust; it cannot wait for itself.
        if !dry_run && target != Target::Whole {
            self.settled(place.kind, &changed).await;
        }
        Ok(changed)
    }

    async fn modify_now(
        &self,
        place: Place<'_>,
        target: Target,
        tracking: Tracking,
        dry_run: bool,
        mut change: impl FnMut(&Value) -> Result<Value, ApiError> + Send,
    ) -> Result<Arc<Value>, ApiError> {
        for _ in 0..MAX_ATTEMPTS {
            let early = self.early_pass(place.kind, place.namespace).await?;
            let record = self.record(place).await?;
            let old = self.object_of(place.kind, &record).await?;
            let mut new = change(&old)?;
            let asked = json::text(&new, "metadata.resourceVersion").to_owned();
            // An update at 0 is one of whatever is there.
            if !matches!(asked.as_str(), "" | "0") && asked != record.revision.to_string() {
                return Err(error::modified(place.kind, place.name));
            }
            let sent = new["metadata"].get("managedFields").cloned();
            carry_over(place.kind, target, &mut new, &old)?;
            let reset = match (tracking, sent) {
                (Tracking::Given, Some(given)) => {
                    new["metadata"]["managedFields"] = given;
                    false
                }
                (_, sent) => managed::restored(&mut new, &old, sent),
            };
            self.complete_update(place, target, &mut new, &old, dry_run).await?;
            if target != Target::Whole {
                let write = Attributes::of(place, Write::Update, Some(&new), Some(&old), dry_run);
                self.validate_outside(&write.on(target)).await?;
            }
            let pass = self.late_pass(early, place.kind, place.namespace).await?;
            let after = (!delete::is_over(place.kind, &new)).then_some(&new);
            let admitted = self.charge(&pass, place.kind, place.namespace, Some(&old), after).await?;
            if new == *old && record::is_current(place.kind, &record.value) {
                return Ok(old);
            }
            if tracking == Tracking::Difference && !reset {
                managed::updated(place.kind, target, &mut new, &old);
            }
            if dry_run {
                return Ok(Arc::new(new));
            }
            let value = self.value_of(place.kind, &new).await?;
            match self.commit_update(place, &record, &old, new, value, admitted).await {
                Ok(done) => return Ok(done),
                Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(self.translate(source)),
            }
        }
        Err(error::modified(place.kind, place.name))
    }

    async fn complete_update(
        &self,
        place: Place<'_>,
        target: Target,
        new: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let kind = place.kind;
        let mut causes = Causes::default();
        if target == Target::Object {
            kind.strategy.defaults(new);
            kind.strategy.prepare_update(new, old);
            self.admit(kind, json::namespace(old), new, Some(old)).await?;
        } else if let Target::Part(part) = target {
            kind.strategy.defaults(new);
            self.admit_part(kind, part, new).await?;
        }
        if target != Target::Whole {
            self.mutate_update(place, target, new, old, dry_run).await?;
        }
        if let Target::Part(part) = target {
            validate::metadata(kind, new, &mut causes);
            kind.strategy.validate_part(part, new, old, &mut causes);
        } else if target == Target::Object {
            self.allocate(kind, new, Some(old), &mut causes).await?;
            validate::metadata(kind, new, &mut causes);
            kind.strategy.validate_change(new, old, &mut causes);
        } else if target == Target::Status && kind.strategy.validates_status() {
            kind.strategy.defaults(new);
            kind.strategy.validate_change(new, old, &mut causes);
        }
        if !causes.is_empty() {
            return Err(error::invalid(kind, json::name(old), causes));
        }
        if matches!(target, Target::Object | Target::Part(_)) {
            self.check(kind, new, Some(old)).await?;
        }
        if kind.strategy.has_generation() && meaning_changed(kind, new, old) {
            let generation = json::number(old, "metadata.generation").unwrap_or(0);
            new["metadata"]["generation"] = (generation + 1).into();
        }
        Ok(())
    }

    /// Returns what is stored of a new state; nothing when it ends the object.
    async fn value_of(&self, kind: &Kind, new: &Value) -> Result<Option<bytes::Bytes>, ApiError> {
        if delete::is_over(kind, new) { Ok(None) } else { self.stored(kind, new).await.map(Some) }
    }

    async fn commit_update(
        &self,
        place: Place<'_>,
        record: &Record,
        old: &Value,
        new: Value,
        value: Option<bytes::Bytes>,
        admitted: Admitted,
    ) -> Result<Arc<Value>, StoreError> {
        let (before, after) = (place.kind.strategy.claims(old), place.kind.strategy.claims(&new));
        let Admitted { mut conditions, mut operations } = admitted;
        conditions.push(Condition::Revision(place.key(), record.revision));
        let gone = value.is_none();
        operations.push(match value {
            None => Operation::Delete(place.key()),
            Some(value) => Operation::Put(place.key(), value),
        });
        for claim in after.iter().filter(|claim| !gone && !before.contains(claim)) {
            conditions.push(Condition::Absent(claim.clone()));
            operations.push(Operation::Put(claim.clone(), place.key().into()));
        }
        let freed = before.into_iter().filter(|claim| gone || !after.contains(claim));
        operations.extend(freed.map(Operation::Delete));
        let revision = self.store.commit(conditions, operations).await?;
        Ok(versioned(new, revision))
    }
}

/// Gives a new object what the server decides: everything that needs no look at the store.
pub(crate) fn begin_creation(
    kind: &Kind,
    namespace: &str,
    mut object: Value,
    tracking: Tracking,
) -> Result<Value, ApiError> {
    if !object.is_object() {
        return Err(error::bad_request("the object is not a JSON object"));
    }
    if kind.custom.as_ref().is_some_and(|custom| custom.ends) {
        return Err(error::creation_ended());
    }
    drop_nulls(kind, &mut object);
    object["apiVersion"] = kind.api_version().into();
    object["kind"] = kind.kind.clone().into();
    let metadata = json::object_mut(&mut object, "metadata");
    let version = metadata.remove("resourceVersion");
    if version.is_some_and(|version| version.as_str().is_some_and(|version| !version.is_empty())) {
        return Err(error::bad_request("resourceVersion should not be set on objects to be created"));
    }
    for member in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(member);
    }
    if tracking == Tracking::Difference {
        metadata.remove("managedFields");
    }
    if kind.namespaced {
        metadata.insert("namespace".into(), namespace.into());
    }
    metadata.insert("uid".into(), crate::identity::uid().into());
    metadata.insert("creationTimestamp".into(), crate::identity::now().into());
    metadata.remove("generation");
    if kind.strategy.has_generation() {
        metadata.insert("generation".into(), 1.into());
    }
    if kind.has(Subresource::Status) && !kind.strategy.keeps_status_at_creation() {
        object.as_object_mut().expect("checked above").remove("status");
    }
    kind.strategy.defaults(&mut object);
    kind.strategy.prepare_create(&mut object);
    if tracking == Tracking::Difference {
        managed::created(kind, &mut object);
    }
    // Upstream's types have a status in any case, and clients read members of it without a look.
    let is_upstreams = !kind.group.contains('.') || kind.group.ends_with(".k8s.io");
    if kind.has(Subresource::Status) && is_upstreams && object.get("status").is_none() {
        object["status"] = Value::Object(Default::default());
    }
    Ok(object)
}

/// Takes out nulls where they mean nothing: everywhere, but in what a schema of its own describes.
pub(crate) fn drop_nulls(kind: &Kind, object: &mut Value) {
    match kind.custom {
        None => json::drop_nulls(object),
        Some(_) => json::drop_nulls(&mut object["metadata"]),
    }
}

/// Makes a name from `generateName` when there is no other; returns whether it did.
fn generate_name(object: &mut Value) -> bool {
    let base = json::text(object, "metadata.generateName");
    if base.is_empty() || !json::name(object).is_empty() {
        return false;
    }
    // 63 less the suffix: the name may become a label's value or a host name.
    let base: String = base.chars().take(58).collect();
    object["metadata"]["name"] = format!("{base}{}", crate::identity::suffix()).into();
    true
}

/// Restores in a new state what its target may not change.
fn carry_over(kind: &Kind, target: Target, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    drop_nulls(kind, new);
    json::object_mut(new, "metadata");
    let (uid, old_uid) = (json::text(new, "metadata.uid"), json::text(old, "metadata.uid"));
    if !uid.is_empty() && uid != old_uid {
        let what = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}");
        return Err(error::conflict(kind, json::name(old), &what));
    }
    if target == Target::Status {
        *new = with_status_of(old, new);
        return Ok(());
    }
    if let Target::Part(part) = target {
        *new = kind.strategy.with_part(part, new, old);
        return Ok(());
    }
    new["apiVersion"] = old["apiVersion"].clone();
    new["kind"] = old["kind"].clone();
    let fixed: &[&str] = match target {
        Target::Whole => &["name", "namespace", "uid", "creationTimestamp", "resourceVersion", "generation"],
        _ => &[
            "name",
            "namespace",
            "uid",
            "creationTimestamp",
            "resourceVersion",
            "generation",
            "generateName",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "managedFields",
            "selfLink",
        ],
    };
    restore(&mut new["metadata"], &old["metadata"], fixed);
    if target == Target::Object && kind.has(Subresource::Status) {
        restore(new, old, &["status"]);
    }
    Ok(())
}

fn restore(new: &mut Value, old: &Value, members: &[&str]) {
    let new = new.as_object_mut().expect("the caller made it one");
    for member in members {
        match old.get(*member) {
            Some(value) => new.insert((*member).to_owned(), value.clone()),
            None => new.remove(*member),
        };
    }
}

/// Returns the old object with the new one's status and annotations (upstream's status strategies
/// let annotations through).
fn with_status_of(old: &Value, new: &Value) -> Value {
    let mut next = old.clone();
    restore(&mut next, new, &["status"]);
    if new["metadata"].get("annotations").is_some() {
        next["metadata"]["annotations"] = new["metadata"]["annotations"].clone();
    }
    next
}

/// Whether something beside metadata and the status that is written apart changed, or the deletion began.
fn meaning_changed(kind: &Kind, new: &Value, old: &Value) -> bool {
    let (Some(new_members), Some(old_members)) = (new.as_object(), old.as_object()) else { return true };
    // A custom kind without the subresource has a member of that name like any other.
    let plain_status = kind.custom.is_some() && !kind.has(Subresource::Status);
    let meaning = |key: &&String| key.as_str() != "metadata" && (plain_status || key.as_str() != "status");
    let mut keys = new_members.keys().chain(old_members.keys()).filter(meaning);
    keys.any(|key| new_members.get(key) != old_members.get(key))
        || json::at(new, "metadata.deletionTimestamp") != json::at(old, "metadata.deletionTimestamp")
}

/// Returns an object as it is after its commit.
fn versioned(mut object: Value, revision: u64) -> Arc<Value> {
    object["metadata"]["resourceVersion"] = revision.to_string().into();
    Arc::new(object)
}
