//! One request and its answer: redirects, limits and times.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::connect::{Connector, Origin, RequestBody, Sender};
use super::error::RegistryError;
use super::reach::Reach;

/// How long a server may think before it answers.
const ANSWER: Duration = Duration::from_secs(60);
/// How long it may pause within an answer.
const PAUSE: Duration = Duration::from_secs(30);
/// Bytes per second that an upload may take at the least.
const SLOWEST: u64 = 20_000;
const MAX_REDIRECTS: usize = 10;
const AGENT: &str = concat!("cirro/", env!("CARGO_PKG_VERSION"), " (linux)");

/// What is sent besides the head.
pub(super) enum Payload {
    /// Nothing.
    Empty,
    /// Bytes that are in memory.
    Whole(Bytes),
    /// Bytes that come, with their number. They can be sent once.
    Stream(RequestBody, u64),
}

/// A request.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) payload: Payload,
    /// Whether the server's certificate must be good.
    pub(super) verify: bool,
    /// Whether the address came from a registry, not from a person.
    pub(super) reach: Reach,
}

impl Ask {
    pub(super) fn new(method: Method, url: String, verify: bool) -> Self {
        let (headers, authorization) = (Vec::new(), None);
        Self { method, url, headers, authorization, payload: Payload::Empty, verify, reach: Reach::Any }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Self {
        // What is not a header value was checked where it came from; a strange one is left out.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }
}

/// An answer whose body may still come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// Where it came from in the end.
    pub(super) url: String,
    verb: &'static str,
    body: Incoming,
    /// The connection goes back when the body was read to its end.
    connection: Option<(Arc<Connector>, Origin, Sender)>,
}

/// Sends a request; follows redirects of reading ones. The authorization stays with its host.
pub(super) async fn send(connector: &Arc<Connector>, ask: Ask) -> Result<Answer, RegistryError> {
    let first = ask.url.clone();
    let mut ask = ask;
    for _ in 0..=MAX_REDIRECTS {
        let (method, url, verify) = (ask.method.clone(), ask.url.clone(), ask.verify);
        let (headers, authorization, reach) = (ask.headers.clone(), ask.authorization.clone(), ask.reach);
        let answer = send_once(connector, ask).await?;
        let reading = method == Method::GET || method == Method::HEAD;
        if !(reading && answer.status.is_redirection() && answer.headers.contains_key(LOCATION)) {
            return Ok(answer);
        }
        let next = answer.location()?;
        let same = same_host(&url, &next);
        if url.starts_with("https:") && next.starts_with("http:") && verify {
            return Err(RegistryError::Protocol(format!("{}: redirected from https to http", shown(&first))));
        }
        // A registry on this machine may send us to this machine.
        let reach = if same || is_local(&first) { reach } else { Reach::Outside };
        let authorization = authorization.filter(|_| same);
        ask = Ask { method, url: next, headers, authorization, payload: Payload::Empty, verify, reach };
    }
    Err(RegistryError::Protocol(format!("{}: stopped after {MAX_REDIRECTS} redirects", shown(&first))))
}

async fn send_once(connector: &Arc<Connector>, ask: Ask) -> Result<Answer, RegistryError> {
    let verb = verb(&ask.method);
    let shown = shown(&ask.url);
    let fault = |reason: String| RegistryError::Transport { verb, url: shown.clone(), reason };
    let uri: Uri =
        ask.url.parse().map_err(|_| RegistryError::Protocol(format!("invalid address {shown}")))?;
    let origin = Origin::of(&uri, ask.verify).map_err(|error| fault(error.to_string()))?;
    let again = match &ask.payload {
        Payload::Empty => Some(Bytes::new()),
        Payload::Whole(bytes) => Some(bytes.clone()),
        Payload::Stream(..) => None,
    };
    let head = Head { uri, method: ask.method, headers: ask.headers, authorization: ask.authorization };
    // Only connections that a person's address made are shared: the others were checked for where they lead.
    let idle = (ask.reach == Reach::Any && again.is_some()).then(|| connector.take_idle(&origin)).flatten();
    if let (Some(mut sender), Some(bytes)) = (idle, again.clone()) {
        let request = head.request(Payload::Whole(bytes)).map_err(&fault)?;
        // An idle connection may have been closed at the other end meanwhile; then a new one is made.
        if let Ok(Ok(response)) = timeout(ANSWER, sender.send_request(request)).await {
            return Ok(Answer::new(connector, origin, sender, response, verb, ask.url));
        }
    }
    let mut sender = connector.connect(&origin, ask.reach).await.map_err(|error| fault(reason(&error)))?;
    let (patience, payload) = match (ask.payload, again) {
        (Payload::Stream(body, length), _) => {
            (ANSWER + Duration::from_secs(length / SLOWEST), Payload::Stream(body, length))
        }
        (_, bytes) => (ANSWER, Payload::Whole(bytes.unwrap_or_default())),
    };
    let request = head.request(payload).map_err(&fault)?;
    match timeout(patience, sender.send_request(request)).await {
        Ok(Ok(response)) => Ok(Answer::new(connector, origin, sender, response, verb, ask.url)),
        Ok(Err(error)) => Err(fault(chain(&error))),
        Err(_) => Err(fault("net/http: timeout awaiting response headers".into())),
    }
}

struct Head {
    uri: Uri,
    method: Method,
    headers: Vec<(HeaderName, HeaderValue)>,
    authorization: Option<HeaderValue>,
}

impl Head {
    fn request(&self, payload: Payload) -> Result<Request<RequestBody>, String> {
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let host = host.rsplit('@').next().unwrap_or(host);
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(path)
            .header(HOST, host)
            .header(USER_AGENT, AGENT);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = match payload {
            Payload::Empty => whole(Bytes::new()),
            Payload::Whole(bytes) => whole(bytes),
            Payload::Stream(body, length) => {
                request = request.header(http::header::CONTENT_LENGTH, length);
                body
            }
        };
        request.body(body).map_err(|error| error.to_string())
    }
}

fn whole(bytes: Bytes) -> RequestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

impl Answer {
    fn new(
        connector: &Arc<Connector>,
        origin: Origin,
        sender: Sender,
        response: http::Response<Incoming>,
        verb: &'static str,
        url: String,
    ) -> Self {
        let (head, body) = response.into_parts();
        let connection = Some((Arc::clone(connector), origin, sender));
        Self { status: head.status, headers: head.headers, url, verb, body, connection }
    }

    /// Returns the next piece of the body; none at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            match timeout(PAUSE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(error))) => return Err(self.fault(chain(&error))),
                Ok(None) => {
                    if let Some((connector, origin, sender)) = self.connection.take() {
                        connector.give_back(origin, sender);
                    }
                    return Ok(None);
                }
                Err(_) => return Err(self.fault("the server paused for too long".into())),
            }
        }
    }

    /// Reads a document that must not be longer than `limit`.
    pub(super) async fn document(&mut self, limit: u64) -> Result<Bytes, RegistryError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if (all.len() + piece.len()) as u64 > limit {
                return Err(RegistryError::Protocol(format!(
                    "{}: the answer is larger than {limit} bytes",
                    shown(&self.url)
                )));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Returns a header's text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the address in `Location`, whole.
    pub(super) fn location(&self) -> Result<String, RegistryError> {
        let wrong =
            || RegistryError::Protocol(format!("{}: no usable Location in the answer", shown(&self.url)));
        let location = self.headers.get(LOCATION).and_then(|value| value.to_str().ok()).ok_or_else(wrong)?;
        absolute(&self.url, location).ok_or_else(wrong)
    }

    fn fault(&self, reason: String) -> RegistryError {
        RegistryError::Transport { verb: self.verb, url: shown(&self.url), reason }
    }
}

/// Completes an address that may be relative.
fn absolute(base: &str, location: &str) -> Option<String> {
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else {
        let (scheme, rest) = base.split_once("://")?;
        let authority = rest.split(['/', '?']).next()?;
        match location.strip_prefix("//") {
            Some(elsewhere) => format!("{scheme}://{elsewhere}"),
            None if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
            None => {
                let path = base.split('?').next()?;
                format!("{}/{location}", path.rsplit_once('/')?.0)
            }
        }
    };
    text.parse::<Uri>().ok()?.host()?;
    Some(text)
}

/// Tells whether two addresses are at the same host, port and scheme.
pub(super) fn same_host(one: &str, other: &str) -> bool {
    let origin = |url: &str| url.parse::<Uri>().ok().and_then(|uri| Origin::of(&uri, true).ok());
    origin(one).is_some() && origin(one) == origin(other)
}

/// Tells whether two addresses are on the same host, whatever their port and scheme.
pub(super) fn same_name(one: &str, other: &str) -> bool {
    let host = |url: &str| Some(url.parse::<Uri>().ok()?.host()?.to_ascii_lowercase());
    host(one).is_some() && host(one) == host(other)
}

/// Tells whether an address is on this machine by its name.
pub(super) fn is_local(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An address for a message: without its query, which may be a signature.
pub(super) fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or(url).chars().take(300).collect()
}

fn verb(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "Get",
        "HEAD" => "Head",
        "POST" => "Post",
        "PUT" => "Put",
        "PATCH" => "Patch",
        _ => "Request",
    }
}

fn reason(error: &io::Error) -> String {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return format!("tls: failed to verify certificate: {error}");
    }
    error.to_string()
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Writes a value into a query.
pub(super) fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => text.push(byte.into()),
            byte => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_completed() {
        let base = "http://r:5000/v2/a/blobs/uploads/?x=1";
        for (location, expected) in [
            ("/v2/a/u", "http://r:5000/v2/a/u"),
            ("https://s3/x?sig=1", "https://s3/x?sig=1"),
            ("//s3/x", "http://s3/x"),
            ("next", "http://r:5000/v2/a/blobs/uploads/next"),
        ] {
            assert_eq!(absolute(base, location).as_deref(), Some(expected));
        }
        assert_eq!(absolute(base, "http://"), None);
    }

    #[test]
    fn hosts_are_the_same_with_their_port_and_scheme_only() {
        assert!(same_host("https://a/x", "https://a:443/y"));
        assert!(!same_host("https://a/x", "https://a:444/y"));
        assert!(!same_host("https://a/x", "http://a/y"));
        assert!(!same_host("https://a/x", "https://b.a/y"));
    }

    #[test]
    fn messages_have_no_signatures() {
        assert_eq!(shown("https://s3/x?X-Amz-Signature=secret"), "https://s3/x");
        assert_eq!(escape("repository:a/b:pull,push"), "repository%3Aa%2Fb%3Apull%2Cpush");
    }
}
