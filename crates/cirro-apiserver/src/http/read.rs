//! Get and list.

use axum::body::Body;
use axum::http::Response;
use cirro_seams::api::ApiError;

use super::Call;
use crate::error;
use crate::selector::Selector;
use crate::storage::ListOptions;
use crate::table::Include;

impl Call {
    /// Answers with one object.
    pub(super) async fn get(&self) -> Result<Response<Body>, ApiError> {
        let record = self.server.storage.record(self.place()).await?;
        let found = self.server.storage.in_version(&self.served.kind, vec![record]).await?;
        self.answer().record(&found[0], self.include())
    }

    /// Answers with a list.
    pub(super) async fn list(&self) -> Result<Response<Body>, ApiError> {
        let options = self.list_options()?;
        let namespace = self.path.namespace.as_deref();
        let page = self.server.storage.list(&self.served.kind, namespace, &options).await?;
        self.answer().page(&page, self.include())
    }

    /// Returns what rows of Tables carry.
    pub(super) fn include(&self) -> Include {
        Include::parse(self.query.get("includeObject"))
    }

    /// Returns what narrows a list or a watch.
    pub(super) fn selector(&self) -> Result<Selector, ApiError> {
        let (labels, fields) = (self.query.get("labelSelector"), self.query.get("fieldSelector"));
        Selector::parse(&self.served.kind, labels, fields)
    }

    /// Reads the parameters of a list.
    pub(super) fn list_options(&self) -> Result<ListOptions, ApiError> {
        let (revision, matching) =
            (self.query.get("resourceVersion"), self.query.get("resourceVersionMatch"));
        let continue_token = self.query.get("continue").to_owned();
        let refuse = |what: &str| Err(error::bad_request(what));
        if !matching.is_empty() && revision.is_empty() {
            return refuse("resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !continue_token.is_empty() && !revision.is_empty() && revision != "0" {
            return refuse("specifying resource version is not allowed when using continue");
        }
        let limit = self.query.number("limit")?.unwrap_or(0);
        let revision = self.query.number("resourceVersion")?.unwrap_or(0);
        let exact = match matching {
            "Exact" if revision == 0 => {
                return refuse("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
            }
            "Exact" => true,
            // What upstream does with a limit and a version and no word on the match.
            "" => limit > 0 && revision > 0,
            "NotOlderThan" => false,
            other => return refuse(&format!("resourceVersionMatch {other:?} is not known")),
        };
        Ok(ListOptions {
            selector: self.selector()?,
            limit,
            continue_token,
            revision,
            exact,
            as_stored: false,
        })
    }
}
