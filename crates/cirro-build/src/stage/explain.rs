//! What a step notes about its inputs, and what it says when the cache has nothing for it.

use cirro_types::Digest;

use super::Work;
use crate::BuildEvent;
use crate::progress::StepEvent;
use crate::trace::{Inputs, StepTrace};

impl Work {
    /// Starts the inputs of a step of this stage: what is below it.
    pub(super) fn inputs(&self) -> Inputs {
        let mut inputs = Inputs::default();
        let (base, own) = self.state.layers().split_at(self.base_layers);
        inputs.note_list("the base image", base.iter().map(Digest::to_string));
        inputs.note_list("the result of a step before it", own.iter().map(Digest::to_string));
        inputs
    }

    /// Adds what a command sees to its inputs.
    pub(super) fn note_environment(&self, inputs: &mut Inputs) {
        for pair in self.state.run_env() {
            let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
            let declared = self.state.args.iter().any(|(arg, _)| arg == name);
            let kind = if declared { "build arg" } else { "variable" };
            inputs.note(format!("{kind} {name}"), value.as_bytes());
        }
        inputs.note("the working directory", self.state.working_directory().as_bytes());
        inputs.note("the user", self.state.config.config.user.as_bytes());
    }

    /// Looks for the layer that an earlier build noted under a key, and says so, or why there is none.
    pub(super) async fn cached(&self, key: Digest, inputs: Inputs) -> Option<Digest> {
        let shared = &self.shared;
        let trace = StepTrace {
            stage: shared.stages[self.job.index].title(self.job.index),
            ordinal: self.timed.number - self.job.first_step,
            text: self.timed.text.clone(),
            key: key.to_string(),
            inputs,
        };
        let found = match self.leaves_cache() {
            true => None,
            false => shared.library.cached(key).await,
        };
        let number = self.timed.number;
        if found.is_some() {
            self.line(" ---> Using cache\n".into()).await;
            self.event(BuildEvent::Step(StepEvent::Cached { number })).await;
        } else {
            let why = self.why(&trace).await;
            self.event(BuildEvent::Step(StepEvent::Missed { number, why })).await;
        }
        shared.traces.add(trace);
        found
    }

    /// Says whether this stage is to be carried out whatever is cached.
    fn leaves_cache(&self) -> bool {
        let (request, stage) = (&self.shared.request, &self.shared.stages[self.job.index]);
        let named = |name: &String| stage.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name));
        request.no_cache || request.no_cache_stages.iter().any(named)
    }

    async fn why(&self, trace: &StepTrace) -> Vec<String> {
        if self.leaves_cache() {
            return vec!["--no-cache was asked for".into()];
        }
        let Some(before) = self.shared.traces.before(&self.shared.library).await else {
            return vec!["no earlier build of this name is known".into()];
        };
        let stage = &self.shared.stages[self.job.index];
        let texts: Vec<String> = stage.body.iter().map(|instruction| instruction.original.clone()).collect();
        before.explain(trace, &texts)
    }
}
