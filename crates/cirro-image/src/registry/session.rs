//! One repository at one place, as one client: authorization, and the documents of the distribution protocol.
//!
//! The first answer tells how to ask (401 with a challenge); what was learnt is used for the session's further
//! requests, and learnt anew when it has run out. A token is for this repository only and leaves with the session.
//!
//! Source: OCI distribution-spec v1.1; distribution `spec/auth`.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use cirro_types::Digest;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::challenge::{Challenge, parse_challenges};
use super::connect::Connector;
use super::error::RegistryError;
use super::http::{Answer, Ask, Payload, escape, is_local, same_host, same_name, send, shown};
use super::options::{Credentials, Endpoint};
use super::reach::Reach;
use crate::media;

/// Tokens, errors and lists of names are at most this long.
const MAX_ANSWER: u64 = 1 << 20;
/// Pages of tags that are asked for.
const MAX_PAGES: usize = 1000;

/// What is asked of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

/// One repository at one place.
pub(super) struct Session {
    connector: Arc<Connector>,
    pub(super) endpoint: Endpoint,
    /// The registry as references name it.
    domain: String,
    /// Path of the repository.
    pub(super) repository: String,
    credentials: Credentials,
    access: Access,
    /// Repositories that blobs may be mounted from.
    further: Vec<String>,
    authorization: Mutex<Option<HeaderValue>>,
    /// What the authorization server gave for a password, when that was asked for.
    identity: Mutex<Option<String>>,
}

/// A manifest or index as it came.
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    pub(super) media_type: Option<String>,
    pub(super) digest: Digest,
}

impl Session {
    pub(super) fn new(
        connector: Arc<Connector>,
        endpoint: Endpoint,
        (domain, repository): (&str, &str),
        credentials: Credentials,
        access: Access,
        further: Vec<String>,
    ) -> Self {
        let (domain, repository) = (domain.to_owned(), repository.to_owned());
        // What a person told about a registry is not for its mirror.
        let credentials = if endpoint.mirror { Credentials::default() } else { credentials };
        let (authorization, identity) = Default::default();
        Self {
            connector,
            endpoint,
            domain,
            repository,
            credentials,
            access,
            further,
            authorization,
            identity,
        }
    }

    /// Names the repository with its registry.
    pub(super) fn source(&self) -> String {
        format!("{}/{}", self.domain, self.repository)
    }

    /// Asks `GET /v2/`: whether a registry is there, and whether it takes these credentials. Returns what its
    /// authorization server wants to be shown instead of the password from now on, if it has such.
    pub(super) async fn log_in(&self) -> Result<Option<String>, RegistryError> {
        let mut answer = self.send(self.ask(Method::GET, "")).await?;
        expect(&mut answer, &[StatusCode::OK]).await?;
        Ok(self.identity.lock().await.take())
    }

    /// Asks whether anything answers there; an answer that asks for credentials will do.
    pub(super) async fn reach(&self) -> Result<(), RegistryError> {
        let mut answer = send(&self.connector, self.ask(Method::GET, "")).await?;
        if answer.status == StatusCode::UNAUTHORIZED {
            answer.document(MAX_ANSWER).await?;
            return Ok(());
        }
        expect(&mut answer, &[StatusCode::OK]).await
    }

    /// Fetches a manifest or index by tag or digest, at most `limit` bytes.
    pub(super) async fn manifest(&self, name: &str, limit: u64) -> Result<Fetched, RegistryError> {
        let mut ask = self.ask(Method::GET, &format!("{}/manifests/{name}", self.repository));
        ask = ask.header(ACCEPT, &media::ACCEPTED.join(", "));
        let mut answer = self.send(ask).await?;
        expect_begin(&mut answer, &[StatusCode::OK]).await?;
        let media_type = answer.header("content-type").map(|text| {
            // Parameters such as a character set are no part of the type.
            text.split(';').next().unwrap_or(text).trim().to_owned()
        });
        let stated = answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let bytes = answer.document(limit).await?;
        let digest = Digest::of(&bytes);
        let wanted = name.parse::<Digest>().ok().or(stated);
        if let Some(wanted) = wanted.filter(|wanted| *wanted != digest) {
            return Err(RegistryError::Protocol(format!(
                "manifest verification failed for digest {wanted}: got {digest}"
            )));
        }
        Ok(Fetched {
            bytes,
            media_type: media_type.filter(|text| text.starts_with("application/vnd.")),
            digest,
        })
    }

    /// Fetches a small blob and checks it.
    pub(super) async fn document(
        &self,
        digest: &Digest,
        size: u64,
        limit: u64,
    ) -> Result<Bytes, RegistryError> {
        if size > limit {
            return Err(RegistryError::Protocol(format!(
                "blob {digest} has {size} bytes, at most {limit} are allowed"
            )));
        }
        let mut answer = self.blob(digest, 0).await?;
        let bytes = answer.document(limit).await?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(RegistryError::Digest { expected: *digest, found });
        }
        if bytes.len() as u64 != size {
            let found = bytes.len();
            return Err(RegistryError::Protocol(format!(
                "blob {digest} has {found} bytes, its descriptor says {size}"
            )));
        }
        Ok(bytes)
    }

    /// Begins to fetch a blob from byte `from` on. The answer may begin at 0 all the same (status 200).
    pub(super) async fn blob(&self, digest: &Digest, from: u64) -> Result<Answer, RegistryError> {
        let mut ask = self.ask(Method::GET, &format!("{}/blobs/{digest}", self.repository));
        if from > 0 {
            ask = ask.header(http::header::RANGE, &format!("bytes={from}-"));
        }
        let mut answer = self.send(ask).await?;
        let partial = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
        expect_begin(&mut answer, &[StatusCode::OK, partial]).await?;
        Ok(answer)
    }

    /// Lists the repository's tags.
    pub(super) async fn tags(&self, limit: usize) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut all = Vec::new();
        let mut url = self.endpoint.url(&format!("{}/tags/list", self.repository));
        for _ in 0..MAX_PAGES {
            let mut answer = self.send(Ask::new(Method::GET, url.clone(), self.endpoint.verify)).await?;
            expect_begin(&mut answer, &[StatusCode::OK]).await?;
            let next = answer.header("link").and_then(next_page).map(str::to_owned);
            let tags: Tags = json(&answer.document(MAX_ANSWER).await?, &url)?;
            all.extend(tags.tags.unwrap_or_default());
            if all.len() > limit {
                return Err(RegistryError::Protocol(format!("{}: more than {limit} tags", self.repository)));
            }
            let Some(next) = next else { break };
            // A page is a path of the same server; an address elsewhere would get the authorization.
            let Some(path) = next.strip_prefix("/v2/") else { break };
            url = self.endpoint.url(path);
        }
        Ok(all)
    }

    /// Tells whether an address is at this registry.
    pub(super) fn is_own(&self, url: &str) -> bool {
        same_host(&self.endpoint.url(""), url)
    }

    /// Makes a request below `/v2/`.
    pub(super) fn ask(&self, method: Method, path: &str) -> Ask {
        Ask::new(method, self.endpoint.url(path), self.endpoint.verify)
    }

    /// Sends a request with the authorization that is known, and once more when it has to be had first.
    ///
    /// A payload that can be sent once only is not sent again.
    pub(super) async fn send(&self, mut ask: Ask) -> Result<Answer, RegistryError> {
        let used = self.authorization.lock().await.clone();
        let (method, url, headers) = (ask.method.clone(), ask.url.clone(), ask.headers.clone());
        let again = match &ask.payload {
            Payload::Empty => Some(Payload::Empty),
            Payload::Whole(bytes) => Some(Payload::Whole(bytes.clone())),
            Payload::Stream(..) => None,
        };
        // Where a registry sends us elsewhere, the address itself is the authorization.
        let own = self.is_own(&ask.url);
        ask.authorization.clone_from(if own { &used } else { &None });
        let (verify, reach) = (ask.verify, ask.reach);
        let mut answer = send(&self.connector, ask).await?;
        let Some(payload) = again.filter(|_| own && answer.status == StatusCode::UNAUTHORIZED) else {
            return Ok(answer);
        };
        let challenges: Vec<_> = answer
            .headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(parse_challenges)
            .collect();
        let refusal = refusal(&mut answer).await;
        let authorization = {
            let mut known = self.authorization.lock().await;
            // Another request of this session may have been quicker.
            if *known == used {
                *known = Some(self.authorize(&challenges, &url, refusal).await?);
            }
            known.clone()
        };
        send(&self.connector, Ask { method, url, headers, authorization, payload, verify, reach }).await
    }

    async fn authorize(
        &self,
        challenges: &[Challenge],
        url: &str,
        refusal: RegistryError,
    ) -> Result<HeaderValue, RegistryError> {
        if !self.credentials.registrytoken.is_empty() {
            return header(&format!("Bearer {}", self.credentials.registrytoken));
        }
        for challenge in challenges {
            if let Challenge::Bearer { realm, service, scope } = challenge {
                let token = self.token(realm, service.as_deref(), scope.as_deref()).await?;
                return header(&format!("Bearer {token}"));
            }
        }
        if challenges.contains(&Challenge::Basic) {
            let Some(basic) = self.credentials.basic() else {
                let (url, reason) = (shown(url), "no basic auth credentials".into());
                return Err(RegistryError::Transport { verb: "Get", url, reason });
            };
            return header(&basic_header(&basic));
        }
        Err(refusal)
    }

    /// Gets a token from the server that the registry named.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            token: String,
            #[serde(default)]
            access_token: String,
            #[serde(default)]
            refresh_token: String,
        }
        // A password goes to another server only if that speaks TLS, or if it and the registry are on this machine.
        let base = self.endpoint.url("");
        let near = !self.endpoint.verify && (same_name(&base, realm) || is_local(&base) && is_local(realm));
        if !(realm.starts_with("https://") || near) {
            return Err(RegistryError::Protocol(format!(
                "{}: a token server must speak https",
                shown(realm)
            )));
        }
        let mut query: Vec<(&str, String)> = Vec::new();
        query.extend(service.map(|service| ("service", service.to_owned())));
        query.extend(self.scopes(scope).into_iter().map(|scope| ("scope", scope)));
        let basic = self.credentials.basic();
        // The registry's own host is the one that a person named.
        let named = is_local(&base) || same_name(&base, realm);
        let reach = if named { Reach::Any } else { Reach::Outside };
        let form = |query: &[(&str, String)]| {
            let pairs: Vec<_> =
                query.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
            pairs.join("&")
        };
        let mut ask = if self.credentials.identitytoken.is_empty() {
            query.extend(basic.iter().map(|(name, _)| ("account", name.clone())));
            // A login, as dockerd's: whoever asks keeps no password if there is something better.
            if self.repository.is_empty() && basic.is_some() {
                query.extend([("offline_token", "true".to_owned()), ("client_id", "docker".to_owned())]);
            }
            let separator = if realm.contains('?') { '&' } else { '?' };
            let url = format!("{realm}{separator}{}", form(&query));
            let mut ask = Ask::new(Method::GET, url, self.endpoint.verify);
            ask.authorization = basic.map(|basic| header(&basic_header(&basic))).transpose()?;
            ask
        } else {
            query.retain(|(name, _)| *name != "scope");
            query.push(("scope", self.scopes(scope).join(" ")));
            query.push(("grant_type", "refresh_token".into()));
            query.push(("refresh_token", self.credentials.identitytoken.clone()));
            query.push(("client_id", "docker".into()));
            let mut ask = Ask::new(Method::POST, realm.to_owned(), self.endpoint.verify);
            ask.payload = Payload::Whole(form(&query).into());
            ask.header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        };
        ask.reach = reach;
        let mut answer = send(&self.connector, ask).await?;
        if answer.status != StatusCode::OK {
            return Err(match refusal(&mut answer).await {
                RegistryError::Refused { status: status @ (401 | 403), code, message }
                    if message.is_empty() || code == "unknown" =>
                {
                    RegistryError::Refused {
                        status,
                        code: "unauthorized".into(),
                        message: "incorrect username or password".into(),
                    }
                }
                other => other,
            });
        }
        let token: Token = json(&answer.document(MAX_ANSWER).await?, realm)?;
        if !token.refresh_token.is_empty() {
            *self.identity.lock().await = Some(token.refresh_token);
        }
        let token = if token.token.is_empty() { token.access_token } else { token.token };
        if token.is_empty() {
            return Err(RegistryError::Protocol(
                "authorization server did not include a token in the response".into(),
            ));
        }
        Ok(token)
    }

    /// Writes what the token is to allow. What the registry asks for is not taken over unseen: a token for another
    /// repository would be one more secret in its hands.
    fn scopes(&self, asked: Option<&str>) -> Vec<String> {
        if self.repository.is_empty() {
            return asked
                .filter(|scope| !scope.starts_with("repository:"))
                .map(str::to_owned)
                .into_iter()
                .collect();
        }
        let actions = match self.access {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        };
        let own = format!("repository:{}:{actions}", self.repository);
        let further = self.further.iter().map(|repository| format!("repository:{repository}:pull"));
        [own].into_iter().chain(further).collect()
    }
}

fn header(text: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(text).map_err(|_| {
        RegistryError::Protocol("the authorization has letters that no header may have".into())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn basic_header((name, password): &(String, String)) -> String {
    let text = format!("{name}:{password}");
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
}

/// Reads the next page's path of a `Link` header.
fn next_page(link: &str) -> Option<&str> {
    let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    parameters.replace('"', "").contains("rel=next").then_some(address)
}

pub(super) fn json<T: serde::de::DeserializeOwned>(bytes: &[u8], from: &str) -> Result<T, RegistryError> {
    serde_json::from_slice(bytes)
        .map_err(|error| RegistryError::Protocol(format!("{}: unexpected answer: {error}", shown(from))))
}

/// Makes an error of an answer whose status is none of these, and reads the body of one that has no use.
pub(super) async fn expect(answer: &mut Answer, wanted: &[StatusCode]) -> Result<(), RegistryError> {
    expect_begin(answer, wanted).await?;
    // So that the connection can be used again.
    answer.document(MAX_ANSWER).await.map(drop)
}

/// As [`expect`], but leaves the body of a good answer to the caller.
pub(super) async fn expect_begin(answer: &mut Answer, wanted: &[StatusCode]) -> Result<(), RegistryError> {
    if wanted.contains(&answer.status) { Ok(()) } else { Err(refusal(answer).await) }
}

/// Reads the error that a registry gives.
pub(super) async fn refusal(answer: &mut Answer) -> RegistryError {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(Deserialize)]
    struct One {
        code: String,
        #[serde(default)]
        message: Option<String>,
    }
    #[derive(Deserialize)]
    struct Details {
        details: String,
    }
    let status = answer.status.as_u16();
    let body = answer.document(MAX_ANSWER).await.unwrap_or_default();
    let clean = |text: &str| crate::error::shown(text.as_bytes());
    if let Ok(Errors { errors }) = serde_json::from_slice(&body)
        && let Some(first) = errors.into_iter().next()
    {
        let code = clean(&first.code.to_ascii_lowercase().replace('_', " "));
        let message =
            first.message.as_deref().filter(|text| !text.is_empty()).map_or_else(|| code.clone(), clean);
        return RegistryError::Refused { status, code, message };
    }
    if let Ok(Details { details }) = serde_json::from_slice(&body) {
        return RegistryError::Refused { status, code: "unauthorized".into(), message: clean(&details) };
    }
    let (code, message) = match status {
        401 => ("unauthorized", "authentication required".to_owned()),
        403 => ("denied", "requested access to the resource is denied".to_owned()),
        404 => ("unknown", format!("{}: 404 page not found", shown(&answer.url))),
        429 => ("toomanyrequests", "too many requests".to_owned()),
        _ => ("unknown", format!("{}: unexpected status code {}", shown(&answer.url), answer.status)),
    };
    RegistryError::Refused { status, code: code.into(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(
            next_page("</v2/a/tags/list?last=b&n=2>; rel=\"next\""),
            Some("/v2/a/tags/list?last=b&n=2")
        );
        assert_eq!(next_page("</v2/a>; rel=\"prev\""), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
