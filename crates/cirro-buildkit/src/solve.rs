//! One build: files out of the session, the builder, what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cirro_build::{SentDockerfile, ignore_rules};
use cirro_seams::build::Borrowed;
use cirro_types::{Digest, ImageReference};

use crate::attributes::Asked;
use crate::backend::{Backend, Pieces, Place, Source};
use crate::lender::SessionLender;
use crate::progress::{Progress, Task};
use crate::session::Session;
use crate::session::files::{Wanted, is_missing};
use crate::session::upload;
use crate::status::Record;
use cirro_grpc::Status;

/// The client's directory that has the Dockerfile.
const DOCKERFILE: &str = "dockerfile";
const IGNORE: &str = ".dockerignore";
/// How often a transfer tells how far it is.
const TELL: Duration = Duration::from_millis(200);

/// A build to carry out.
pub(crate) struct Solve<'a> {
    /// Does the work.
    pub(crate) backend: &'a Arc<dyn Backend>,
    /// Where the build tells what it does.
    pub(crate) record: &'a Arc<Record>,
    /// Where files, secrets and so on come from.
    pub(crate) session: Option<Session>,
    /// What is asked of the frontend.
    pub(crate) attributes: &'a BTreeMap<String, String>,
    /// Names of the image.
    pub(crate) tags: Vec<ImageReference>,
    /// The context, if it comes with the request.
    pub(crate) upload: Option<Pieces>,
}

/// The Dockerfile's text and rules, if they are not in the context.
type Sent = Option<SentDockerfile>;

impl Solve<'_> {
    /// Carries the build out; returns the image.
    ///
    /// # Errors
    /// As the client is to read it.
    pub(crate) async fn run(mut self) -> Result<Digest, Status> {
        let mut asked = Asked::read(self.attributes)?;
        asked.request.tags = std::mem::take(&mut self.tags);
        let (source, sent) = self.open(&asked).await?;
        let mut request = asked.request;
        if let Some(sent) = sent {
            request.dockerfile_text = Some(sent.text);
            request.ignore_text = Some(sent.ignore.unwrap_or_default());
        }
        if let Some(session) = &self.session {
            session.shared_key().clone_into(&mut request.origin);
            let lender = SessionLender::new(session.clone(), self.backend.socket_directory());
            request.lender = Some(Borrowed(Arc::new(lender)));
        }
        let mut events = self.backend.build(source, request).await.map_err(Status::unknown)?;
        let mut progress = Progress::new(self.record, &asked.filename);
        while let Some(event) = events.recv().await {
            match event {
                Ok(event) => {
                    if let Some(image) = progress.take(event) {
                        return Ok(image);
                    }
                }
                Err(message) => return Err(progress.failed(message)),
            }
        }
        Err(Status::unknown("the build was cancelled"))
    }

    fn session(&self) -> Result<&Session, Status> {
        self.session.as_ref().ok_or_else(|| Status::unknown("the build needs a session, and names none"))
    }

    /// Brings the files here, or finds out where they are.
    async fn open(&mut self, asked: &Asked) -> Result<(Source, Sent), Status> {
        if let Some(upload) = self.upload.take() {
            return Ok((Source::Upload(upload), None));
        }
        let sent = match (&asked.dockerfile_key, &asked.remote) {
            (Some(key), _) => Some(self.dockerfile(key, &asked.filename).await?),
            (None, None) => Some(self.dockerfile(DOCKERFILE, &asked.filename).await?),
            (None, Some(_)) => None,
        };
        match &asked.remote {
            Some(address) if address.starts_with(upload::ADDRESS) => {
                Ok((Source::Upload(self.session()?.upload(address).await?), sent))
            }
            Some(address) => Ok((Source::Remote(address.clone()), sent)),
            None => {
                let mut sent = sent.unwrap_or_default();
                if sent.ignore.is_none() {
                    sent.ignore = self.ignore(&asked.context_key).await?;
                }
                let rules = sent.ignore.as_deref().map(ignore_rules).unwrap_or_default();
                let place = self.context(&asked.context_key, rules).await?;
                Ok((Source::Place(place), Some(sent)))
            }
        }
    }

    async fn dockerfile(&self, key: &str, filename: &str) -> Result<SentDockerfile, Status> {
        let task = Task::start(self.record, &format!("[internal] load build definition from {filename}"));
        let follow = vec![filename.to_owned(), format!("{filename}.dockerignore")];
        let loaded = async {
            let place = self.fetch(&task, "transferring dockerfile:", key, follow, Vec::new()).await?;
            let (path, name) = (place.path().to_owned(), filename.to_owned());
            let read = tokio::task::spawn_blocking(move || SentDockerfile::read(&path, &name)).await;
            let read = read.map_err(|error| Status::unknown(error.to_string()))?;
            read.map_err(|error| Status::unknown(format!("failed to read dockerfile: {error}")))
        };
        let loaded = loaded.await;
        task.end(loaded)
    }

    /// Loads the rules of the context itself.
    async fn ignore(&self, key: &str) -> Result<Option<String>, Status> {
        let task = Task::start(self.record, &format!("[internal] load {IGNORE}"));
        let loaded = async {
            let follow = vec![IGNORE.to_owned()];
            let place = self.fetch(&task, "transferring context:", key, follow, Vec::new()).await?;
            let path = place.path().to_owned();
            let read = tokio::task::spawn_blocking(move || cirro_build::read_ignore(&path)).await;
            let read = read.map_err(|error| Status::unknown(error.to_string()))?;
            read.map_err(|error| Status::unknown(error.to_string()))
        };
        let loaded = loaded.await;
        task.end(loaded)
    }

    async fn context(&self, key: &str, exclude: Vec<String>) -> Result<Box<dyn Place>, Status> {
        let task = Task::start(self.record, "[internal] load build context");
        let loaded = self.fetch(&task, "transferring context:", key, Vec::new(), exclude).await;
        task.end(loaded)
    }

    /// Receives files of a directory of the client's.
    async fn fetch(
        &self,
        task: &Task,
        part: &str,
        directory: &str,
        follow: Vec<String>,
        exclude: Vec<String>,
    ) -> Result<Box<dyn Place>, Status> {
        let session = self.session()?;
        let place = self.backend.open_place().await.map_err(Status::unknown)?;
        let received = Arc::new(AtomicU64::new(0));
        let wanted = Wanted { directory: directory.to_owned(), follow, exclude };
        let place = Arc::new(place);
        let receiving = session.receive(&wanted, place.clone(), received.clone());
        tokio::pin!(receiving);
        let mut ticks = tokio::time::interval(TELL);
        let result = loop {
            tokio::select! {
                result = &mut receiving => break result,
                _ = ticks.tick() => task.part(part, received.load(Ordering::Relaxed), false),
            }
        };
        task.part(part, received.load(Ordering::Relaxed), result.is_ok());
        match result {
            // Whoever wrote there is done.
            Ok(()) => {
                Arc::into_inner(place).ok_or_else(|| Status::unknown("the files are still being written"))
            }
            Err(status) if is_missing(&status) => {
                Err(Status::unknown(format!("the client has no directory {directory} for this build")))
            }
            Err(status) => Err(status),
        }
    }
}
