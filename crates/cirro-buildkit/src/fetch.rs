//! Files of a client's directories, on their way into places of this host.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cirro_build::{SentDockerfile, ignore_rules};
use cirro_grpc::Status;

use crate::backend::{Backend, Place};
use crate::kept::Kept;
use crate::progress::Task;
use crate::session::Session;
use crate::session::files::{Arrived, Wanted, is_missing};
use crate::status::Record;

const IGNORE: &str = ".dockerignore";
/// How often a transfer tells how far it is.
const TELL: Duration = Duration::from_millis(200);

/// Fetches for one build.
#[derive(Clone)]
pub(crate) struct Files {
    /// Has the places.
    pub(crate) backend: Arc<dyn Backend>,
    /// Where it tells how far it is.
    pub(crate) record: Arc<Record>,
    /// Whose files they are.
    pub(crate) session: Session,
    /// The contexts of earlier builds.
    pub(crate) kept: Arc<Kept>,
}

impl Files {
    /// Fetches a Dockerfile and the rules that go with it.
    pub(crate) async fn dockerfile(&self, directory: &str, filename: &str) -> Result<SentDockerfile, Status> {
        let task = Task::start(&self.record, &format!("[internal] load build definition from {filename}"));
        let loaded = async {
            let wanted = Wanted {
                directory: directory.to_owned(),
                follow: vec![filename.to_owned(), format!("{filename}.dockerignore")],
                ..Wanted::default()
            };
            let place = self.fetch(&task, "transferring dockerfile:", &wanted, None).await?.0;
            let (path, name) = (place.path().to_owned(), filename.to_owned());
            let read = tokio::task::spawn_blocking(move || SentDockerfile::read(&path, &name)).await;
            let read = read.map_err(|error| Status::unknown(error.to_string()))?;
            read.map_err(|error| Status::unknown(format!("failed to read dockerfile: {error}")))
        };
        let loaded = loaded.await;
        task.end(loaded)
    }

    /// Fetches the rules that a context has for every Dockerfile.
    pub(crate) async fn ignore(&self, title: &str, directory: &str) -> Result<Option<String>, Status> {
        let task = Task::start(&self.record, &format!("[{title}] load {IGNORE}"));
        let loaded = async {
            let follow = vec![IGNORE.to_owned()];
            let wanted = Wanted { directory: directory.to_owned(), follow, ..Wanted::default() };
            let place = self.fetch(&task, "transferring context:", &wanted, None).await?.0;
            let path = place.path().to_owned();
            let read = tokio::task::spawn_blocking(move || cirro_build::read_ignore(&path)).await;
            let read = read.map_err(|error| Status::unknown(error.to_string()))?;
            read.map_err(|error| Status::unknown(error.to_string()))
        };
        let loaded = loaded.await;
        task.end(loaded)
    }

    /// Fetches a context without what its rules leave out: of what an earlier build has, only what changed.
    pub(crate) async fn context(
        &self,
        title: &str,
        directory: &str,
        ignore: Option<&str>,
    ) -> Result<Arc<dyn Place>, Status> {
        let task = Task::start(&self.record, title);
        let exclude = ignore.map(ignore_rules).unwrap_or_default();
        let wanted = Wanted { directory: directory.to_owned(), exclude, ..Wanted::default() };
        let shared = self.session.shared_key();
        let key = (!shared.is_empty()).then(|| format!("{shared}\n{directory}"));
        let before = key.as_deref().and_then(|key| self.kept.get(key));
        let fetched = self.fetch(&task, "transferring context:", &wanted, before).await;
        let (place, bytes) = task.end(fetched)?;
        if let Some(key) = key {
            self.kept.put(key, place.clone(), bytes);
        }
        Ok(place)
    }

    /// Receives files of a directory of the client's; returns how many bytes they have too.
    async fn fetch(
        &self,
        task: &Task,
        part: &str,
        wanted: &Wanted,
        before: Option<Arc<dyn Place>>,
    ) -> Result<(Arc<dyn Place>, u64), Status> {
        let place = self.backend.open_place().await.map_err(Status::unknown)?;
        let arrived = Arc::new(Arrived::default());
        let receiving = self.session.receive(wanted, place.clone(), before, arrived.clone());
        tokio::pin!(receiving);
        let mut ticks = tokio::time::interval(TELL);
        let result = loop {
            tokio::select! {
                result = &mut receiving => break result,
                _ = ticks.tick() => task.part(part, arrived.sent.load(Ordering::Relaxed), false),
            }
        };
        task.part(part, arrived.sent.load(Ordering::Relaxed), result.is_ok());
        match result {
            Ok(()) => {
                let bytes = arrived.sent.load(Ordering::Relaxed) + arrived.found.load(Ordering::Relaxed);
                Ok((place, bytes))
            }
            Err(status) if is_missing(&status) => {
                let directory = &wanted.directory;
                Err(Status::unknown(format!("the client has no directory {directory} for this build")))
            }
            Err(status) => Err(status),
        }
    }
}
