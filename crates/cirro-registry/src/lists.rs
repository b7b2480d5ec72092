//! Discovery: tags, the catalog, referrers.

use std::cmp::Ordering;

use axum::body::Body;
use axum::response::Response;
use cirro_image::distribution::{BlobDigest, OCI_INDEX, Referrer, RepositoryName};
use http::{HeaderName, HeaderValue, header};
use serde_json::{Value, json};

use crate::Registry;
use crate::access::Who;
use crate::config::Action;
use crate::error::{Fault, blocking};
use crate::request::Head;
use crate::uploads::text;

/// Entries of one page when the client does not say how many.
const PAGE: usize = 10_000;
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A page of sorted names.
struct Page<'a> {
    names: &'a [String],
    /// Where the next one begins, when there is one.
    next: Option<&'a str>,
}

/// Names compare as the specification has it, "case-insensitive alphanumeric"; those that differ in case only, by bytes.
fn order(one: &str, other: &str) -> Ordering {
    let letters = |name: &str| name.to_ascii_lowercase();
    letters(one).cmp(&letters(other)).then_with(|| one.cmp(other))
}

/// Cuts the page after `last` with at most `n` names out of all.
fn page<'a>(all: &'a [String], n: usize, last: Option<&str>) -> Page<'a> {
    let first = last.map_or(0, |last| all.partition_point(|name| order(name, last).is_le()));
    let end = first.saturating_add(n).min(all.len());
    let names = &all[first..end];
    let next = if end < all.len() { names.last().map(String::as_str) } else { None };
    Page { names, next }
}

/// Reads how many names a client wants.
fn page_size(head: &Head) -> Result<usize, Fault> {
    let Some(text) = head.query("n") else { return Ok(PAGE) };
    match text.parse::<usize>() {
        Ok(n) if text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(n.min(PAGE)),
        _ => Err(Fault::PageInvalid),
    }
}

impl Registry {
    /// `GET /v2/<name>/tags/list`
    pub(crate) async fn tags(&self, head: &Head, name: RepositoryName) -> Result<Response, Fault> {
        let n = page_size(head)?;
        let (distribution, repository) = (self.shared.distribution.clone(), name.clone());
        let tags = blocking(move || distribution.tags(&repository)).await?;
        let mut tags: Vec<String> = tags.into_iter().map(String::from).collect();
        tags.sort_by(|one, other| order(one, other));
        let page = page(&tags, n, head.query("last"));
        let link = page.next.map(|last| format!("</v2/{name}/tags/list?n={n}&last={last}>; rel=\"next\""));
        list(&json!({"name": name, "tags": page.names}), link)
    }

    /// `GET /v2/_catalog`: those that the asker may read.
    pub(crate) async fn catalog(&self, head: &Head, who: &Who) -> Result<Response, Fault> {
        let n = page_size(head)?;
        let distribution = self.shared.distribution.clone();
        let all = blocking(move || distribution.repositories()).await?;
        let may_read = |name: &RepositoryName| self.shared.access.allows(who, name, Action::Pull);
        let all: Vec<String> = all.into_iter().filter(may_read).map(String::from).collect();
        let page = page(&all, n, head.query("last"));
        let link = page.next.map(|last| format!("</v2/_catalog?n={n}&last={last}>; rel=\"next\""));
        list(&json!({"repositories": page.names}), link)
    }

    /// `GET /v2/<name>/referrers/<digest>`: never 404, for a subject may come after those who speak of it.
    pub(crate) async fn referrers(
        &self,
        head: &Head,
        name: RepositoryName,
        subject: BlobDigest,
    ) -> Result<Response, Fault> {
        let distribution = self.shared.distribution.clone();
        let mut referrers = blocking(move || distribution.referrers(&name, &subject)).await?;
        let filter = head.query("artifactType").filter(|filter| !filter.is_empty());
        if let Some(filter) = filter {
            referrers.retain(|referrer| referrer.manifest.artifact_type.as_deref() == Some(filter));
        }
        let manifests: Vec<Value> = referrers.iter().map(descriptor).collect();
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests});
        let mut response = Response::new(Body::from(index.to_string()));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(OCI_INDEX));
        if filter.is_some() {
            response.headers_mut().insert(FILTERS, HeaderValue::from_static("artifactType"));
        }
        Ok(response)
    }
}

fn descriptor(referrer: &Referrer) -> Value {
    let Referrer { digest, size, manifest } = referrer;
    let mut descriptor = json!({"mediaType": manifest.media_type, "digest": digest, "size": size});
    if let Some(kind) = &manifest.artifact_type {
        descriptor["artifactType"] = json!(kind);
    }
    if !manifest.annotations.is_empty() {
        descriptor["annotations"] = json!(manifest.annotations);
    }
    descriptor
}

fn list(value: &Value, link: Option<String>) -> Result<Response, Fault> {
    let mut response = Response::new(Body::from(value.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(link) = link {
        response.headers_mut().insert(header::LINK, text(&link)?);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_each_other_without_gap() {
        let all: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        let of = |n, last| {
            let page = page(&all, n, last);
            (page.names.join(""), page.next)
        };
        assert_eq!(of(2, None), ("ab".into(), Some("b")));
        assert_eq!(of(2, Some("b")), ("c".into(), None));
        assert_eq!(of(3, None), ("abc".into(), None));
        assert_eq!(of(9, Some("aa")), ("bc".into(), None));
        assert_eq!(of(0, None), (String::new(), None));
        assert_eq!(of(1, Some("z")), (String::new(), None));
    }

    proptest::proptest! {
        #[test]
        fn every_name_is_on_one_page(mut names in proptest::collection::vec("[a-c]{1,4}", 0..30), n in 1_usize..7) {
            names.sort();
            names.dedup();
            let (mut seen, mut last) = (Vec::new(), None::<String>);
            loop {
                let page = page(&names, n, last.as_deref());
                seen.extend_from_slice(page.names);
                match page.next {
                    Some(next) => last = Some(next.to_owned()),
                    None => break,
                }
            }
            assert_eq!(seen, names);
        }
    }
}
