//! Create, update, patch, and the subresources that write.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, Response, StatusCode};
use bytes::Bytes;
use cirro_seams::api::ApiError;
use http_body_util::{BodyExt as _, Limited};
use serde_json::{Value, json};

use super::query::FieldValidation;
use super::{Call, negotiate};
use crate::custom;
use crate::decode::{self, Decoded, MAX_BODY};
use crate::error;
use crate::json;
use crate::patch;
use crate::registry::{Asker, Subresource};
use crate::schema::{self, Checked};
use crate::storage::Target;

/// Returns the refusal of a body above the limit.
pub(super) fn body_too_large() -> ApiError {
    error::too_large(format!("Request entity too large: limit is {MAX_BODY}"))
}

/// Reads a whole body within the limit.
pub(super) async fn read_body(request: Request<Body>) -> Result<(String, Bytes), ApiError> {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = media_type.unwrap_or_default().to_owned();
    match Limited::new(request.into_body(), MAX_BODY).collect().await {
        Ok(collected) => Ok((media_type, collected.to_bytes())),
        Err(why) if why.is::<http_body_util::LengthLimitError>() => Err(body_too_large()),
        Err(why) => Err(error::bad_request(format!("error reading the body: {why}"))),
    }
}

impl Call {
    /// Creates an object.
    pub(super) async fn create(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let mut answer = self.answer();
        let object = self.read_object(request, &mut answer.warnings).await?;
        self.check_namespace(&object)?;
        if self.served.kind.namespaced && self.path.namespace.is_none() {
            return Err(error::method_not_allowed());
        }
        let object = self.served.import(object);
        let dry_run = self.query.dry_run()?;
        let kind = &self.served.kind;
        let created = self.server.storage.create(kind, self.namespace(), object, dry_run).await?;
        answer.warnings.extend(kind.strategy.warnings(&created.object));
        answer.created(&created)
    }

    /// Answers a kind that is not kept.
    pub(super) async fn review(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        negotiate::plain(request.headers())?;
        let mut answer = self.answer();
        let object = self.read_object(request, &mut answer.warnings).await?;
        self.check_namespace(&object)?;
        if self.served.kind.namespaced && self.path.namespace.is_none() {
            return Err(error::method_not_allowed());
        }
        let kind = &self.served.kind;
        let asker = Asker { server: &self.server, user: &self.user, kind, namespace: self.namespace() };
        let object = kind.strategy.answer(object, asker).await?;
        Ok(answer.foreign(StatusCode::CREATED, &object))
    }

    /// Replaces an object or its status.
    pub(super) async fn update(
        &self,
        subresource: Option<Subresource>,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let mut answer = self.answer();
        let object = self.read_object(request, &mut answer.warnings).await?;
        self.check_namespace(&object)?;
        self.check_name(&object)?;
        let object = self.served.import(object);
        let (target, dry_run) = (target(subresource), self.query.dry_run()?);
        let change = |_: &Value| Ok(object.clone());
        let updated = self.server.storage.modify(self.place(), target, dry_run, change).await?;
        answer.object(StatusCode::OK, &updated)
    }

    /// Patches an object or its status.
    pub(super) async fn patch(
        &self,
        subresource: Option<Subresource>,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        if super::apply::is_apply(&request) {
            return self.apply(subresource, request).await;
        }
        if !self.query.get("force").is_empty() {
            return Err(error::unprocessable(
                "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch".into(),
            ));
        }
        let mut answer = self.answer();
        let patch = Patch::read(request).await?;
        if self.served.kind.custom.is_some() {
            patch.refuse_strategic()?;
        }
        let (target, dry_run) = (target(subresource), self.query.dry_run()?);
        let mut warnings = Vec::new();
        let change = |old: &Value| {
            warnings.clear();
            self.patched(&patch, old, &mut warnings)
        };
        let updated = self.server.storage.modify(self.place(), target, dry_run, change).await?;
        answer.warnings.extend(warnings);
        answer.object(StatusCode::OK, &updated)
    }

    pub(super) fn patched(
        &self,
        patch: &Patch,
        old: &Value,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let old = self.served.export(old);
        let mut new = patch.apply(self.served.schema(), &old)?;
        for member in ["apiVersion", "kind"] {
            if new[member] != old[member] {
                let what = format!("the {member} of the patched object must be {}", old[member]);
                return Err(error::bad_request(what));
            }
        }
        self.check_name(&new)?;
        let checked = self.checked(&mut new);
        if let (PatchKind::Strategic, Some(why)) = (&patch.kind, &checked.unrestorable) {
            return Err(patch::unrestorable(&patch.value, why));
        }
        self.judge(checked, &patch.duplicates, warnings)?;
        Ok(self.served.import(new))
    }

    /// Binds a pod to a node.
    pub(super) async fn bind(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (media_type, body) = read_body(request).await?;
        let binding = decode::decode(&media_type, &body)?.value;
        crate::binding::bind(&self.server.storage, self.place(), &binding, self.query.dry_run()?).await?;
        Ok(self.answer().foreign(StatusCode::CREATED, &success(json!({}))))
    }

    /// Makes a token of a service account.
    pub(super) async fn token(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (media_type, body) = read_body(request).await?;
        let asked = decode::decode(&media_type, &body)?.value;
        self.server.storage.restrict_token(self.place(), &asked).await?;
        let asked = self.admit_token(asked).await?;
        let made = self.server.storage.request_token(self.place(), asked).await?;
        Ok(self.answer().foreign(StatusCode::CREATED, &made))
    }

    /// Replaces the finalizers in a namespace's spec.
    pub(super) async fn finalize(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let mut answer = self.answer();
        let object = self.read_object(request, &mut answer.warnings).await?;
        self.check_name(&object)?;
        let change = |old: &Value| {
            let mut new = old.clone();
            new["spec"]["finalizers"] = json::array(&object, "spec.finalizers").to_vec().into();
            new["metadata"]["resourceVersion"] = object["metadata"]["resourceVersion"].clone();
            Ok(new)
        };
        self.admit_change(Subresource::Finalize, change).await?;
        let dry_run = self.query.dry_run()?;
        let updated = self.server.storage.modify(self.place(), Target::Whole, dry_run, change).await?;
        answer.object(StatusCode::OK, &updated)
    }

    /// Reads, checks and returns the object in a body, in the request's version.
    pub(super) async fn read_object(
        &self,
        request: Request<Body>,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let (media_type, body) = read_body(request).await?;
        let Decoded { mut value, duplicates } = decode::decode(&media_type, &body)?;
        if !value.is_object() {
            return Err(error::bad_request("the body is not an object"));
        }
        self.check_identity(&mut value)?;
        self.check_schema(&mut value, &duplicates, warnings)?;
        Ok(value)
    }

    /// Refuses an object of another version or kind than the path's; absent members are filled in.
    pub(super) fn check_identity(&self, object: &mut Value) -> Result<(), ApiError> {
        let wanted = self.served.api_version();
        for (member, wanted, what) in
            [("apiVersion", wanted.as_str(), "API version"), ("kind", &self.served.kind.kind, "kind")]
        {
            let given = json::text(object, member);
            if given.is_empty() {
                object[member] = wanted.into();
            } else if given != wanted {
                let message =
                    format!("the {what} in the data ({given}) does not match the expected {what} ({wanted})");
                return Err(error::bad_request(message));
            }
        }
        Ok(())
    }

    /// Checks an object against its schema, as the client asked.
    pub(super) fn check_schema(
        &self,
        object: &mut Value,
        duplicates: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let checked = self.checked(object);
        self.judge(checked, duplicates, warnings)
    }

    fn checked(&self, object: &mut Value) -> Checked {
        match &self.served.kind.custom {
            Some(custom) => custom::check(custom, object),
            None => schema::check(self.served.schema(), object),
        }
    }

    fn judge(
        &self,
        checked: Checked,
        duplicates: &[String],
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if let Some(mismatch) = checked.mismatch {
            let (kind, version) = (&self.served.kind.kind, self.served.version());
            return Err(error::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {mismatch}"
            )));
        }
        let unknown = checked.unknown.iter().map(|path| format!("unknown field {path:?}"));
        let faults: Vec<_> =
            duplicates.iter().map(|path| format!("duplicate field {path:?}")).chain(unknown).collect();
        match self.query.field_validation()? {
            FieldValidation::Strict if !faults.is_empty() => {
                let (kind, version) = (&self.served.kind.kind, self.served.version());
                let faults = faults.join(", ");
                Err(error::bad_request(format!(
                    "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {faults}"
                )))
            }
            FieldValidation::Warn => {
                warnings.extend(faults);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_namespace(&self, object: &Value) -> Result<(), ApiError> {
        let given = json::namespace(object);
        if self.served.kind.namespaced && !given.is_empty() && given != self.namespace() {
            let what =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(error::bad_request(what));
        }
        Ok(())
    }

    pub(super) fn check_name(&self, object: &Value) -> Result<(), ApiError> {
        let (given, wanted) = (json::name(object), self.place().name);
        if given == wanted {
            return Ok(());
        }
        let what = if given.is_empty() {
            "name must be provided".to_owned()
        } else {
            format!("the name of the object ({given}) does not match the name on the URL ({wanted})")
        };
        Err(error::bad_request(what))
    }
}

pub(super) fn target(subresource: Option<Subresource>) -> Target {
    match subresource {
        Some(Subresource::Status) => Target::Status,
        Some(part @ (Subresource::EphemeralContainers | Subresource::Resize)) => Target::Part(part),
        _ => Target::Object,
    }
}

/// Returns the `Status` of a success.
pub(super) fn success(details: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// A patch by its media type.
pub(super) struct Patch {
    kind: PatchKind,
    value: Value,
    duplicates: Vec<String>,
}

enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl Patch {
    /// Reads the patch of a request.
    pub(super) async fn read(request: Request<Body>) -> Result<Self, ApiError> {
        let (media_type, body) = read_body(request).await?;
        let kind = match media_type.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => PatchKind::Json,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/strategic-merge-patch+json" => PatchKind::Strategic,
            "application/apply-patch+yaml" => {
                return Err(error::unsupported_media_type(
                    "server-side apply is not supported for this subresource".into(),
                ));
            }
            other => {
                return Err(error::unsupported_media_type(format!(
                    "the body of the request was in an unknown format ({other}) - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
                )));
            }
        };
        let Decoded { value, duplicates } = decode::json(&body)?;
        Ok(Self { kind, value, duplicates })
    }

    /// Refuses a strategic merge patch: what came at run time has no patch rules.
    fn refuse_strategic(&self) -> Result<(), ApiError> {
        match self.kind {
            PatchKind::Strategic => Err(error::unsupported_media_type(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Returns an object of `definition` with the patch applied.
    pub(super) fn apply(&self, definition: &str, old: &Value) -> Result<Value, ApiError> {
        match self.kind {
            PatchKind::Json => patch::json_patched(old, &self.value),
            PatchKind::Merge if self.value.is_object() => Ok(patch::merged(old, &self.value)),
            PatchKind::Merge => Err(error::bad_request("a merge patch of an object is an object")),
            PatchKind::Strategic => patch::strategic(definition, old, &self.value),
        }
    }
}
