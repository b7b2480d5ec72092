//! Deletion: preconditions, grace, finalizers, propagation.

use super::*;

/// What a deletion came to.
pub(crate) enum Deletion {
    /// The object is gone; its last state.
    Done(Arc<Value>),
    /// The object is marked and goes when its grace or its finalizers end.
    Begun(Arc<Value>),
}

/// Whether nothing keeps an object whose deletion began.
pub(super) fn is_over(kind: &Kind, object: &Value) -> bool {
    json::at(object, "metadata.deletionTimestamp").is_some()
        && json::number(object, "metadata.deletionGracePeriodSeconds").unwrap_or(0) == 0
        && json::array(object, "metadata.finalizers").is_empty()
        && !kind.strategy.kept_by(object)
}

impl Storage {
    /// Deletes an object, or begins to.
    pub(crate) async fn delete(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Deletion, ApiError> {
        let deletion = self.delete_now(place, options, dry_run).await?;
        if let (Deletion::Begun(object), false) = (&deletion, dry_run) {
            self.settled(place.kind, object).await;
        }
        Ok(deletion)
    }

    async fn delete_now(
        &self,
        place: Place<'_>,
        options: &DeleteOptions,
        dry_run: bool,
    ) -> Result<Deletion, ApiError> {
        for _ in 0..MAX_ATTEMPTS {
            let early = self.early_pass(place.kind, place.namespace).await?;
            let record = self.record(place).await?;
            let old = self.object_of(place.kind, &record).await?;
            check_preconditions(place, options, &record, &old)?;
            if place.kind.strategy.is_immortal(place.name) {
                let why = "this namespace may not be deleted";
                return Err(error::forbidden(place.kind, place.name, why));
            }
            self.validate_outside(&Attributes::of(place, Write::Delete, None, Some(&old), dry_run)).await?;
            let pass = self.late_pass(early, place.kind, place.namespace).await?;
            let new = marked(place.kind, &old, options)?;
            let over = is_over(place.kind, &new);
            if dry_run {
                return Ok(if over { Deletion::Done(old) } else { Deletion::Begun(Arc::new(new)) });
            }
            if !over && new == *old {
                return Ok(Deletion::Begun(old));
            }
            // A last state with a deletion timestamp is what watchers of graceful kinds expect, and
            // nothing else saw it.
            let after = (!over).then_some(&new);
            let admitted = self.charge(&pass, place.kind, place.namespace, Some(&old), after).await?;
            let value = self.value_of(place.kind, &new).await?;
            match self.commit_update(place, &record, &old, new, value, admitted).await {
                Ok(last) if over => return Ok(Deletion::Done(last)),
                Ok(marked) => return Ok(Deletion::Begun(marked)),
                Err(StoreError::Conflict { .. }) => {}
                Err(source) => return Err(self.translate(source)),
            }
        }
        Err(error::modified(place.kind, place.name))
    }
}

fn check_preconditions(
    place: Place<'_>,
    options: &DeleteOptions,
    record: &Record,
    old: &Value,
) -> Result<(), ApiError> {
    let uid = json::text(old, "metadata.uid");
    if let Some(asked) = options.uid.as_deref().filter(|asked| *asked != uid) {
        let what = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {uid}");
        return Err(error::conflict(place.kind, place.name, &what));
    }
    let revision = record.revision.to_string();
    if let Some(asked) = options.resource_version.as_deref().filter(|asked| *asked != revision) {
        let what = format!(
            "Precondition failed: ResourceVersion in precondition: {asked}, ResourceVersion in object meta: {revision}"
        );
        return Err(error::conflict(place.kind, place.name, &what));
    }
    Ok(())
}

/// Returns an object with its deletion begun.
fn marked(kind: &Kind, old: &Value, options: &DeleteOptions) -> Result<Value, ApiError> {
    let mut new = old.clone();
    propagate(&mut new, options)?;
    let grace = kind.strategy.grace(old, options).unwrap_or(0).max(0);
    let begun = json::at(old, "metadata.deletionTimestamp").is_some();
    let left = json::number(old, "metadata.deletionGracePeriodSeconds").unwrap_or(0);
    // A deletion may be hastened, never slowed down.
    if begun && grace >= left {
        return Ok(new);
    }
    let at = jiff::Timestamp::now().saturating_add(jiff::SignedDuration::from_secs(grace));
    let at = at.map_err(|source| error::bad_request(source.to_string()))?;
    new["metadata"]["deletionTimestamp"] = crate::identity::seconds(at).into();
    new["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    if !begun {
        kind.strategy.begin_deletion(&mut new);
    }
    if kind.strategy.has_generation() && !begun {
        let generation = json::number(old, "metadata.generation").unwrap_or(0);
        new["metadata"]["generation"] = (generation + 1).into();
    }
    Ok(new)
}

/// Notes for the garbage collector what becomes of the dependents.
fn propagate(object: &mut Value, options: &DeleteOptions) -> Result<(), ApiError> {
    let wanted = match options.propagation_policy.as_deref() {
        None => return Ok(()),
        Some("Background") => None,
        Some("Orphan") => Some("orphan"),
        Some("Foreground") => Some("foregroundDeletion"),
        Some(other) => {
            return Err(error::unprocessable(format!(
                "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
            )));
        }
    };
    let present = json::array(object, "metadata.finalizers");
    let others = |one: &&Value| *one != "orphan" && *one != "foregroundDeletion";
    let mut finalizers: Vec<Value> = present.iter().filter(others).cloned().collect();
    finalizers.extend(wanted.map(Value::from));
    let metadata = json::object_mut(object, "metadata");
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), finalizers.into());
    }
    Ok(())
}
