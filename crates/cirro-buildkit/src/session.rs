//! Sessions: what a client serves to the builder over a connection of its own.
//!
//! `POST /session` turns a connection around: the client is the gRPC server, we call it. A build names its session by
//! id and may come before it, so whoever wants a session waits for it a little. A session ends with its connection.

pub(crate) mod auth;
pub(crate) mod files;
pub(crate) mod secrets;
pub(crate) mod send;
pub(crate) mod ssh;
pub(crate) mod upload;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cirro_grpc::client::{Channel, connect};
use cirro_grpc::{Code, Status};
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::messages::{Empty, HealthResponse};

const ID: &str = "x-docker-expose-session-uuid";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";

/// Every client serves it.
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// Sessions at the same time.
const MAX_SESSIONS: usize = 256;
const MAX_ID: usize = 256;
const MAX_METHODS: usize = 256;
/// How long a build waits for its session: BuildKit's time.
const WAIT: Duration = Duration::from_secs(5);

/// Why a session cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The request does not name one.
    #[error("no session id in the request")]
    NoId,
    /// There is one of that id.
    #[error("session {0} already exists")]
    Exists(String),
    /// Too many.
    #[error("more than {MAX_SESSIONS} sessions")]
    TooMany,
}

/// What a session's client says of it before it starts.
#[derive(Debug, Clone, Default)]
pub struct Introduction {
    id: String,
    shared_key: String,
    methods: Vec<String>,
}

impl Introduction {
    /// Reads the headers of `POST /session`.
    ///
    /// # Errors
    /// [`SessionError::NoId`].
    pub fn read(headers: &HeaderMap) -> Result<Self, SessionError> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id = text(ID);
        if id.is_empty() || id.len() > MAX_ID {
            return Err(SessionError::NoId);
        }
        let methods = headers.get_all(METHOD).iter().take(MAX_METHODS);
        let methods = methods.filter_map(|value| value.to_str().ok()).map(str::to_ascii_lowercase).collect();
        Ok(Self { id: id.to_owned(), shared_key: text(SHARED_KEY).to_owned(), methods })
    }
}

/// A session under way.
#[derive(Clone)]
pub(crate) struct Session {
    introduction: Arc<Introduction>,
    channel: Channel,
}

impl Session {
    /// Returns what names the client's directory from build to build.
    pub(crate) fn shared_key(&self) -> &str {
        &self.introduction.shared_key
    }

    /// Says whether the client serves a method.
    pub(crate) fn has(&self, method: &str) -> bool {
        self.introduction.methods.contains(&method.to_ascii_lowercase())
    }
}

/// All sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    /// Reserved when there is nothing in it yet.
    open: Mutex<HashMap<String, Option<Session>>>,
    changed: Notify,
}

/// A session's place; given back when it goes.
pub struct Place {
    sessions: Arc<Sessions>,
    introduction: Introduction,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.introduction.id);
    }
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<Session>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a place for a session.
    ///
    /// # Errors
    /// If there is one of that id, or too many.
    pub(crate) fn reserve(self: &Arc<Self>, introduction: Introduction) -> Result<Place, SessionError> {
        let mut open = self.lock();
        if open.contains_key(&introduction.id) {
            return Err(SessionError::Exists(introduction.id));
        }
        if open.len() >= MAX_SESSIONS {
            return Err(SessionError::TooMany);
        }
        open.insert(introduction.id.clone(), None);
        Ok(Place { sessions: self.clone(), introduction })
    }

    /// Waits for a session, a few seconds at most.
    ///
    /// # Errors
    /// If it does not come.
    pub(crate) async fn wait(&self, id: &str) -> Result<Session, Status> {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Before looking, so that no change is missed.
                changed.as_mut().enable();
                if let Some(session) = self.lock().get(id).cloned().flatten() {
                    return session;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(WAIT, wait).await;
        waited.map_err(|_| Status::unknown(format!("no active session for {id}: context deadline exceeded")))
    }
}

impl Place {
    /// Runs the session on its connection until that ends.
    pub async fn run(self, connection: impl AsyncRead + AsyncWrite + Unpin) {
        let (channel, connection) = match connect(connection, crate::LIMITS).await {
            Ok(connected) => connected,
            Err(error) => {
                tracing::debug!(%error, "session not started");
                return;
            }
        };
        tokio::pin!(connection);
        // Whatever it answers, it serves from then on. A build that fails before that would end clients (docker 20.10) that
        // wait for ever for a session to end which has not begun.
        let nothing = Empty::default();
        let health = channel.ask::<_, HealthResponse>(HEALTH, &[], &nothing);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            _ = health => {
                let introduction = Arc::new(self.introduction.clone());
                let session = Session { introduction, channel: channel.clone() };
                self.sessions.lock().insert(self.introduction.id.clone(), Some(session));
                self.sessions.changed.notify_waiters();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "session ended");
        }
    }
}

/// Takes a missing method for "there is none": clients serve only what they were asked for.
fn or_none<T>(result: Result<T, Status>) -> Result<Option<T>, Status> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.is(Code::Unimplemented) || status.is(Code::NotFound) => Ok(None),
        Err(status) => Err(status),
    }
}

/// Metadata whose values may be any text: those with other characters than a header's are escaped, and say so.
fn metadata(pairs: &[(&str, Vec<String>)]) -> Vec<(String, String)> {
    let mut metadata = Vec::new();
    for (name, values) in pairs {
        let plain = values.iter().all(|value| value.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
        if !plain {
            metadata.push((format!("{name}-encoded"), "1".to_owned()));
        }
        for value in values {
            let value = if plain { value.clone() } else { query_escape(value) };
            metadata.push(((*name).to_owned(), value));
        }
    }
    metadata
}

fn query_escape(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use cirro_seams::Pending;

    use super::*;
    use cirro_grpc::server::{Call, Service, serve};

    fn headers(id: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ID, id.parse().unwrap());
        headers.append(METHOD, "/moby.filesync.v1.FileSync/DiffCopy".parse().unwrap());
        headers
    }

    /// A client that serves nothing.
    struct Nothing;

    impl Service for Nothing {
        fn call(&self, call: Call) -> Pending<'_, Result<(), Status>> {
            Box::pin(async move { Err(Status::unsupported(call.path)) })
        }
    }

    #[tokio::test]
    async fn a_session_is_waited_for_and_gone_with_its_connection() {
        let sessions = Arc::new(Sessions::default());
        let place = sessions.reserve(Introduction::read(&headers("a")).unwrap()).unwrap();
        let again = sessions.reserve(Introduction::read(&headers("a")).unwrap());
        assert_eq!(again.err(), Some(SessionError::Exists("a".into())));
        let waiting = tokio::spawn({
            let sessions = sessions.clone();
            async move { sessions.wait("a").await }
        });
        let (near, far) = tokio::io::duplex(4096);
        let running = tokio::spawn(place.run(near));
        let client = tokio::spawn(serve(far, Arc::new(Nothing), crate::LIMITS));
        let session = waiting.await.unwrap().unwrap();
        assert!(session.has("/moby.filesync.v1.FileSync/DiffCopy") && !session.has("/x"));
        client.abort();
        drop(session);
        running.await.unwrap();
        assert!(sessions.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_come_is_an_error() {
        let error = Arc::new(Sessions::default()).wait("b").await.err().unwrap();
        assert!(error.message.contains("no active session for b"));
        assert_eq!(Introduction::read(&HeaderMap::new()).err(), Some(SessionError::NoId));
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let sessions = Arc::new(Sessions::default());
        let places: Vec<Place> = (0..MAX_SESSIONS)
            .map(|number| {
                sessions.reserve(Introduction::read(&headers(&number.to_string())).unwrap()).unwrap()
            })
            .collect();
        let one = || sessions.reserve(Introduction::read(&headers("one more")).unwrap());
        assert_eq!(one().err(), Some(SessionError::TooMany));
        drop(places);
        assert!(one().is_ok());
    }

    #[test]
    fn odd_text_is_escaped_and_says_so() {
        let plain = metadata(&[("followpaths", vec!["a b".into(), "!c".into()])]);
        assert_eq!(plain.len(), 2);
        let odd = metadata(&[("dir-name", vec!["ü b\n".into()])]);
        assert_eq!(
            odd,
            [
                ("dir-name-encoded".to_owned(), "1".to_owned()),
                ("dir-name".to_owned(), "%C3%BC+b%0A".to_owned())
            ]
        );
    }
}
