//! Connections to an object, and writes of a part of it that has a kind of its own: what was sent is told, not the object.
//!
//! Source: apiserver `pkg/endpoints/handlers/rest.go` (`ConnectResource`), and the handlers of each subresource.

use cirro_seams::api::ApiError;
use serde_json::Value;

use super::{Attributes, Operation, is_exempt, webhook};
use crate::registry::Subresource;
use crate::storage::{Place, Storage};

tokio::task_local! {
    static TOLD: ();
}

/// Runs a write that others were told of as the write of a part, so that they are not asked again about the whole.
pub(crate) async fn told<F: Future>(write: F) -> F::Output {
    TOLD.scope((), write).await
}

/// Whether what runs now was told already.
pub(super) fn is_told() -> bool {
    TOLD.try_with(|()| ()).is_ok()
}

/// A write of a part, or a connection.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) place: Place<'a>,
    pub(crate) subresource: Subresource,
    pub(crate) operation: Operation,
    pub(crate) old: Option<&'a Value>,
    pub(crate) dry_run: bool,
}

impl Storage {
    /// Whether anybody is to be asked about any write.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn asks_outside(&self) -> Result<bool, ApiError> {
        Ok(self.configured().await?.is_some())
    }

    /// Lets webhooks change what was sent to a part, then policies and webhooks refuse it; returns what it is now.
    ///
    /// # Errors
    /// The refusal of whichever refuses.
    pub(crate) async fn admit_sent(&self, part: Part<'_>, mut sent: Value) -> Result<Value, ApiError> {
        if is_exempt(part.place.kind) {
            return Ok(sent);
        }
        let Some(configured) = self.configured().await? else { return Ok(sent) };
        let Part { place, subresource, operation, old, dry_run } = part;
        let mut attributes = Attributes::of(place, operation, None, old, dry_run);
        attributes.subresource = subresource.name();
        attributes.speaks = subresource.speaks();
        if !configured.mutating.is_empty() {
            let before = sent.clone();
            let attributes = attributes.with_object(&before);
            webhook::mutate(self, &configured.mutating, &attributes, &mut sent).await?;
        }
        self.refuse(&configured, &attributes.with_object(&sent)).await?;
        Ok(sent)
    }
}
