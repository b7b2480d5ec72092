//! A whole build: from a request to an image.
//!
//! ## Theory of operation
//! context ─▶ Dockerfile ─▶ which stages ([`crate::plan`]) ─▶ each stage a task ([`crate::stage`]) ─▶ image
//!
//! Only the stages that the target needs are built, each as soon as those it is built on or copies from are done, at
//! most [`PARALLEL_STAGES`] at a time. A stage tells what it does into a channel of its own, and the channels are read
//! out in the order of the Dockerfile, so that what a person reads is never mixed. A stage that runs ahead waits when
//! its channel is full; the stage being read out waits for nobody behind it, so none of them waits for ever.
//!
//! Dropping the build aborts the stages' tasks, which ends a running step; see [`crate::scratch`] for the layers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cirro_seams::build::{BuildLibrary, BuildSources, StepRunner};
use cirro_types::{Digest, ImageConfig};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::dockerfile::{self, Dockerfile, Instruction, Kind};
use crate::error::Refusal;
use crate::named::Contexts;
use crate::plan::{self, Base, GlobalArgs};
use crate::stage::{Job, Shared, Work};
use crate::state::State;
use crate::traces::Traces;
use crate::{BuildError, BuildEvent, BuildRequest, Outline};

const PARALLEL_STAGES: usize = 4;
/// Events of a stage that wait to be read out.
const STAGE_EVENTS: usize = 256;

/// Builds an image; returns its id.
///
/// Progress goes to `events` in the classic builder's words, every line with its line end. A listener that has gone
/// away does not end the build: whoever no longer wants it drops the future. That ends the running step, stops file
/// work, and gives every scratch layer back to the library, from a task of its own since nobody waits any more.
///
/// # Errors
/// [`BuildError`] names the instruction and its line. Nothing is left but layers that a next build may use.
pub async fn build(
    request: BuildRequest,
    library: Arc<dyn BuildLibrary>,
    runner: Arc<dyn StepRunner>,
    sources: Arc<dyn BuildSources>,
    events: mpsc::Sender<BuildEvent>,
) -> Result<Digest, BuildError> {
    let (request, context) = load(request).await?;
    let mut parsed = dockerfile::parse(&context.dockerfile);
    let contexts = Contexts::new(&request.contexts);
    if let Ok(file) = &mut parsed {
        contexts.replace_stages(file);
    }
    // Of a Dockerfile that is wrong, its text: whoever shows the error shows the line.
    let outline = Outline::of(&context.dockerfile, parsed.as_ref().ok());
    let _ = events.send(BuildEvent::Outline(Arc::new(outline))).await;
    let file = parsed?;
    let graph = Graph::resolve(&file, &request, &contexts, &library, &events).await?;
    let epoch = epoch(&request)?;
    let unconsumed = plan::unconsumed(&file, &request.build_args);
    let shared = Arc::new(Shared {
        library,
        runner,
        sources,
        escape: file.escape,
        stages: file.stages,
        global: graph.global.clone(),
        context: context.root,
        contexts,
        ignore: Arc::new(context.ignore),
        epoch,
        now: timestamp(epoch),
        traces: Traces::of(&request),
        steps: graph.nodes.values().map(|node| node.steps).sum(),
        request,
    });
    let built = Stages::new(shared.clone(), graph).run(&events).await;
    // Of a failed build too: what it did is what the next one is compared with.
    shared.traces.keep(&shared.library).await;
    let id = finish(&shared, built?).await?;
    let mut lines = Vec::new();
    if !unconsumed.is_empty() {
        let names = unconsumed.join(" ");
        lines.push(format!("[Warning] One or more build-args [{names}] were not consumed\n"));
    }
    lines.push(format!("Successfully built {}\n", id.short()));
    lines.extend(shared.request.tags.iter().map(|tag| format!("Successfully tagged {}\n", tag.familiar())));
    // The image is there whether or not somebody listens.
    let _ = events.send(BuildEvent::Image(id)).await;
    for line in lines {
        let _ = events.send(BuildEvent::Line(line)).await;
    }
    Ok(id)
}

async fn load(request: BuildRequest) -> Result<(BuildRequest, Context), BuildError> {
    let loading = tokio::task::spawn_blocking(move || {
        let context = Context::load(&request)?;
        Ok((request, context))
    });
    loading.await.unwrap_or_else(|error| Err(BuildError::Context { message: error.to_string() }))
}

/// A stage in the graph.
struct Node {
    base: Base,
    image: Option<ImageConfig>,
    triggers: Vec<Instruction>,
    needs: BTreeSet<usize>,
    first_step: usize,
    steps: usize,
}

/// The stages that the target needs.
struct Graph {
    global: GlobalArgs,
    target: usize,
    nodes: BTreeMap<usize, Node>,
}

impl Graph {
    async fn resolve(
        file: &Dockerfile,
        request: &BuildRequest,
        contexts: &Contexts,
        library: &Arc<dyn BuildLibrary>,
        events: &mpsc::Sender<BuildEvent>,
    ) -> Result<Self, BuildError> {
        let global = GlobalArgs::of(file, &request.build_args)?;
        let target = plan::target(file, request.target.as_deref())?;
        let mut nodes = BTreeMap::new();
        let mut wanted = VecDeque::from([target]);
        while let Some(index) = wanted.pop_front() {
            if nodes.contains_key(&index) {
                continue;
            }
            let base = plan::base(file, index, &global, contexts)?;
            let node = Node::resolve(file, index, base, library, request.pull, events).await?;
            wanted.extend(&node.needs);
            nodes.insert(index, node);
        }
        let mut step = 1;
        for node in nodes.values_mut() {
            node.first_step = step;
            step += node.steps;
        }
        Ok(Self { global, target, nodes })
    }
}

impl Node {
    async fn resolve(
        file: &Dockerfile,
        index: usize,
        base: Base,
        library: &Arc<dyn BuildLibrary>,
        pull: bool,
        events: &mpsc::Sender<BuildEvent>,
    ) -> Result<Self, BuildError> {
        let stage = &file.stages[index];
        let line = stage.from.line;
        plan::check_supported(&stage.from)?;
        let image = match &base {
            Base::Image(name) => {
                let _ = events.send(BuildEvent::Looking(name.clone())).await;
                let found = library.fetch(name, pull).await.map_err(|fault| Refusal::from(fault).on(line))?;
                let found = found
                    .ok_or_else(|| Refusal::new(format!("FROM failed: No such image: {name}")).on(line))?;
                let _ = events.send(BuildEvent::Found(name.clone())).await;
                Some((*found.config).clone())
            }
            Base::Scratch | Base::Stage(_) | Base::Context(_) => None,
        };
        let on_build = match (&base, &image) {
            (Base::Stage(earlier), _) => on_build(&file.stages[*earlier].body),
            (_, Some(config)) => config.config.on_build.clone(),
            _ => Vec::new(),
        };
        let triggers: Vec<Instruction> =
            on_build.iter().map(|text| dockerfile::parse_trigger(text, line)).collect::<Result<_, _>>()?;
        stage.body.iter().chain(&triggers).try_for_each(plan::check_supported)?;
        let mut needs = plan::copied_stages(&file.stages, index, &stage.body)?;
        needs.extend(plan::copied_stages(&file.stages, index, &triggers)?);
        if let Base::Stage(earlier) = base {
            needs.insert(earlier);
        }
        Ok(Self { base, image, triggers, needs, first_step: 0, steps: 1 + stage.body.len() })
    }
}

fn on_build(body: &[Instruction]) -> Vec<String> {
    let trigger = |instruction: &Instruction| match &instruction.kind {
        Kind::OnBuild(text) => Some(text.clone()),
        _ => None,
    };
    body.iter().filter_map(trigger).collect()
}

/// The stages at work.
struct Stages {
    shared: Arc<Shared>,
    target: usize,
    waiting: BTreeMap<usize, Node>,
    done: BTreeMap<usize, State>,
    tasks: JoinSet<(usize, Result<State, BuildError>)>,
    /// Sending ends of the stages that are not started.
    senders: BTreeMap<usize, mpsc::Sender<BuildEvent>>,
    /// Receiving ends, in the order they are read out.
    told: VecDeque<(usize, mpsc::Receiver<BuildEvent>)>,
}

impl Stages {
    fn new(shared: Arc<Shared>, graph: Graph) -> Self {
        let mut senders = BTreeMap::new();
        let mut told = VecDeque::new();
        for index in graph.nodes.keys() {
            let (sender, receiver) = mpsc::channel(STAGE_EVENTS);
            senders.insert(*index, sender);
            told.push_back((*index, receiver));
        }
        let (target, waiting) = (graph.target, graph.nodes);
        Self { shared, target, waiting, done: BTreeMap::new(), tasks: JoinSet::new(), senders, told }
    }

    async fn run(mut self, events: &mpsc::Sender<BuildEvent>) -> Result<State, BuildError> {
        loop {
            self.start_ready();
            let Some((_, front)) = self.told.front_mut() else { break };
            tokio::select! {
                event = front.recv() => match event {
                    Some(event) => drop(events.send(event).await),
                    None => drop(self.told.pop_front()),
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended, events).await?,
            }
        }
        // The last channel may close just before its task is joined.
        while let Some(ended) = self.tasks.join_next().await {
            self.ended(ended, events).await?;
        }
        let state = self.done.remove(&self.target);
        state.ok_or_else(|| BuildError::Request { message: "the target stage was not built".into() })
    }

    fn start_ready(&mut self) {
        let ready: Vec<usize> = self
            .waiting
            .iter()
            .filter(|(_, node)| node.needs.iter().all(|needed| self.done.contains_key(needed)))
            .map(|(index, _)| *index)
            .take(PARALLEL_STAGES.saturating_sub(self.tasks.len()))
            .collect();
        for index in ready {
            if let (Some(node), Some(sender)) = (self.waiting.remove(&index), self.senders.remove(&index)) {
                let (job, base) = self.job(index, node);
                let work = Work::new(self.shared.clone(), job, base, sender);
                self.tasks.spawn(async move { (index, work.run().await) });
            }
        }
    }

    fn job(&self, index: usize, node: Node) -> (Job, State) {
        let now = self.shared.now.clone();
        let context = match &node.base {
            Base::Context(name) => Some(name.clone()),
            _ => None,
        };
        let base = match (node.base, node.image) {
            (Base::Stage(earlier), _) => self.done[&earlier].after(),
            (_, Some(config)) => State::on(config, now),
            _ => State::scratch(now),
        };
        let finished = node.needs.iter().map(|stage| (*stage, self.done[stage].layers().to_vec())).collect();
        let (first_step, triggers) = (node.first_step, node.triggers);
        (Job { index, first_step, context, triggers, finished }, base)
    }

    async fn ended(
        &mut self,
        ended: Result<(usize, Result<State, BuildError>), tokio::task::JoinError>,
        events: &mpsc::Sender<BuildEvent>,
    ) -> Result<(), BuildError> {
        let (index, state) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                return Err(BuildError::Request { message: format!("a stage ended early: {error}") });
            }
        };
        match state {
            Ok(state) => drop(self.done.insert(index, state)),
            Err(error) => {
                self.tell_last_words(index, events).await;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads out what a failed stage still had to say.
    async fn tell_last_words(&mut self, failed: usize, events: &mpsc::Sender<BuildEvent>) {
        if let Some((_, told)) = self.told.iter_mut().find(|(index, _)| *index == failed) {
            while let Ok(event) = told.try_recv() {
                let _ = events.send(event).await;
            }
        }
    }
}

/// Stores the image.
async fn finish(shared: &Shared, state: State) -> Result<Digest, BuildError> {
    let mut config = state.config;
    config.config.labels.extend(shared.request.labels.clone());
    config.created = Some(shared.now.clone());
    let config = match shared.epoch {
        Some(_) => config,
        None => keep_identity(shared, config).await?,
    };
    let put = shared.library.put_image(config, shared.request.tags.clone()).await;
    put.map_err(|source| BuildError::Store { source })
}

/// Returns the tagged image's own configuration if only its times differ from `config`.
///
/// A build that changed nothing then gives the same image id, as with Docker, and no nameless twin is left behind.
async fn keep_identity(shared: &Shared, config: ImageConfig) -> Result<ImageConfig, BuildError> {
    let timeless = without_times(config.clone());
    for tag in &shared.request.tags {
        let found =
            shared.library.find(&tag.to_string()).await.map_err(|source| BuildError::Store { source })?;
        if let Some(image) = found
            && without_times((*image.config).clone()) == timeless
        {
            return Ok((*image.config).clone());
        }
    }
    Ok(config)
}

fn without_times(mut config: ImageConfig) -> ImageConfig {
    config.created = None;
    config.history.iter_mut().for_each(|entry| entry.created = None);
    config
}

/// Reads `SOURCE_DATE_EPOCH`, which makes a build's times the same wherever it runs.
fn epoch(request: &BuildRequest) -> Result<Option<i64>, BuildError> {
    let Some(text) =
        request.build_args.get("SOURCE_DATE_EPOCH").cloned().flatten().filter(|text| !text.is_empty())
    else {
        return Ok(None);
    };
    let seconds = text.parse::<i64>().ok().filter(|seconds| jiff::Timestamp::from_second(*seconds).is_ok());
    seconds
        .map(Some)
        .ok_or_else(|| BuildError::Request { message: format!("invalid SOURCE_DATE_EPOCH: {text}") })
}

fn timestamp(epoch: Option<i64>) -> String {
    let fixed = epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    fixed.unwrap_or_else(jiff::Timestamp::now).to_string()
}
