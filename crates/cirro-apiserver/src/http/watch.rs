//! Watches: what is there, then what changes, as lines of JSON.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use cirro_seams::api::ApiError;
use cirro_store::{Change, Record, WatchItem};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Call;
use super::answer::copies;
use super::negotiate::Accept;
use crate::error;
use crate::json;
use crate::record;
use crate::selector::Selector;
use crate::storage::{ListOptions, Storage};
use crate::table;

mod lines;

pub(crate) use lines::SharedLines;
use lines::{Line, Name};

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest time after which a watch ends that named none; up to twice as long.
const DEFAULT_TIMEOUT: u32 = 1800;

impl Call {
    /// Answers with a stream of events.
    pub(super) async fn watch(self, name: Option<&str>) -> Result<Response<Body>, ApiError> {
        self.accept.writable()?;
        let selector = match name {
            Some(name) => Selector::parse(
                &self.served.kind,
                self.query.get("labelSelector"),
                &format!("metadata.name={name}"),
            )?,
            None => self.selector()?,
        };
        let asked = self.query.get("resourceVersion").to_owned();
        let initial = match self.query.get("sendInitialEvents") {
            "" => asked.is_empty() || asked == "0",
            text => text == "true",
        };
        let (first, revision) = if initial {
            self.present(&selector).await?
        } else {
            let revision = match self.query.number("resourceVersion")? {
                Some(revision) => revision,
                None => self.server.storage.newest_revision().await?,
            };
            (Vec::new(), revision)
        };
        let kind = self.served.kind.clone();
        let changes = self.server.storage.watch(&kind, self.path.namespace.as_deref(), revision).await;
        let timeout = self.query.number::<u32>("timeoutSeconds")?.filter(|seconds| *seconds > 0);
        let timeout = timeout.unwrap_or_else(|| DEFAULT_TIMEOUT + crate::identity::below(DEFAULT_TIMEOUT));
        let (lines, body) = lines::channel();
        let watcher = Watcher {
            bookmarks: self.query.flag("allowWatchBookmarks"),
            announce_end: initial && self.query.flag("sendInitialEvents"),
            storage: self.server.storage.clone(),
            call: self,
            selector,
            lines,
            revision,
        };
        match changes {
            Ok(changes) => {
                let deadline = Instant::now() + Duration::from_secs(timeout.into());
                tokio::spawn(watcher.run(first, changes, deadline));
            }
            // The client is told in the stream, as upstream does: its watch then starts over.
            Err(refusal) if refusal.code == 410 => watcher.refuse(&refusal),
            Err(refusal) => return Err(refusal),
        }
        Ok(stream(body))
    }

    /// Returns what is there and the revision of it.
    async fn present(&self, selector: &Selector) -> Result<(Vec<Record>, u64), ApiError> {
        let revision = self.query.number("resourceVersion")?.unwrap_or(0);
        let options = ListOptions { selector: selector.clone(), revision, ..ListOptions::default() };
        let namespace = self.path.namespace.as_deref();
        let page = self.server.storage.list(&self.served.kind, namespace, &options).await?;
        Ok((page.records, page.revision))
    }
}

fn stream(lines: mpsc::Receiver<Line>) -> Response<Body> {
    let stream = futures_util::stream::unfold(lines, |mut lines| async {
        let line = lines.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line.bytes), lines))
    });
    let mut response = Response::new(Body::from_stream(stream));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// One watch.
struct Watcher {
    call: Call,
    storage: Arc<Storage>,
    selector: Selector,
    lines: lines::Sender,
    bookmarks: bool,
    /// Whether the end of what was there is told by a bookmark.
    announce_end: bool,
    /// The newest revision that the client knows of.
    revision: u64,
}

/// The client is gone.
#[derive(Debug)]
struct Gone;

impl Watcher {
    async fn run(mut self, first: Vec<Record>, changes: mpsc::Receiver<WatchItem>, deadline: Instant) {
        let lines = self.lines.clone();
        let custom = self.call.served.kind.custom.clone();
        let replaced = async {
            match &custom {
                Some(custom) => custom.replaced.cancelled().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.serve(first, changes) => {}
            // The kind is another now, or gone: the client looks again.
            () = replaced => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = lines.closed() => {}
        }
    }

    async fn serve(
        &mut self,
        first: Vec<Record>,
        mut changes: mpsc::Receiver<WatchItem>,
    ) -> Result<(), Gone> {
        for record in first {
            let line = self.line("ADDED", &record);
            self.send(line).await?;
        }
        if self.announce_end {
            let annotations = json!({"k8s.io/initial-events-end": "true"});
            self.bookmark(Some(annotations)).await?;
        }
        let mut ticks = tokio::time::interval_at(Instant::now() + BOOKMARK_INTERVAL, BOOKMARK_INTERVAL);
        loop {
            tokio::select! {
                item = changes.recv() => match item {
                    Some(WatchItem::Changes(revision, changes)) => {
                        for change in changes.iter() {
                            match self.in_version(change).await {
                                Ok(change) => self.change(&change).await?,
                                Err(refusal) => {
                                    self.refuse(&refusal);
                                    return Ok(());
                                }
                            }
                        }
                        self.revision = revision;
                    }
                    Some(WatchItem::Progress(revision)) => self.revision = revision,
                    None | Some(WatchItem::Lost) => {
                        let revision = self.revision;
                        let why = format!("too old resource version: {revision}");
                        self.refuse(&error::expired(why));
                        return Ok(());
                    }
                },
                _ = ticks.tick(), if self.bookmarks => self.bookmark(None).await?,
            }
        }
    }

    /// Returns a change in the version that is watched.
    async fn in_version<'a>(&self, change: &'a Change) -> Result<Cow<'a, Change>, ApiError> {
        let kind = &self.call.served.kind;
        match kind.conversion() {
            None => Ok(Cow::Borrowed(change)),
            Some(_) => self.storage.change_in_version(kind, change).await.map(Cow::Owned),
        }
    }

    /// Tells a change as the selector lets it be seen.
    async fn change(&self, change: &Change) -> Result<(), Gone> {
        let (now, before) = match change {
            Change::Put(now, before) => (Some(now), before.as_ref()),
            Change::Delete(revision, last) => {
                let last = Record { revision: *revision, ..last.clone() };
                return if self.selects(&last) { self.event("DELETED", &last).await } else { Ok(()) };
            }
        };
        let Some(now) = now else { return Ok(()) };
        match (self.selects(now), before.filter(|before| self.selects(before))) {
            (true, None) => self.event("ADDED", now).await,
            (true, Some(_)) => self.event("MODIFIED", now).await,
            // It does not match any more: for this watch it is gone, in the state that matched.
            (false, Some(before)) => {
                self.event("DELETED", &Record { revision: now.revision, ..before.clone() }).await
            }
            (false, None) => Ok(()),
        }
    }

    fn selects(&self, record: &Record) -> bool {
        self.selector.is_empty() || self.decoded(record).is_ok_and(|object| self.selector.matches(&object))
    }

    fn decoded(&self, record: &Record) -> Result<Arc<Value>, ApiError> {
        self.storage.decoded_in(&self.call.served.kind, record)
    }

    /// Tells a change; many watchers may get the same line.
    async fn event(&self, event: &'static str, record: &Record) -> Result<(), Gone> {
        if !self.is_plain() {
            return self.send(self.line(event, record)).await;
        }
        let name = Name { event, revision: record.revision, key: record.key.clone() };
        let line = self.call.server.lines.get(name, || self.line(event, record));
        self.lines.send(line).await
    }

    fn is_plain(&self) -> bool {
        copies(self.call.accept, &self.call.served)
    }

    /// Returns the line of an event; empty for an object that has no such form.
    fn line(&self, event: &str, record: &Record) -> Vec<u8> {
        let mut line = format!(r#"{{"type":"{event}","object":"#).into_bytes();
        let answer = self.call.answer();
        if self.is_plain() {
            record::splice(&self.call.served.kind, &record.value, record.revision, &mut line);
        } else {
            let Ok(object) = self.decoded(record) else { return Vec::new() };
            let Ok(form) = answer.form(&object, self.call.include()) else { return Vec::new() };
            line.extend_from_slice(&json::written(&form));
        }
        line.extend_from_slice(b"}\n");
        line
    }

    async fn bookmark(&self, annotations: Option<Value>) -> Result<(), Gone> {
        let served = &self.call.served;
        let mut metadata = json!({"resourceVersion": self.revision.to_string(), "creationTimestamp": null});
        if let Some(annotations) = annotations {
            metadata["annotations"] = annotations;
        }
        let object = match self.call.accept {
            Accept::Table(version) => table::head(version, &served.kind.columns, metadata),
            Accept::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            _ => json!({"kind": served.kind.kind, "apiVersion": served.api_version(), "metadata": metadata}),
        };
        self.send(format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into_bytes()).await
    }

    async fn send(&self, line: Vec<u8>) -> Result<(), Gone> {
        if line.is_empty() { Ok(()) } else { self.lines.send(line.into()).await }
    }

    /// Ends the stream with an error, if there is room for it: a reader that has left so many lines
    /// unread learns from the end of the stream.
    fn refuse(&self, refusal: &ApiError) {
        let line = format!("{}\n", json!({"type": "ERROR", "object": error::status(refusal)}));
        self.lines.try_send(line.into());
    }
}
