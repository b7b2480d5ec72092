//! Answers: objects in the form that was asked for, and refusals as `Status`.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use cirro_seams::api::ApiError;
use cirro_store::Record;
use serde_json::{Value, json};

use super::negotiate::Accept;
use crate::error;
use crate::json;
use crate::record;
use crate::registry::Served;
use crate::storage::{Created, Page};
use crate::table::{self, Include};

/// Most warnings of an answer, and their longest.
const MAX_WARNINGS: usize = 20;
const MAX_WARNING: usize = 1024;

/// What an answer is made with.
pub(crate) struct Answer<'a> {
    pub(crate) served: &'a Served,
    pub(crate) accept: Accept,
    pub(crate) warnings: Vec<String>,
}

impl Answer<'_> {
    /// Answers with one object in its storage form.
    pub(crate) fn object(self, status: StatusCode, object: &Value) -> Result<Response<Body>, ApiError> {
        let body = json::written(&*self.form(object, Include::Metadata)?);
        Ok(self.finish(status, body.into()))
    }

    /// Answers with an object that was just made; its bytes are at hand, unless nothing was stored.
    pub(crate) fn created(self, created: &Created) -> Result<Response<Body>, ApiError> {
        match &created.record {
            Some((value, revision)) if self.copies() => {
                let body = self.spliced(value, *revision);
                Ok(self.finish(StatusCode::CREATED, body))
            }
            _ => self.object(StatusCode::CREATED, &created.object),
        }
    }

    fn copies(&self) -> bool {
        copies(self.accept, self.served)
    }

    fn spliced(&self, value: &[u8], revision: u64) -> Bytes {
        let mut out = Vec::with_capacity(value.len() + 64);
        record::splice(&self.served.kind, value, revision, &mut out);
        out.into()
    }

    /// Answers with an object that is none of the kind's own.
    pub(crate) fn foreign(self, status: StatusCode, object: &Value) -> Response<Body> {
        self.finish(status, json::written(object).into())
    }

    /// Answers with one stored object.
    pub(crate) fn record(self, record: &Record, include: Include) -> Result<Response<Body>, ApiError> {
        if self.copies() {
            let body = self.spliced(&record.value, record.revision);
            return Ok(self.finish(StatusCode::OK, body));
        }
        let object = record::decode(&record.value, record.revision)?;
        let body = json::written(&*self.form(&object, include)?);
        Ok(self.finish(StatusCode::OK, body.into()))
    }

    /// Answers with a page of a list.
    pub(crate) fn page(self, page: &Page, include: Include) -> Result<Response<Body>, ApiError> {
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if !page.continue_token.is_empty() {
            metadata["continue"] = page.continue_token.clone().into();
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        let body = match self.accept.writable()? {
            Accept::Table(version) => self.table_page(version, page, metadata, include)?,
            accept => self.list_page(accept, page, &metadata)?,
        };
        Ok(self.finish(StatusCode::OK, body.into()))
    }

    fn table_page(
        &self,
        version: &str,
        page: &Page,
        metadata: Value,
        include: Include,
    ) -> Result<Vec<u8>, ApiError> {
        let columns = &self.served.kind.columns;
        let mut table = table::head(version, columns, metadata);
        let mut rows = Vec::with_capacity(page.records.len());
        for record in &page.records {
            let object = record::decode(&record.value, record.revision)?;
            rows.push(table::row(columns, &object, self.served, include));
        }
        table["rows"] = rows.into();
        Ok(json::written(&table))
    }

    fn list_page(&self, accept: Accept, page: &Page, metadata: &Value) -> Result<Vec<u8>, ApiError> {
        let (kind, api_version) = match accept {
            Accept::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
            _ => (format!("{}List", self.served.kind.kind), self.served.api_version()),
        };
        let head =
            format!(r#"{{"kind":"{kind}","apiVersion":"{api_version}","metadata":{metadata},"items":["#);
        let size: usize = page.records.iter().map(|record| record.value.len() + 64).sum();
        let mut out = Vec::with_capacity(head.len() + size);
        out.extend_from_slice(head.as_bytes());
        for (index, record) in page.records.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            if self.copies() {
                record::splice(&self.served.kind, &record.value, record.revision, &mut out);
            } else {
                let object = record::decode(&record.value, record.revision)?;
                let form = self.form(&object, Include::Metadata)?;
                out.extend_from_slice(&json::written(&form));
            }
        }
        out.extend_from_slice(b"]}");
        Ok(out)
    }

    /// Returns an object in the form that was asked for.
    pub(crate) fn form<'a>(&self, object: &'a Value, include: Include) -> Result<Cow<'a, Value>, ApiError> {
        Ok(match self.accept.writable()? {
            Accept::Table(version) => {
                let columns = &self.served.kind.columns;
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let mut table = table::head(version, columns, metadata);
                table["rows"] = json!([table::row(columns, object, self.served, include)]);
                Cow::Owned(table)
            }
            Accept::Metadata => Cow::Owned(table::partial_metadata(object)),
            _ => self.served.export(object),
        })
    }

    fn finish(self, status: StatusCode, body: Bytes) -> Response<Body> {
        let mut response = json_bytes(status, body);
        warn(response.headers_mut(), &self.warnings);
        response
    }
}

/// Whether objects go out as they are stored.
pub(super) fn copies(accept: Accept, served: &Served) -> bool {
    accept == Accept::Json && served.is_stored_form()
}

/// Adds warnings to the head of an answer.
pub(crate) fn warn(headers: &mut HeaderMap, warnings: &[String]) {
    for warning in warnings.iter().take(MAX_WARNINGS) {
        let text: String = warning.chars().filter(|c| !c.is_control()).take(MAX_WARNING).collect();
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{text}\"")) {
            headers.append(WARNING, value);
        }
    }
}

fn json_bytes(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Answers with a document.
pub(crate) fn document(value: &Value) -> Response<Body> {
    json_bytes(StatusCode::OK, json::written(value).into())
}

/// Answers with what keeps the order of its members.
pub(crate) fn written(value: &impl serde::Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("its keys are text and nothing in it fails");
    json_bytes(StatusCode::OK, body.into())
}

/// Answers with a set of keys (RFC 7517).
pub(crate) fn keys(value: &Value) -> Response<Body> {
    let mut response = document(value);
    let media_type = HeaderValue::from_static("application/jwk-set+json");
    response.headers_mut().insert(CONTENT_TYPE, media_type);
    response
}

/// Answers with a document that was written before.
pub(crate) fn bytes(body: Bytes) -> Response<Body> {
    json_bytes(StatusCode::OK, body)
}

/// Answers with plain text.
pub(crate) fn text(body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// Answers with a refusal.
pub(crate) fn refusal(refusal: &ApiError) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if status.is_server_error() && refusal.code == 500 {
        tracing::error!(%refusal, "request failed");
    }
    let mut response = json_bytes(status, error::status(refusal).to_string().into());
    let seconds = refusal.details.as_ref().and_then(|details| details["retryAfterSeconds"].as_u64());
    if let Some(seconds) = seconds {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
