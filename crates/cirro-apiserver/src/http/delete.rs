//! Delete, delete a collection.

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use cirro_seams::api::{ApiError, DeleteOptions};
use serde_json::{Value, json};

use super::Call;
use super::write::{read_body, success};
use crate::decode;
use crate::json;
use crate::record;
use crate::storage::{Deletion, ListOptions, Page, Place};
use crate::table::Include;

/// Objects that a collection's deletion takes at a time.
const CHUNK: usize = 500;

impl Call {
    /// Deletes an object.
    pub(super) async fn delete(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (options, dry_run) = self.delete_options(request).await?;
        let answer = self.answer();
        match self.server.storage.delete(self.place(), &options, dry_run).await? {
            Deletion::Begun(object) => answer.object(StatusCode::OK, &object),
            Deletion::Done(object) => {
                let details = json!({"name": json::name(&object), "kind": self.served.kind.plural,
                    "group": self.served.group(), "uid": object["metadata"]["uid"]});
                Ok(answer.foreign(StatusCode::OK, &success(details)))
            }
        }
    }

    /// Deletes what the selectors let through.
    pub(super) async fn delete_collection(&self, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let (options, dry_run) = self.delete_options(request).await?;
        let kind = &self.served.kind;
        let mut list = ListOptions { limit: CHUNK, ..self.list_options()? };
        let mut deleted = Vec::new();
        let revision = loop {
            let page = self.server.storage.list(kind, self.path.namespace.as_deref(), &list).await?;
            for record in page.records {
                let object = record::decode(&record.value, record.revision)?;
                let place = Place { kind, namespace: json::namespace(&object), name: json::name(&object) };
                match self.server.storage.delete(place, &options, dry_run).await {
                    Err(refusal) if !refusal.is_not_found() => return Err(refusal),
                    _ => deleted.push(record),
                }
            }
            if page.continue_token.is_empty() {
                break page.revision;
            }
            list.continue_token = page.continue_token;
        };
        let page = Page { records: deleted, revision, continue_token: String::new(), remaining: None };
        self.answer().page(&page, Include::Metadata)
    }

    /// Reads the options of a deletion: the body's, else the query's.
    async fn delete_options(&self, request: Request<Body>) -> Result<(DeleteOptions, bool), ApiError> {
        let (media_type, body) = read_body(request).await?;
        let (mut options, mut dry_run) = (DeleteOptions::default(), self.query.dry_run()?);
        if !body.is_empty() {
            let value = decode::decode(&media_type, &body)?.value;
            options = read_options(&value);
            dry_run = dry_run || asks_dry_run(&value);
        }
        let grace = self.query.number("gracePeriodSeconds")?;
        options.grace_period_seconds = options.grace_period_seconds.or(grace);
        let policy = Some(self.query.get("propagationPolicy").to_owned()).filter(|policy| !policy.is_empty());
        options.propagation_policy = options.propagation_policy.or(policy);
        if self.query.flag("orphanDependents") {
            options.propagation_policy.get_or_insert_with(|| "Orphan".into());
        }
        Ok((options, dry_run))
    }
}

pub(super) fn read_options(value: &Value) -> DeleteOptions {
    let text = |path: &str| Some(json::text(value, path).to_owned()).filter(|text| !text.is_empty());
    let orphan = value["orphanDependents"] == true;
    DeleteOptions {
        uid: text("preconditions.uid"),
        resource_version: text("preconditions.resourceVersion"),
        grace_period_seconds: json::number(value, "gracePeriodSeconds"),
        propagation_policy: text("propagationPolicy").or_else(|| orphan.then(|| "Orphan".into())),
    }
}

pub(super) fn asks_dry_run(value: &Value) -> bool {
    json::array(value, "dryRun").iter().any(|one| one == "All")
}
