//! A backend that builds nothing: it shows what it was asked for.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cirro_build::{BuildEvent, BuildRequest, NamedContext, Outline, StageOutline, StepEvent, StepOutline};
use cirro_buildkit::backend::{Backend, CacheRecord, Pieces, Place, Source};
use cirro_seams::Pending;
use cirro_types::{Digest, ImageReference};
use tokio::sync::{mpsc, watch};

/// What it did.
#[derive(Default)]
pub(crate) struct Seen {
    /// Files of the context with their content.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) dockerfile: String,
    pub(crate) tags: Vec<String>,
    pub(crate) secret: Option<String>,
    pub(crate) credentials: Option<(String, String)>,
    pub(crate) remote: String,
    pub(crate) pushed: Vec<(String, Option<(String, String)>)>,
    pub(crate) forgotten: usize,
    /// Files of the directories that named contexts were lent.
    pub(crate) lent: Vec<(String, String)>,
    pub(crate) hosts: Vec<String>,
}

#[derive(Default)]
pub(crate) struct Shown {
    pub(crate) seen: Arc<Mutex<Seen>>,
    /// Layers of the image.
    pub(crate) layers: Vec<PathBuf>,
    /// How many builds run.
    pub(crate) running: watch::Sender<usize>,
}

struct Own(tempfile::TempDir);

impl Place for Own {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

fn read(root: &Path, path: &str, files: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(root.join(path)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = if path.is_empty() { name } else { format!("{path}/{name}") };
        let meta = root.join(&path).symlink_metadata().unwrap();
        if meta.is_dir() {
            read(root, &path, files);
        } else if meta.is_symlink() {
            files.push((path.clone(), std::fs::read_link(root.join(&path)).unwrap().display().to_string()));
        } else {
            files.push((path.clone(), std::fs::read_to_string(root.join(&path)).unwrap()));
        }
    }
    files.sort();
}

struct Running(watch::Sender<usize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|running| *running -= 1);
    }
}

pub(crate) fn image() -> Digest {
    Digest::of(b"image")
}

impl Backend for Shown {
    fn open_place(&self) -> Pending<'_, Result<Arc<dyn Place>, String>> {
        Box::pin(async { Ok(Arc::new(Own(tempfile::tempdir().unwrap())) as Arc<dyn Place>) })
    }

    fn build(
        &self,
        source: Source,
        request: BuildRequest,
    ) -> Pending<'_, Result<mpsc::Receiver<Result<BuildEvent, String>>, String>> {
        let seen = self.seen.clone();
        self.running.send_modify(|running| *running += 1);
        let running = Running(self.running.clone());
        Box::pin(async move {
            let mut files = Vec::new();
            let mut remote = String::new();
            match source {
                Source::Place(place) => read(place.path(), "", &mut files),
                Source::Remote(address) => remote = address,
                Source::Upload(mut pieces) => {
                    while let Some(piece) = pieces.recv().await {
                        remote.push_str(std::str::from_utf8(&piece?).unwrap());
                    }
                }
            }
            let lender = request.lender.clone();
            let (mut secret, mut credentials) = (None, None);
            let mut lent = Vec::new();
            for (name, context) in &request.contexts {
                let (NamedContext::Lent(directory), Some(lender)) = (context, &lender) else { continue };
                let fetched = lender.0.directory(name.clone(), directory.clone()).await;
                let fetched = fetched.map_err(|fault| fault.to_string())?.unwrap();
                read(&fetched.root, "", &mut lent);
            }
            if let Some(lender) = &lender {
                secret = lender.0.secret("token".into()).await.map_err(|fault| fault.to_string())?;
                let registry = "docker.io".to_owned();
                credentials = lender.0.credentials(registry).await.map_err(|fault| fault.to_string())?;
                let none = lender.0.secret("unknown".into()).await.map_err(|fault| fault.to_string())?;
                assert!(none.is_none());
            }
            {
                let mut seen = seen.lock().unwrap();
                seen.files = files;
                seen.dockerfile = request.dockerfile_text.clone().unwrap_or_default();
                seen.tags = request.tags.iter().map(ToString::to_string).collect();
                seen.secret = secret.map(|secret| String::from_utf8(secret.to_vec()).unwrap());
                seen.credentials = credentials;
                seen.remote = remote;
                seen.lent = lent;
                seen.hosts.clone_from(&request.extra_hosts);
            }
            let (sender, receiver) = mpsc::channel(16);
            tokio::spawn(async move {
                let text = request.dockerfile_text.unwrap_or_default();
                let (fails, hangs) = (text.contains("false"), text.contains("hang"));
                tokio::select! {
                    () = tell(&sender, text, fails, hangs) => {}
                    () = sender.closed() => {}
                }
                drop(running);
            });
            Ok(receiver)
        })
    }

    fn forget(&self, _: Digest) -> Pending<'_, ()> {
        self.seen.lock().unwrap().forgotten += 1;
        Box::pin(async {})
    }

    fn push(
        &self,
        image: ImageReference,
        credentials: Option<(String, String)>,
    ) -> Pending<'_, Result<(), String>> {
        self.seen.lock().unwrap().pushed.push((image.to_string(), credentials));
        Box::pin(async { Ok(()) })
    }

    fn save(&self, image: Digest, names: Vec<ImageReference>) -> Pending<'_, Result<Pieces, String>> {
        Box::pin(async move {
            let (sender, pieces) = mpsc::channel(1);
            sender.send(Ok(Bytes::from(format!("{image} {names:?}")))).await.unwrap();
            Ok(pieces)
        })
    }

    fn layers(&self, _: Digest) -> Pending<'_, Result<Vec<PathBuf>, String>> {
        Box::pin(async { Ok(self.layers.clone()) })
    }

    fn cache(&self) -> Pending<'_, Result<Vec<CacheRecord>, String>> {
        Box::pin(async { Ok(vec![CacheRecord { id: "a".into(), size: 7, shared: false, made: Some(1) }]) })
    }

    fn prune(&self, all: bool, _: Option<i64>) -> Pending<'_, Result<Vec<CacheRecord>, String>> {
        Box::pin(async move { if all { self.cache().await } else { Ok(Vec::new()) } })
    }

    fn host_gateway(&self) -> Option<std::net::IpAddr> {
        Some([172, 17, 0, 1].into())
    }

    fn socket_directory(&self) -> PathBuf {
        std::env::temp_dir()
    }

    fn version(&self) -> String {
        "test".into()
    }
}

async fn tell(sender: &mpsc::Sender<Result<BuildEvent, String>>, text: String, fails: bool, hangs: bool) {
    let step = |line, keyword: &str| StepOutline { line, keyword: keyword.into(), shown: true };
    let stage = StageOutline { name: None, steps: vec![step(1, "FROM"), step(2, "RUN")] };
    let outline = Outline { text, stages: vec![stage] };
    let number = 2;
    let started = StepEvent::Started { number, total: 2, stage: "0".into(), line: 2, text: "RUN x".into() };
    let message = "The command '/bin/sh -c x' returned a non-zero code: 3".to_owned();
    let ended = match fails {
        true => StepEvent::Failed {
            number,
            line: 2,
            text: "RUN x".into(),
            code: Some(3),
            message: message.clone(),
        },
        false => StepEvent::Done { number, took: Default::default() },
    };
    let events = [
        BuildEvent::Outline(Arc::new(outline)),
        BuildEvent::Step(started),
        BuildEvent::Output(Bytes::from_static(b"output\n")),
    ];
    for event in events {
        let _ = sender.send(Ok(event)).await;
    }
    if hangs {
        std::future::pending::<()>().await;
    }
    let _ = sender.send(Ok(BuildEvent::Step(ended))).await;
    let last = if fails { Err(message) } else { Ok(BuildEvent::Image(image())) };
    let _ = sender.send(last).await;
}
