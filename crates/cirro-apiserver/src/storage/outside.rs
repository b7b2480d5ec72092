//! Webhooks and policies on the way of an object, and the pass that is not held while others are asked.

use super::*;
use crate::admission::quota::Pass;

impl Storage {
    /// Returns the pass of a quota's own write, which nothing may come between.
    pub(super) async fn early_pass(
        &self,
        kind: &Kind,
        namespace: &str,
    ) -> Result<Option<Pass<'_>>, ApiError> {
        if crate::admission::quota::is_quota(kind) {
            self.pass(kind, namespace).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Returns the pass of any other write. It comes late: a webhook may itself write.
    pub(super) async fn late_pass<'a>(
        &'a self,
        early: Option<Pass<'a>>,
        kind: &Kind,
        namespace: &str,
    ) -> Result<Pass<'a>, ApiError> {
        match early {
            Some(pass) => Ok(pass),
            None => self.pass(kind, namespace).await,
        }
    }

    /// Lets webhooks change a new object; what they leave out gets its defaults again.
    pub(super) async fn mutate_creation(
        &self,
        kind: &Arc<Kind>,
        namespace: &str,
        object: &mut Value,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let name = json::name(object).to_owned();
        let write =
            Attributes::of(Place { kind, namespace, name: &name }, Write::Create, None, None, dry_run);
        if let Some(before) = self.mutate(&write, object).await? {
            let fixed = ["name", "namespace", "uid", "creationTimestamp", "generation"];
            restore(&mut object["metadata"], &before["metadata"], &fixed);
            kind.strategy.defaults(object);
        }
        Ok(())
    }

    /// Lets webhooks change the new state of an object.
    pub(super) async fn mutate_update(
        &self,
        place: Place<'_>,
        target: Target,
        new: &mut Value,
        old: &Value,
        dry_run: bool,
    ) -> Result<(), ApiError> {
        let write = Attributes::of(place, Write::Update, None, Some(old), dry_run);
        if let Some(before) = self.mutate(&write.on(target), new).await? {
            carry_over(place.kind, target, new, old)?;
            // Whoever applies has said what he owns.
            restore(&mut new["metadata"], &before["metadata"], &["managedFields"]);
            place.kind.strategy.defaults(new);
        }
        Ok(())
    }
}
