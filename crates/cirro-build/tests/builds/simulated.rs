//! A library and a runner that live in a temporary directory.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cirro_build::{BuildError, BuildEvent, BuildRequest, StepEvent};
use cirro_seams::Pending;
use cirro_seams::build::{
    BaseImage, BuildFault, BuildLibrary, BuildSources, CacheSpace, Fetched, GitSource, Sharing, Step,
    StepRunner, StepSource, WorkingLayer,
};
use cirro_seams::node::Output;
use cirro_types::{Digest, ImageConfig, ImageReference};
use tokio::sync::mpsc;

#[derive(Default)]
struct Held {
    names: BTreeMap<String, Digest>,
    images: BTreeMap<Digest, ImageConfig>,
    layers: BTreeMap<Digest, PathBuf>,
    cache: BTreeMap<Digest, Digest>,
    traces: BTreeMap<Digest, (Digest, Vec<u8>)>,
    open: BTreeSet<String>,
    opened: usize,
}

/// An image library in a directory; a layer's diff id is a digest of its tree without times.
pub(crate) struct Library {
    root: tempfile::TempDir,
    held: Mutex<Held>,
}

impl Library {
    pub(crate) fn new() -> Arc<Self> {
        let root = tempfile::tempdir().unwrap();
        Arc::new(Self { root, held: Mutex::default() })
    }

    /// Adds an image of one layer made by `fill`.
    pub(crate) fn add(
        &self,
        name: &str,
        fill: impl FnOnce(&Path),
        change: impl FnOnce(&mut ImageConfig),
    ) -> Digest {
        let layer = self.open(&[]);
        fill(&layer.upper);
        let diff_id = self.commit(&layer);
        let mut config =
            ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..Default::default() };
        config.rootfs.diff_ids.push(diff_id);
        change(&mut config);
        self.put(config, &[name.parse().unwrap()])
    }

    fn open(&self, below: &[Digest]) -> WorkingLayer {
        let mut held = self.held.lock().unwrap();
        held.opened += 1;
        let key = format!("scratch-{}", held.opened);
        let upper = self.root.path().join(&key).join("upper");
        let work = self.root.path().join(&key).join("work");
        std::fs::create_dir_all(&upper).unwrap();
        std::fs::create_dir_all(&work).unwrap();
        held.open.insert(key.clone());
        let lower = below.iter().rev().map(|layer| held.layers[layer].clone()).collect();
        WorkingLayer { key, lower, upper, work }
    }

    fn commit(&self, layer: &WorkingLayer) -> Digest {
        let mut tree = String::new();
        describe(&layer.upper, &layer.upper, &mut tree);
        let diff_id = Digest::of(tree.as_bytes());
        let mut held = self.held.lock().unwrap();
        assert!(held.open.remove(&layer.key), "{} is committed or dropped twice", layer.key);
        held.layers.insert(diff_id, layer.upper.clone());
        diff_id
    }

    pub(crate) fn put(&self, config: ImageConfig, tags: &[ImageReference]) -> Digest {
        let id = Digest::of(&serde_json::to_vec(&config).unwrap());
        let mut held = self.held.lock().unwrap();
        held.images.insert(id, config);
        for tag in tags {
            held.names.insert(tag.to_string(), id);
        }
        id
    }

    pub(crate) fn image(&self, id: Digest) -> ImageConfig {
        self.held.lock().unwrap().images[&id].clone()
    }

    /// Everything that is noted for later builds, as text.
    pub(crate) fn notes(&self) -> String {
        let held = self.held.lock().unwrap();
        let traces = held.traces.values().map(|(_, trace)| String::from_utf8_lossy(trace));
        traces.collect::<String>() + &format!("{:?}", held.cache)
    }

    pub(crate) fn images(&self) -> usize {
        self.held.lock().unwrap().images.len()
    }

    /// Keys of the scratch layers that are neither committed nor dropped.
    pub(crate) fn open_layers(&self) -> Vec<String> {
        self.held.lock().unwrap().open.iter().cloned().collect()
    }

    /// Finds a path in an image's layers, the top one first; links and whiteouts are not looked through.
    pub(crate) fn path(&self, id: Digest, path: &str) -> Option<PathBuf> {
        let held = self.held.lock().unwrap();
        let layers = &held.images[&id].rootfs.diff_ids;
        let found = |layer: &Digest| {
            let path = held.layers[layer].join(path.trim_start_matches('/'));
            path.symlink_metadata().is_ok().then_some(path)
        };
        layers.iter().rev().find_map(found)
    }

    pub(crate) fn text(&self, id: Digest, path: &str) -> String {
        let file = self.path(id, path).unwrap_or_else(|| panic!("{path} is not in the image"));
        std::fs::read_to_string(file).unwrap()
    }

    pub(crate) fn has(&self, id: Digest, path: &str) -> bool {
        self.path(id, path).is_some()
    }
}

/// Writes one line for everything in a tree.
fn describe(root: &Path, directory: &Path, out: &mut String) {
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let meta = path.symlink_metadata().unwrap();
        let shown = path.strip_prefix(root).unwrap().display().to_string();
        let content = if meta.is_symlink() {
            std::fs::read_link(&path).unwrap().display().to_string()
        } else if meta.is_file() {
            Digest::of(&std::fs::read(&path).unwrap()).to_string()
        } else {
            String::new()
        };
        out.push_str(&format!("{shown} {:o} {} {} {content}\n", meta.mode(), meta.uid(), meta.gid()));
        if meta.is_dir() {
            describe(root, &path, out);
        }
    }
}

struct Cache {
    path: PathBuf,
    is_new: bool,
}

impl CacheSpace for Cache {
    fn path(&self) -> &Path {
        &self.path
    }

    fn is_new(&self) -> bool {
        self.is_new
    }
}

impl BuildLibrary for Library {
    fn find(&self, name: &str) -> Pending<'_, Result<Option<BaseImage>, BuildFault>> {
        let held = self.held.lock().unwrap();
        let name = name.parse::<ImageReference>().map(|name| name.to_string()).unwrap_or_default();
        let image =
            held.names.get(&name).map(|id| BaseImage { id: *id, config: Arc::new(held.images[id].clone()) });
        Box::pin(async move { Ok(image) })
    }

    fn fetch(&self, name: &str, _: bool) -> Pending<'_, Result<Option<BaseImage>, BuildFault>> {
        self.find(name)
    }

    fn open_layer(&self, below: Vec<Digest>) -> Pending<'_, Result<WorkingLayer, BuildFault>> {
        let layer = self.open(&below);
        Box::pin(async move { Ok(layer) })
    }

    fn commit_layer(&self, layer: WorkingLayer) -> Pending<'_, Result<Digest, BuildFault>> {
        Box::pin(async move { Ok(self.commit(&layer)) })
    }

    fn drop_layer(&self, layer: WorkingLayer) -> Pending<'_, Result<(), BuildFault>> {
        Box::pin(async move {
            assert!(self.held.lock().unwrap().open.remove(&layer.key), "{} is dropped twice", layer.key);
            std::fs::remove_dir_all(layer.upper.parent().unwrap()).unwrap();
            Ok(())
        })
    }

    fn put_image(
        &self,
        config: ImageConfig,
        tags: Vec<ImageReference>,
    ) -> Pending<'_, Result<Digest, BuildFault>> {
        Box::pin(async move { Ok(self.put(config, &tags)) })
    }

    fn cached(&self, key: Digest) -> Pending<'_, Option<Digest>> {
        let layer = self.held.lock().unwrap().cache.get(&key).copied();
        Box::pin(async move { layer })
    }

    fn open_cache(&self, id: String, _: Sharing) -> Pending<'_, Result<Box<dyn CacheSpace>, BuildFault>> {
        let path = self.root.path().join(format!("cache-{}", Digest::of(id.as_bytes()).hex()));
        let is_new = std::fs::create_dir(&path).is_ok();
        Box::pin(async move { Ok(Box::new(Cache { path, is_new }) as Box<dyn CacheSpace>) })
    }

    fn trace(&self, slot: Digest) -> Pending<'_, Option<Vec<u8>>> {
        let trace = self.held.lock().unwrap().traces.get(&slot).map(|(_, trace)| trace.clone());
        Box::pin(async move { trace })
    }

    fn trace_stamp(&self, slot: Digest) -> Pending<'_, Option<Digest>> {
        let stamp = self.held.lock().unwrap().traces.get(&slot).map(|(stamp, _)| *stamp);
        Box::pin(async move { stamp })
    }

    fn keep_trace(&self, slot: Digest, stamp: Digest, trace: Vec<u8>) -> Pending<'_, ()> {
        self.held.lock().unwrap().traces.insert(slot, (stamp, trace));
        Box::pin(async {})
    }

    fn remember(&self, key: Digest, diff_id: Digest) -> Pending<'_, ()> {
        self.held.lock().unwrap().cache.insert(key, diff_id);
        Box::pin(async {})
    }
}

/// A repository and the reference in it that is asked for.
type Commit = (String, Option<String>);

/// What is elsewhere: files by address, and one commit per repository and reference, with its files.
#[derive(Default)]
pub(crate) struct Sources {
    pub(crate) files: Mutex<BTreeMap<String, String>>,
    pub(crate) repositories: Mutex<BTreeMap<Commit, BTreeMap<String, String>>>,
    /// Everything that was fetched.
    pub(crate) fetched: Mutex<Vec<String>>,
}

impl Sources {
    fn tree(files: &BTreeMap<String, String>, mode: u32) -> Result<Fetched, BuildFault> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        Ok(Fetched { root: dir.path().to_owned(), file: None, digest: None, hold: Box::new(dir) })
    }
}

impl BuildSources for Sources {
    fn download(&self, url: String, name: String) -> Pending<'_, Result<Fetched, BuildFault>> {
        Box::pin(async move {
            let text = self.files.lock().unwrap().get(&url).cloned();
            let text = text.ok_or_else(|| BuildFault(format!("{url}: 404")))?;
            let digest = Some(Digest::of(text.as_bytes()));
            self.fetched.lock().unwrap().push(url);
            let fetched = Self::tree(&[(name.clone(), text)].into(), 0o600)?;
            Ok(Fetched { file: Some(name), digest, ..fetched })
        })
    }

    fn commit(&self, source: GitSource) -> Pending<'_, Result<String, BuildFault>> {
        Box::pin(async move {
            let repositories = self.repositories.lock().unwrap();
            let files = repositories.get(&(source.url.clone(), source.reference.clone()));
            let files = files.ok_or_else(|| BuildFault(format!("{source:?} is not there")))?;
            Ok(Digest::of(format!("{files:?}").as_bytes()).hex()[..40].to_owned())
        })
    }

    fn checkout(
        &self,
        source: GitSource,
        _: String,
        keep_git_dir: bool,
    ) -> Pending<'_, Result<Fetched, BuildFault>> {
        Box::pin(async move {
            let mut files =
                self.repositories.lock().unwrap()[&(source.url.clone(), source.reference)].clone();
            self.fetched.lock().unwrap().push(source.url);
            if keep_git_dir {
                files.insert(".git/HEAD".into(), "commit".into());
            }
            Self::tree(&files, 0o644)
        })
    }
}

/// A runner that knows a few commands, which it carries out on the layer's upper directory:
/// `write PATH TEXT`, `env` (writes the environment to /env), `mount TARGET`, `say TEXT`, `fail CODE`, `hang`.
#[derive(Default)]
pub(crate) struct Runner {
    pub(crate) steps: Mutex<Vec<Step>>,
    /// Steps that hang, and of those the ones whose future is still there.
    pub(crate) hanging: Arc<tokio::sync::watch::Sender<usize>>,
    /// How many steps run at once at most.
    pub(crate) side_by_side: Mutex<(usize, usize)>,
}

impl Runner {
    pub(crate) fn commands(&self) -> Vec<String> {
        self.steps.lock().unwrap().iter().map(|step| step.args.last().unwrap().clone()).collect()
    }
}

struct Hanging(Arc<tokio::sync::watch::Sender<usize>>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl StepRunner for Runner {
    fn run(&self, step: Step, output: mpsc::Sender<Output>) -> Pending<'_, Result<i32, BuildFault>> {
        self.steps.lock().unwrap().push(step.clone());
        Box::pin(async move {
            {
                let mut count = self.side_by_side.lock().unwrap();
                count.0 += 1;
                count.1 = count.1.max(count.0);
            }
            // Lets the other stages come to their steps.
            for _ in 0..200 {
                tokio::task::yield_now().await;
            }
            let code = self.command(&step, &output).await;
            self.side_by_side.lock().unwrap().0 -= 1;
            Ok(code)
        })
    }
}

impl Runner {
    async fn command(&self, step: &Step, output: &mpsc::Sender<Output>) -> i32 {
        let line = step.args.last().unwrap().clone();
        let (command, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match command {
            "write" => {
                let (path, text) = rest.split_once(' ').unwrap();
                let path = step.layer.upper.join(path.trim_start_matches('/'));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
                0
            }
            "env" => {
                std::fs::write(step.layer.upper.join("env"), step.env.join("\n")).unwrap();
                0
            }
            // What a mount shows, by its files or its text; then, where it may, it leaves a file there.
            "mount" => {
                let mount = step.mounts.iter().find(|mount| mount.target == rest).expect("a mount");
                let seen = match &mount.source {
                    StepSource::Path(path) if path.is_file() => std::fs::read_to_string(path).unwrap(),
                    StepSource::Path(path) => {
                        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().flatten().collect();
                        names.sort_by_key(std::fs::DirEntry::file_name);
                        let names = names.iter().map(|entry| entry.file_name().into_string().unwrap());
                        let seen = names.collect::<Vec<_>>().join(" ");
                        if !mount.read_only {
                            std::fs::write(path.join("left"), "").unwrap();
                        }
                        seen
                    }
                    StepSource::Tmpfs(size) => format!("{size:?}"),
                    StepSource::Agent { socket, mode, .. } => format!("{} {mode:o}", socket.display()),
                    StepSource::Content { content, .. } => String::from_utf8(content.to_vec()).unwrap(),
                };
                output.send(Output::Stdout(Bytes::from(format!("<{seen}>\n")))).await.unwrap();
                0
            }
            "say" => {
                output.send(Output::Stdout(Bytes::from(format!("{rest}\n")))).await.unwrap();
                0
            }
            "fail" => rest.parse().unwrap(),
            "hang" => {
                self.hanging.send_modify(|count| *count += 1);
                let _guard = Hanging(self.hanging.clone());
                std::future::pending().await
            }
            script if script.starts_with("/dev/pipes/") => 0,
            other => panic!("the simulated runner does not know {other}"),
        }
    }
}

/// A bench to build on: library, runner and a context.
pub(crate) struct Bench {
    pub(crate) library: Arc<Library>,
    pub(crate) runner: Arc<Runner>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) context: tempfile::TempDir,
}

/// What a build came to.
pub(crate) struct Outcome {
    pub(crate) result: Result<Digest, BuildError>,
    pub(crate) lines: String,
    pub(crate) steps: Vec<StepEvent>,
}

impl Outcome {
    pub(crate) fn id(&self) -> Digest {
        *self.result.as_ref().unwrap_or_else(|error| panic!("{error}\n{}", self.lines))
    }

    pub(crate) fn error(&self) -> String {
        self.result.as_ref().expect_err("the build should fail").to_string()
    }

    /// Why each step that was carried out was not cached, by the step's number.
    pub(crate) fn why(&self) -> BTreeMap<usize, Vec<String>> {
        let why = |event: &StepEvent| match event {
            StepEvent::Missed { number, why } => Some((*number, why.clone())),
            _ => None,
        };
        self.steps.iter().filter_map(why).collect()
    }

    pub(crate) fn cached_steps(&self) -> usize {
        self.lines.matches("Using cache").count()
    }
}

impl Bench {
    /// A bench whose library has `base`: a shell, accounts, and a link from /app to /srv/app.
    pub(crate) fn new() -> Self {
        let library = Library::new();
        library.add(
            "base",
            |root| {
                for directory in ["bin", "etc", "srv/app", "usr/lib"] {
                    std::fs::create_dir_all(root.join(directory)).unwrap();
                }
                std::fs::write(root.join("bin/sh"), "shell").unwrap();
                std::fs::write(
                    root.join("etc/passwd"),
                    "root:x:0:0::/:/bin/sh\nnode:x:1000:1001::/:/bin/sh\n",
                )
                .unwrap();
                std::fs::write(root.join("etc/group"), "root:x:0:\nstaff:x:50:\n").unwrap();
                std::os::unix::fs::symlink("/srv/app", root.join("app")).unwrap();
            },
            |config| {
                config.config.env = vec!["PATH=/bin".into(), "LANG=C".into()];
                config.config.cmd = vec!["sh".into()];
            },
        );
        Self {
            library,
            runner: Arc::default(),
            sources: Arc::default(),
            context: tempfile::tempdir().unwrap(),
        }
    }

    /// Puts a file into the context.
    pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.context.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(crate) fn request(&self) -> BuildRequest {
        BuildRequest { context: self.context.path().into(), ..Default::default() }
    }

    /// Builds a Dockerfile.
    pub(crate) async fn build(&self, dockerfile: &str) -> Outcome {
        self.build_with(dockerfile, |_| {}).await
    }

    pub(crate) async fn build_with(
        &self,
        dockerfile: &str,
        change: impl FnOnce(&mut BuildRequest),
    ) -> Outcome {
        self.file("Dockerfile", dockerfile);
        let mut request = self.request();
        change(&mut request);
        let (sender, mut receiver) = mpsc::channel(1);
        let collect = async {
            let mut lines = String::new();
            let mut steps = Vec::new();
            while let Some(event) = receiver.recv().await {
                match event {
                    BuildEvent::Line(line) => lines.push_str(&line),
                    BuildEvent::Output(bytes) => lines.push_str(&String::from_utf8_lossy(&bytes)),
                    BuildEvent::Step(event) => steps.push(event),
                    BuildEvent::Image(_)
                    | BuildEvent::Outline(_)
                    | BuildEvent::Looking(_)
                    | BuildEvent::Found(_) => {}
                }
            }
            (lines, steps)
        };
        let build = cirro_build::build(
            request,
            self.library.clone(),
            self.runner.clone(),
            self.sources.clone(),
            sender,
        );
        let (result, (lines, steps)) = tokio::join!(build, collect);
        self.settled().await;
        Outcome { result, lines, steps }
    }

    /// Waits until no scratch layer is left: some go in tasks of their own.
    pub(crate) async fn settled(&self) {
        let settled = async {
            while !self.library.open_layers().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(10), settled).await;
        waited.unwrap_or_else(|_| panic!("left open: {:?}", self.library.open_layers()));
    }
}
