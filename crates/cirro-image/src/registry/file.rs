//! A file at an HTTP address, over the client's own connections: what builds fetch.

use bytes::Bytes;
use http::Method;
use http::header::{ETAG, IF_NONE_MATCH, LAST_MODIFIED};

use super::Registry;
use super::error::RegistryError;
use super::http::{Answer, Ask, send, shown};

/// An answer to a request for a file.
pub struct HttpFile {
    /// Whether the file is as it was when it had the tag that was sent: nothing comes then.
    pub unchanged: bool,
    /// The server's tag of this state of the file.
    pub etag: Option<String>,
    /// When it was changed last, in HTTP's own form.
    pub last_modified: Option<String>,
    answer: Answer,
}

impl Registry {
    /// Asks for the file at `url`; `etag` is the tag of what the caller has.
    ///
    /// Redirects are followed, certificates are checked, the environment's proxy is used.
    ///
    /// # Errors
    /// If no answer can be had, or if it is not the file: the error names the status.
    pub async fn http_file(&self, url: &str, etag: Option<&str>) -> Result<HttpFile, RegistryError> {
        let mut ask = Ask::new(Method::GET, url.to_owned(), true);
        if let Some(etag) = etag {
            ask = ask.header(IF_NONE_MATCH, etag);
        }
        let answer = send(&self.connector, ask).await?;
        let unchanged = etag.is_some() && answer.status.as_u16() == 304;
        if !unchanged && !answer.status.is_success() {
            let shown = shown(url);
            return Err(RegistryError::Protocol(format!(
                "invalid response status {} of {shown}",
                answer.status
            )));
        }
        let header = |name: http::HeaderName| answer.header(name.as_str()).map(str::to_owned);
        Ok(HttpFile { unchanged, etag: header(ETAG), last_modified: header(LAST_MODIFIED), answer })
    }
}

impl HttpFile {
    /// Returns the next piece of the content; none at its end.
    ///
    /// # Errors
    /// If the server breaks off or pauses for too long.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        self.answer.piece().await
    }
}
