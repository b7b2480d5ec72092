//! The whole: sessions, records and the backend, and the ways into them.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_grpc::{Status, server};
use cirro_types::Digest;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::LIMITS;
use crate::backend::{Backend, Pieces};
use crate::bridge::Gateways;
use crate::control::{Control, DOCKERFILE};
use crate::exporters::{Export, Outputs};
use crate::history::{Facts, History};
use crate::kept::Kept;
use crate::messages::Exporter;
use crate::session::{Introduction, Place, Session, SessionError, Sessions};
use crate::solve::Solve;
use crate::status::{Record, Records, Running};

/// Parts of a build's record that wait for whoever listens.
const TOLD: usize = 64;

/// Speaks BuildKit's protocol for a backend.
#[derive(Clone)]
pub struct BuildKit {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) records: Arc<Records>,
    pub(crate) gateways: Arc<Gateways>,
    pub(crate) history: Arc<History>,
    pub(crate) kept: Arc<Kept>,
}

/// A build as it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// What is asked of the frontend.
    pub attributes: BTreeMap<String, String>,
    /// Kinds of outputs, with their options.
    pub outputs: Vec<(String, BTreeMap<String, String>)>,
    /// Id of the session; none when empty.
    pub session: String,
}

impl Order {
    fn exporters(&self) -> Vec<Exporter> {
        let exporter = |(kind, attributes): &(String, BTreeMap<String, String>)| Exporter {
            kind: kind.clone(),
            attributes: attributes.clone(),
        };
        self.outputs.iter().map(exporter).collect()
    }
}

/// What a build that was asked for by `POST /build` tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// A part of its record, in the protocol's bytes.
    Status(Vec<u8>),
    /// The image.
    Image(Digest),
    /// It failed; last.
    Failed(String),
}

impl BuildKit {
    /// Starts without sessions and builds.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self {
            backend,
            sessions: Arc::default(),
            records: Arc::default(),
            gateways: Arc::default(),
            history: Arc::default(),
            kept: Arc::default(),
        }
    }

    /// Keeps a place for a session; it is run with [`Place::run`].
    ///
    /// # Errors
    /// If there is one of that id, or too many.
    pub fn open_session(&self, introduction: Introduction) -> Result<Place, SessionError> {
        self.sessions.reserve(introduction)
    }

    /// Forgets the contexts that are kept so that clients send only what changed.
    pub fn forget_contexts(&self) {
        self.kept.clear();
    }

    /// Serves the control connection until it ends. Its builds end with it.
    pub async fn serve(&self, connection: impl AsyncRead + AsyncWrite + Unpin) {
        if let Err(error) = server::serve(connection, Arc::new(Control(self.clone())), LIMITS).await {
            tracing::debug!(%error, "connection of a BuildKit client ended");
        }
    }

    /// Starts a build that is asked for by `POST /build?version=2`. Dropping the receiver ends it.
    ///
    /// `reference` names the build, `upload` is a context that came with the request.
    pub fn start(&self, reference: String, order: Order, upload: Option<Pieces>) -> mpsc::Receiver<Told> {
        let (sender, receiver) = mpsc::channel(TOLD);
        let whole = self.clone();
        tokio::spawn(async move {
            let gone = sender.clone();
            tokio::select! {
                () = whole.run(&reference, order, upload, &sender) => {}
                () = gone.closed() => {}
            }
        });
        receiver
    }

    async fn run(&self, reference: &str, order: Order, upload: Option<Pieces>, sender: &mpsc::Sender<Told>) {
        let running = match self.records.begin(reference) {
            Ok(running) => running,
            Err(status) => return drop(sender.send(Told::Failed(status.message)).await),
        };
        let mut listener = running.record().listen();
        let telling = async {
            while let Some(part) = listener.next().await {
                if sender.send(Told::Status(part.encode_to_vec())).await.is_err() {
                    return;
                }
            }
        };
        let building = async {
            let facts = Facts {
                reference: reference.to_owned(),
                frontend: DOCKERFILE.into(),
                attributes: order.attributes.clone(),
                exporters: order.exporters(),
            };
            let entry = self.history.begin(facts, running.record());
            let built = self.build(running.record(), order, upload).await;
            entry.end(&built.as_ref().map(|(_, told)| told.clone()).map_err(Status::clone));
            // Its end lets `telling` end.
            drop(running);
            built
        };
        let (built, ()) = tokio::join!(building, telling);
        let last = match built {
            // Not if it was only given out.
            Ok((image, told)) if told.contains_key("containerimage.digest") => Told::Image(image),
            Ok(_) => return,
            Err(status) => Told::Failed(status.message),
        };
        let _ = sender.send(last).await;
    }

    /// Builds, and gives the image out; returns it with what clients are told of it.
    async fn build(
        &self,
        record: &Arc<Record>,
        order: Order,
        upload: Option<Pieces>,
    ) -> Result<(Digest, BTreeMap<String, String>), Status> {
        let outputs = Outputs::read(&order.exporters())?;
        let session = self.session(&order.session).await?;
        let image = self.solve(record, session.clone(), &order.attributes, &outputs, upload).await?;
        let told = self.export(record, session.as_ref(), &outputs, image).await?;
        Ok((image, told))
    }

    /// Finds a session by its id.
    pub(crate) async fn session(&self, id: &str) -> Result<Option<Session>, Status> {
        match id {
            "" => Ok(None),
            id => self.sessions.wait(id).await.map(Some),
        }
    }

    pub(crate) async fn solve(
        &self,
        record: &Arc<Record>,
        session: Option<Session>,
        attributes: &BTreeMap<String, String>,
        outputs: &Outputs,
        upload: Option<Pieces>,
    ) -> Result<Digest, Status> {
        let tags = outputs.library_names();
        Solve { backend: &self.backend, record, session, kept: &self.kept, attributes, tags, upload }
            .run()
            .await
    }

    pub(crate) async fn export(
        &self,
        record: &Arc<Record>,
        session: Option<&Session>,
        outputs: &Outputs,
        image: Digest,
    ) -> Result<BTreeMap<String, String>, Status> {
        outputs.write(&Export { backend: &self.backend, record, session }, image).await
    }

    pub(crate) fn begin(&self, reference: &str) -> Result<Running, Status> {
        self.records.begin(reference)
    }
}
