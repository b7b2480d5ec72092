//! One stage carried out: instruction by instruction, each layer by its content key.

mod explain;
mod fetch;
pub(crate) mod layer;
pub(crate) mod mounts;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_seams::build::{BuildFault, BuildLibrary, BuildSources, StepRunner};
use cirro_types::Digest;
use tokio::sync::mpsc;

use crate::dockerfile::{Instruction, Kind, Stage};
use crate::error::Refusal;
use crate::expand::Expander;
use crate::ignore::Ignore;
use crate::metadata;
use crate::named::Contexts;
use crate::plan::{self, GlobalArgs};
use crate::progress::{StepEvent, Timed};
use crate::scratch::Scratch;
use crate::state::State;
use crate::traces::Traces;
use crate::union::Union;
use crate::{BuildError, BuildEvent, BuildRequest};

/// What every stage of a build shares.
pub(crate) struct Shared {
    pub(crate) request: BuildRequest,
    pub(crate) library: Arc<dyn BuildLibrary>,
    pub(crate) runner: Arc<dyn StepRunner>,
    pub(crate) sources: Arc<dyn BuildSources>,
    pub(crate) escape: char,
    pub(crate) stages: Vec<Stage>,
    pub(crate) global: GlobalArgs,
    pub(crate) context: Union,
    pub(crate) contexts: Contexts,
    pub(crate) ignore: Arc<Ignore>,
    /// `SOURCE_DATE_EPOCH`, seconds since 1970.
    pub(crate) epoch: Option<i64>,
    /// RFC 3339 time of this build.
    pub(crate) now: String,
    pub(crate) traces: Traces,
    /// Number of all steps.
    pub(crate) steps: usize,
}

/// A stage to carry out.
pub(crate) struct Job {
    /// Its place in the Dockerfile.
    pub(crate) index: usize,
    /// Number of its `FROM` among all steps, from 1.
    pub(crate) first_step: usize,
    /// The named context that it begins with, if it is not an image.
    pub(crate) context: Option<String>,
    /// `ONBUILD` instructions of its base.
    pub(crate) triggers: Vec<Instruction>,
    /// Finished stages that it may copy from: their layers.
    pub(crate) finished: BTreeMap<usize, Vec<Digest>>,
}

/// A stage at work.
pub(crate) struct Work {
    shared: Arc<Shared>,
    job: Job,
    state: State,
    /// How many of its layers are the base's.
    base_layers: usize,
    timed: Timed,
    events: mpsc::Sender<BuildEvent>,
}

impl Work {
    /// Takes a job that starts with `base`; what it tells goes to `events`.
    pub(crate) fn new(shared: Arc<Shared>, job: Job, base: State, events: mpsc::Sender<BuildEvent>) -> Self {
        let base_layers = base.layers().len();
        let timed = Timed::start(job.first_step, 0, "");
        Self { shared, job, state: base, base_layers, timed, events }
    }

    /// Carries the stage out; returns what it has become.
    pub(crate) async fn run(mut self) -> Result<State, BuildError> {
        let stage = self.shared.stages[self.job.index].clone();
        let mut number = self.job.first_step;
        self.step(number, &stage.from).await;
        if let Err(error) = self.begin(&stage.from).await {
            return self.ended(Err(error)).await.map(|()| self.state);
        }
        self.line(format!(" ---> {}\n", self.state.short_id())).await;
        let triggered = self.run_triggers().await;
        self.ended(triggered).await?;
        for instruction in &stage.body {
            number += 1;
            self.step(number, instruction).await;
            let done = self.instruction(instruction).await;
            self.ended(done).await?;
            self.line(format!(" ---> {}\n", self.state.short_id())).await;
        }
        Ok(self.state)
    }

    /// Puts what a named context has below everything else.
    async fn begin(&mut self, from: &Instruction) -> Result<(), BuildError> {
        let Some(name) = self.job.context.take() else { return Ok(()) };
        let layers = self.shared.contexts.layers(&self.shared, &name).await;
        let layers =
            layers.map_err(|refusal| Refusal::new(format!("FROM failed: {refusal}")).on(from.line))?;
        for layer in layers.unwrap_or_default() {
            self.state.add_layer(layer, format!("[context {name}] load from client"));
        }
        self.base_layers = self.state.layers().len();
        Ok(())
    }

    async fn run_triggers(&mut self) -> Result<(), BuildError> {
        let triggers = std::mem::take(&mut self.job.triggers);
        self.state.config.config.on_build.clear();
        if triggers.is_empty() {
            return Ok(());
        }
        let plural = if triggers.len() == 1 { "" } else { "s" };
        self.line(format!("# Executing {} build trigger{plural}\n", triggers.len())).await;
        for (number, trigger) in triggers.iter().enumerate() {
            self.line(format!("Trigger {number}, {}\n", trigger.original)).await;
            self.instruction(trigger).await?;
            self.line(format!(" ---> {}\n", self.state.short_id())).await;
        }
        Ok(())
    }

    async fn instruction(&mut self, instruction: &Instruction) -> Result<(), BuildError> {
        let done = match &instruction.kind {
            Kind::Arg(args) => self.declare(args),
            Kind::Run { command, documents } => {
                return self.run_command(instruction, command, documents).await;
            }
            Kind::Copy(files) => self.transfer(instruction, files, false).await,
            Kind::Add(files) => self.transfer(instruction, files, true).await,
            Kind::Workdir(path) => self.workdir(path).await,
            _ => self.metadata(instruction),
        };
        done.map_err(|refusal| {
            Refusal::new(format!("{} failed: {refusal}", instruction.keyword)).on(instruction.line)
        })
    }

    fn metadata(&mut self, instruction: &Instruction) -> Result<(), Refusal> {
        let before = self.state.clone();
        let lookup = |name: &str| before.variable(name);
        let expander = Expander { escape: self.shared.escape, lookup: &lookup };
        if let Some(created_by) = metadata::apply(&mut self.state, instruction, &expander)? {
            self.state.add_metadata(created_by);
        }
        Ok(())
    }

    /// `ARG`: the value given with the build, else the default, else the one from before the first `FROM`.
    fn declare(&mut self, args: &[(String, Option<String>)]) -> Result<(), Refusal> {
        let mut created_by = "ARG".to_owned();
        for (name, default) in args {
            let default = default.as_ref().map(|text| self.expand(text)).transpose()?;
            let given = self.shared.request.build_args.get(name).cloned().flatten();
            let value = given.or(default).or_else(|| self.shared.global.get(name));
            created_by.push_str(&match &value {
                Some(value) => format!(" {name}={value}"),
                None => format!(" {name}"),
            });
            self.state.set_arg(name, value);
        }
        self.state.add_metadata(created_by);
        Ok(())
    }

    fn expand(&self, text: &str) -> Result<String, Refusal> {
        let lookup = |name: &str| self.state.variable(name);
        Ok(Expander { escape: self.shared.escape, lookup: &lookup }.word(text)?)
    }

    /// Returns the layers that a `--from` names.
    async fn layers_of(&self, text: &str) -> Result<Vec<Digest>, Refusal> {
        match plan::from(&self.shared.stages, self.job.index, text)? {
            plan::From::Stage(stage) => {
                let layers = self.job.finished.get(&stage).cloned();
                layers.ok_or_else(|| Refusal::new(format!("stage {stage} is not built")))
            }
            plan::From::Image(name) => {
                if let Some(layers) = self.shared.contexts.layers(&self.shared, &name).await? {
                    return Ok(layers);
                }
                let image = self.shared.library.fetch(&name, false).await?;
                let image = image.ok_or_else(|| Refusal::new(format!("No such image: {name}")))?;
                Ok(image.config.rootfs.diff_ids.clone())
            }
        }
    }

    /// Opens scratch space over the stage's layers.
    async fn open(&self) -> Result<Arc<Scratch>, BuildFault> {
        Scratch::open(&self.shared.library, self.state.layers()).await
    }

    async fn step(&mut self, number: usize, instruction: &Instruction) {
        let steps = self.shared.steps;
        self.line(format!("Step {number}/{steps} : {}\n", instruction.original)).await;
        self.timed = Timed::start(number, instruction.line, &instruction.original);
        let stage = self.shared.stages[self.job.index].title(self.job.index);
        let (line, text) = (instruction.line, instruction.original.clone());
        self.event(BuildEvent::Step(StepEvent::Started { number, total: steps, stage, line, text })).await;
    }

    /// Tells how a step ended.
    async fn ended(&self, result: Result<(), BuildError>) -> Result<(), BuildError> {
        let event = match &result {
            Ok(()) => self.timed.done(),
            Err(error) => self.timed.failed(error),
        };
        self.event(BuildEvent::Step(event)).await;
        result
    }

    async fn line(&self, line: String) {
        self.event(BuildEvent::Line(line)).await;
    }

    async fn event(&self, event: BuildEvent) {
        // Whoever does not listen any more drops the build; that is how it ends.
        let _ = self.events.send(event).await;
    }
}
