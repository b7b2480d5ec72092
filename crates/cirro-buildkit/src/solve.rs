//! One build: files out of the session, the builder, what it tells.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_build::SentDockerfile;
use cirro_grpc::Status;
use cirro_seams::build::Borrowed;
use cirro_types::{Digest, ImageReference};

use crate::attributes::Asked;
use crate::backend::{Backend, Pieces, Source};
use crate::fetch::Files;
use crate::kept::Kept;
use crate::lender::SessionLender;
use crate::progress::Progress;
use crate::session::Session;
use crate::session::upload;
use crate::status::Record;

/// The client's directory that has the Dockerfile.
const DOCKERFILE: &str = "dockerfile";

/// A build to carry out.
pub(crate) struct Solve<'a> {
    /// Does the work.
    pub(crate) backend: &'a Arc<dyn Backend>,
    /// Where the build tells what it does.
    pub(crate) record: &'a Arc<Record>,
    /// Where files, secrets and so on come from.
    pub(crate) session: Option<Session>,
    /// Contexts of earlier builds.
    pub(crate) kept: &'a Arc<Kept>,
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
            let lender = SessionLender::new(self.files(session), self.backend.socket_directory());
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

    fn files(&self, session: &Session) -> Files {
        Files {
            backend: self.backend.clone(),
            record: self.record.clone(),
            session: session.clone(),
            kept: self.kept.clone(),
        }
    }

    /// Brings the files here, or finds out where they are.
    async fn open(&mut self, asked: &Asked) -> Result<(Source, Sent), Status> {
        if let Some(upload) = self.upload.take() {
            return Ok((Source::Upload(upload), None));
        }
        let sent = match (&asked.dockerfile_key, &asked.remote) {
            (Some(key), _) => Some(self.files(self.session()?).dockerfile(key, &asked.filename).await?),
            (None, None) => Some(self.files(self.session()?).dockerfile(DOCKERFILE, &asked.filename).await?),
            (None, Some(_)) => None,
        };
        match &asked.remote {
            Some(address) if address.starts_with(upload::ADDRESS) => {
                Ok((Source::Upload(self.session()?.upload(address).await?), sent))
            }
            Some(address) => Ok((Source::Remote(address.clone()), sent)),
            None => {
                let mut sent = sent.unwrap_or_default();
                let files = self.files(self.session()?);
                if sent.ignore.is_none() {
                    sent.ignore = files.ignore("internal", &asked.context_key).await?;
                }
                let title = "[internal] load build context";
                let place = files.context(title, &asked.context_key, sent.ignore.as_deref()).await?;
                Ok((Source::Place(place), Some(sent)))
            }
        }
    }
}
