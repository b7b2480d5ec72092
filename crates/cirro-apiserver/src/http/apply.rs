//! Server-side apply, and the name of whoever writes.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, USER_AGENT};
use axum::http::{Request, Response, StatusCode};
use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::Call;
use super::query::Query;
use super::write::{read_body, target};
use crate::decode::{self, Decoded};
use crate::error;
use crate::json;
use crate::managed;
use crate::rbac::Access;
use crate::registry::Subresource;
use crate::storage::{Target, Tracking};

const MEDIA_TYPE: &str = "application/apply-patch+yaml";
/// Longest name of a manager.
const MAX_MANAGER: usize = 128;
/// How often an apply looks again when the object comes and goes meanwhile.
const MAX_ATTEMPTS: usize = 4;

/// Whether a patch is a configuration to apply.
pub(super) fn is_apply(request: &Request<Body>) -> bool {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    media_type.is_some_and(|text| text.split(';').next().unwrap_or_default().trim() == MEDIA_TYPE)
}

/// Returns the manager of a request: what it says, else its program's name.
pub(super) fn manager_of(query: &Query, request: &Request<Body>) -> Result<String, ApiError> {
    let given = query.get("fieldManager");
    if given.len() > MAX_MANAGER || given.chars().any(char::is_control) {
        return Err(error::unprocessable(format!(
            "fieldManager: Invalid value: {given:?}: must be printable and no more than {MAX_MANAGER} bytes"
        )));
    }
    if !given.is_empty() {
        return Ok(given.to_owned());
    }
    let agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
    let program = agent.and_then(|agent| agent.split('/').next()).filter(|program| !program.is_empty());
    Ok(program.unwrap_or("unknown").chars().take(MAX_MANAGER).collect())
}

impl Call {
    /// Applies a configuration: the object is made when it is not there.
    pub(super) async fn apply(
        &self,
        subresource: Option<Subresource>,
        request: Request<Body>,
    ) -> Result<Response<Body>, ApiError> {
        let mut answer = self.answer();
        let config = self.read_config(request, &mut answer.warnings).await?;
        let manager = self.applying_manager()?;
        let (target, dry_run, force) = (target(subresource), self.query.dry_run()?, self.query.flag("force"));
        let storage = &self.server.storage;
        let kind = &self.served.kind;
        for _ in 0..MAX_ATTEMPTS {
            let change = |live: &Value| managed::applied(kind, target, live, &config, manager, force);
            let changed =
                storage.modify_tracked(self.place(), target, Tracking::Given, dry_run, change).await;
            match changed {
                Ok(object) => return answer.object(StatusCode::OK, &object),
                Err(refusal) if refusal.is_not_found() && target == Target::Object => {}
                Err(refusal) => return Err(refusal),
            }
            // The request was let through as a patch.
            let name = self.place().name;
            let create =
                Access::to_resource("create", self.served.group(), &kind.plural, "", self.namespace(), name);
            storage.authorize(&self.user, &create).await?;
            let nothing = json!({"metadata": {}});
            let object = managed::applied(kind, target, &nothing, &config, manager, force)?;
            let created =
                storage.create_tracked(kind, self.namespace(), object, Tracking::Given, dry_run).await;
            match created {
                Ok(created) => return answer.created(&created),
                Err(refusal) if refusal.is_already_exists() => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(error::modified(kind, self.place().name))
    }

    /// Returns who applies, which has to be said.
    pub(super) fn applying_manager(&self) -> Result<&str, ApiError> {
        match self.query.get("fieldManager") {
            "" => Err(error::unprocessable(
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".into(),
            )),
            manager => Ok(manager),
        }
    }

    /// Reads and checks the configuration, in the storage version.
    async fn read_config(
        &self,
        request: Request<Body>,
        warnings: &mut Vec<String>,
    ) -> Result<Value, ApiError> {
        let (_, body) = read_body(request).await?;
        // JSON is YAML, but this way its duplicates are told too.
        let Decoded { mut value, duplicates } =
            decode::json(&body).or_else(|_| decode::decode("application/yaml", &body))?;
        if !value.is_object() {
            return Err(error::bad_request("the body is not an object"));
        }
        if json::text(&value, "apiVersion").is_empty() || json::text(&value, "kind").is_empty() {
            return Err(error::bad_request("apiVersion and kind must be set in an applied configuration"));
        }
        self.check_identity(&mut value)?;
        if !json::array(&value, "metadata.managedFields").is_empty() {
            return Err(error::bad_request("metadata.managedFields must be nil"));
        }
        if json::name(&value).is_empty() {
            json::object_mut(&mut value, "metadata").insert("name".into(), self.place().name.into());
        }
        self.check_name(&value)?;
        self.check_schema(&mut value, &duplicates, warnings)?;
        crate::storage::drop_nulls(&self.served.kind, &mut value);
        Ok(self.served.import(value))
    }
}
