//! Lists in pages at one revision.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::*;
use crate::selector::Selector;

/// Records that are looked at between two that a selector lets through, per read of the store.
const CHUNK: usize = 500;

/// What a list asks for.
#[derive(Debug, Default)]
pub(crate) struct ListOptions {
    pub(crate) selector: Selector,
    /// At most so many objects; 0 for all.
    pub(crate) limit: usize,
    /// Where the last page ended.
    pub(crate) continue_token: String,
    /// A revision that the answer may not be older than, or must be exactly at.
    pub(crate) revision: u64,
    pub(crate) exact: bool,
    /// Whether objects may come in whichever version they are stored.
    pub(crate) as_stored: bool,
}

/// A page of a list.
pub(crate) struct Page {
    pub(crate) records: Vec<Record>,
    pub(crate) revision: u64,
    /// Token for the next page; empty when this is the last.
    pub(crate) continue_token: String,
    /// Number of objects on later pages, when it is known.
    pub(crate) remaining: Option<usize>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Token {
    /// Revision of the whole list; 0 for what there is now.
    rv: u64,
    /// Last key that was returned, after the prefix.
    start: String,
    /// Number of objects that were returned.
    seen: usize,
}

impl Storage {
    /// Lists a kind.
    pub(crate) async fn list(
        &self,
        kind: &Kind,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Page, ApiError> {
        let prefix = kind.prefix_in(namespace);
        let token = read_token(&options.continue_token)?;
        if options.revision > self.store.revision() {
            let current = self.newest_revision().await?;
            if options.revision > current {
                return Err(error::future_revision(options.revision, current));
            }
        }
        let mut revision = match &token {
            Some(token) => token.rv,
            None if options.exact => options.revision,
            None => 0,
        };
        let mut start = token.as_ref().map(|token| format!("{prefix}{}", token.start));
        let seen = token.as_ref().map_or(0, |token| token.seen);
        let mut records = Vec::new();
        loop {
            let want = self.wanted(options, records.len());
            let listing = self.store.list(&prefix, start.as_deref(), want, revision).await;
            let listing = listing.map_err(|source| self.list_error(source, token.as_ref()))?;
            revision = listing.revision;
            start = listing.records.last().map(|record| record.key.to_string());
            let found = match options.as_stored {
                true => listing.records,
                false => self.in_version(kind, listing.records).await?,
            };
            for record in found {
                if options.selector.is_empty() || options.selector.matches(&*self.decoded_in(kind, &record)?)
                {
                    records.push(record);
                }
                if options.limit != 0 && records.len() == options.limit {
                    break;
                }
            }
            let full = options.limit != 0 && records.len() >= options.limit;
            if !listing.more && !full {
                return Ok(Page { records, revision, continue_token: String::new(), remaining: None });
            }
            if full {
                return self.last_of_page(&prefix, records, revision, seen, options, listing.total).await;
            }
        }
    }

    fn wanted(&self, options: &ListOptions, have: usize) -> usize {
        match (options.limit, options.selector.is_empty()) {
            (0, _) => 0,
            (limit, true) => limit - have,
            (_, false) => CHUNK,
        }
    }

    /// Ends a page that is full: finds out whether anything follows.
    async fn last_of_page(
        &self,
        prefix: &str,
        records: Vec<Record>,
        revision: u64,
        seen: usize,
        options: &ListOptions,
        total: usize,
    ) -> Result<Page, ApiError> {
        let last = records.last().expect("a full page is not empty").key.clone();
        let seen = seen + records.len();
        let token = Token { rv: revision, start: last[prefix.len()..].to_owned(), seen };
        let next = self.store.list(prefix, Some(&last), 1, revision).await;
        let next = next.map_err(|source| self.list_error(source, Some(&token)))?;
        if next.records.is_empty() {
            return Ok(Page { records, revision, continue_token: String::new(), remaining: None });
        }
        let remaining = options.selector.is_empty().then(|| total.saturating_sub(seen));
        Ok(Page { records, revision, continue_token: token.write(), remaining })
    }

    fn list_error(&self, source: StoreError, token: Option<&Token>) -> ApiError {
        match (source, token) {
            (StoreError::Compacted(_), Some(token)) => {
                error::expired_page(&Token { rv: 0, ..token.clone() }.write())
            }
            (other, _) => self.translate(other),
        }
    }
}

impl Token {
    fn write(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token is plain data"))
    }
}

fn read_token(text: &str) -> Result<Option<Token>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let token = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    token.map(Some).ok_or_else(|| error::bad_request("continue key is not valid"))
}
