//! Get and list of kinds whose objects are found out when somebody asks.

use axum::body::Body;
use axum::http::{Response, StatusCode};
use cirro_seams::api::ApiError;
use serde_json::{Value, json};

use super::Call;
use super::negotiate::Accept;
use crate::error;
use crate::registry::Asker;
use crate::table;

impl Call {
    /// Answers with one object, or all that there are.
    pub(super) async fn compute(&self) -> Result<Response<Body>, ApiError> {
        let kind = &self.served.kind;
        if kind.namespaced && self.path.name.is_some() && self.path.namespace.is_none() {
            return Err(error::no_such_path());
        }
        let selector = self.selector()?;
        let accept = self.accept.writable()?;
        let asker = Asker { server: &self.server, user: &self.user, kind, namespace: self.namespace() };
        let mut found = kind.strategy.compute(asker).await?;
        if let Some(name) = &self.path.name {
            let one = found.into_iter().find(|object| crate::json::name(object) == name);
            let absent = || match kind.strategy.not_found(self.namespace(), name) {
                Some(refusal) => refusal,
                None => error::not_found(kind, name),
            };
            return self.answer().object(StatusCode::OK, &one.ok_or_else(absent)?);
        }
        found.retain(|object| selector.is_empty() || selector.matches(object));
        let body = match accept {
            Accept::Table(version) => {
                let mut table = table::head(version, &kind.columns, json!({}));
                let rows =
                    found.iter().map(|one| table::row(&kind.columns, one, &self.served, self.include()));
                table["rows"] = rows.collect();
                table
            }
            Accept::Metadata => json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": {}, "items": found.iter().map(table::partial_metadata).collect::<Vec<Value>>()}),
            _ => json!({"kind": format!("{}List", kind.kind), "apiVersion": self.served.api_version(),
                "metadata": {}, "items": found}),
        };
        Ok(self.answer().foreign(StatusCode::OK, &body))
    }
}
