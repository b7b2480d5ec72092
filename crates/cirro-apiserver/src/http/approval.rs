//! The subresource `approval` of signing requests.

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use cirro_seams::api::ApiError;
use serde_json::Value;

use super::Call;
use super::write::Patch;
use crate::certificates;
use crate::registry::Subresource;
use crate::storage::Target;

impl Call {
    /// Replaces or patches the conditions of a request; an approval issues its certificate.
    pub(super) async fn approve(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let mut answer = self.answer();
        let storage = &self.server.storage;
        storage.check_signer(self.place(), "approve").await?;
        let dry_run = self.query.dry_run()?;
        let kind = &self.served.kind;
        let pki = storage.pki.as_deref();
        let updated = if request.method() == Method::PATCH {
            let patch = Patch::read(request).await?;
            let mut warnings = Vec::new();
            let mut ignored = Vec::new();
            let told = |old: &Value| {
                certificates::approved(kind, old, &self.patched(&patch, old, &mut ignored)?, None)
            };
            self.admit_change(Subresource::Approval, told).await?;
            let change = |old: &Value| {
                warnings.clear();
                let wanted = self.patched(&patch, old, &mut warnings)?;
                certificates::approved(kind, old, &wanted, pki)
            };
            storage.modify(self.place(), Target::Whole, dry_run, change).await?
        } else {
            let wanted = self.read_object(request, &mut answer.warnings).await?;
            self.check_name(&wanted)?;
            let told = |old: &Value| certificates::approved(kind, old, &wanted, None);
            self.admit_change(Subresource::Approval, told).await?;
            let change = |old: &Value| certificates::approved(kind, old, &wanted, pki);
            storage.modify(self.place(), Target::Whole, dry_run, change).await?
        };
        answer.object(StatusCode::OK, &updated)
    }
}
