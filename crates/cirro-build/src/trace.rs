//! Why a step was not cached: what decided each step of the last build of a name, and what differs now.
//!
//! A content key only says that something changed. So a build notes, beside the keys, every input of every step that
//! makes a layer: short digests by name, never a value, since build arguments and variables may be private. Secrets are
//! no input at all. The note is of one name (a tag, or where the context is); the next build of that name reads it when
//! a step misses the cache, and writes its own when a key changed.

use std::collections::{BTreeMap, BTreeSet};

use cirro_types::Digest;
use serde::{Deserialize, Serialize};

/// Files of a step that are noted one by one; of more, only the sum is.
const MAX_FILES: usize = 50_000;
/// Names that an explanation lists.
const MAX_SHOWN: usize = 10;
const FILE: &str = "file ";
const FILES: &str = "files";

/// What decided the result of a step, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Inputs(BTreeMap<String, u64>);

impl Inputs {
    /// Notes an input.
    pub(crate) fn note(&mut self, name: impl Into<String>, value: &[u8]) {
        self.0.insert(name.into(), short(value));
    }

    /// Notes an input that is a list.
    pub(crate) fn note_list<T: AsRef<str>>(&mut self, name: &str, values: impl IntoIterator<Item = T>) {
        let joined: Vec<String> = values.into_iter().map(|value| value.as_ref().to_owned()).collect();
        self.note(name, joined.join("\0").as_bytes());
    }

    /// Notes a file by what [`short`] said of it.
    pub(crate) fn note_file(&mut self, path: &str, content: u64) {
        if self.0.len() < MAX_FILES {
            self.0.insert(format!("{FILE}{path}"), content);
            return;
        }
        let sum = self.0.entry(FILES.to_owned()).or_default();
        *sum = sum.rotate_left(1) ^ content;
    }

    /// Says in words what differs from an earlier build's.
    fn differences(&self, before: &Self) -> Vec<String> {
        let mut said = Vec::new();
        let mut more = 0;
        let names: BTreeSet<&String> = self.0.keys().chain(before.0.keys()).collect();
        for name in names {
            let verb = match (before.0.get(name), self.0.get(name)) {
                (Some(before), Some(now)) if before == now => continue,
                (Some(_), Some(_)) => "changed",
                (None, _) => "is new",
                (_, None) => "is gone",
            };
            if said.len() == MAX_SHOWN {
                more += 1;
                continue;
            }
            said.push(format!("{name} {verb}"));
        }
        if more > 0 {
            said.push(format!("and {more} more"));
        }
        said
    }
}

/// Returns the first bytes of a digest: enough to tell two inputs apart, too few to find a value.
pub(crate) fn short(bytes: &[u8]) -> u64 {
    let hex = Digest::of(bytes).hex();
    u64::from_str_radix(&hex[..16], 16).unwrap_or_default()
}

/// One step as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StepTrace {
    /// Name of its stage, or its number.
    pub(crate) stage: String,
    /// Its place among the stage's instructions, from 1.
    pub(crate) ordinal: usize,
    /// The instruction as it was written.
    pub(crate) text: String,
    pub(crate) key: String,
    pub(crate) inputs: Inputs,
}

/// The steps of a build that make layers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildTrace {
    steps: Vec<StepTrace>,
}

impl BuildTrace {
    /// Puts the steps of a build into the order of their stages.
    pub(crate) fn of(mut steps: Vec<StepTrace>) -> Self {
        steps.sort_by(|a, b| (&a.stage, a.ordinal).cmp(&(&b.stage, b.ordinal)));
        Self { steps }
    }

    /// Returns a digest over the steps' keys.
    pub(crate) fn stamp(&self) -> Digest {
        let text: String =
            self.steps.iter().map(|step| format!("{} {} {}\n", step.stage, step.ordinal, step.key)).collect();
        Digest::of(text.as_bytes())
    }

    /// Adds an earlier build's steps where this one, which may have ended early or had another target, has none.
    pub(crate) fn complete(&mut self, before: Self) {
        let mine: BTreeSet<(String, usize)> =
            self.steps.iter().map(|step| (step.stage.clone(), step.ordinal)).collect();
        let missing =
            before.steps.into_iter().filter(|step| !mine.contains(&(step.stage.clone(), step.ordinal)));
        self.steps.extend(missing);
        *self = Self::of(std::mem::take(&mut self.steps));
    }

    /// Says why `step` is not the step that this build had. `texts` are the instructions of its stage as they are now.
    pub(crate) fn explain(&self, step: &StepTrace, texts: &[String]) -> Vec<String> {
        let stage: Vec<&StepTrace> = self.steps.iter().filter(|old| old.stage == step.stage).collect();
        if stage.iter().any(|old| old.key == step.key) {
            return vec!["the layer that the earlier build made is no longer here".into()];
        }
        let distance = |old: &&&StepTrace| old.ordinal.abs_diff(step.ordinal);
        if let Some(old) = stage.iter().filter(|old| old.text == step.text).min_by_key(distance) {
            let said = step.inputs.differences(&old.inputs);
            return if said.is_empty() {
                vec!["it is keyed in another way than before".into()]
            } else {
                said
            };
        }
        match stage.iter().find(|old| old.ordinal == step.ordinal && !texts.contains(&old.text)) {
            Some(old) => vec![format!("the instruction changed, it was: {}", old.text)],
            None => vec!["the instruction is new".into()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(ordinal: usize, text: &str, key: &str, inputs: &[(&str, &str)]) -> StepTrace {
        let mut noted = Inputs::default();
        inputs.iter().for_each(|(name, value)| noted.note(*name, value.as_bytes()));
        StepTrace { stage: "0".into(), ordinal, text: text.into(), key: key.into(), inputs: noted }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_changed_is_named_and_its_value_is_not() {
        let before = BuildTrace::of(vec![step(2, "RUN x", "a", &[("build arg A", "1"), ("file y", "2")])]);
        let now = step(2, "RUN x", "b", &[("build arg A", "private"), ("file z", "2")]);
        let said = before.explain(&now, &texts(&["RUN x"]));
        assert_eq!(said, ["build arg A changed", "file y is gone", "file z is new"]);
        assert!(!serde_json::to_string(&before).unwrap().contains("private"));
    }

    #[test]
    fn a_changed_instruction_is_told_from_a_new_one() {
        let before = BuildTrace::of(vec![step(1, "RUN a", "1", &[]), step(2, "RUN b", "2", &[])]);
        let changed = before.explain(&step(2, "RUN c", "3", &[]), &texts(&["RUN a", "RUN c"]));
        assert_eq!(changed, ["the instruction changed, it was: RUN b"]);
        let added = before.explain(&step(2, "RUN n", "3", &[]), &texts(&["RUN a", "RUN n", "RUN b"]));
        assert_eq!(added, ["the instruction is new"]);
        // Moved by the new one, it is still known.
        let moved = step(3, "RUN b", "4", &[("steps before it", "x")]);
        assert_eq!(before.explain(&moved, &texts(&["RUN a", "RUN n", "RUN b"])), ["steps before it is new"]);
        let gone = before.explain(&step(2, "RUN b", "2", &[]), &texts(&["RUN a", "RUN b"]));
        assert_eq!(gone, ["the layer that the earlier build made is no longer here"]);
    }

    #[test]
    fn a_build_that_ended_early_keeps_what_it_did_not_reach() {
        let before = BuildTrace::of(vec![step(1, "RUN a", "1", &[]), step(2, "RUN b", "2", &[])]);
        let mut now = BuildTrace::of(vec![step(1, "RUN a", "3", &[])]);
        let stamp = now.stamp();
        now.complete(before);
        assert_eq!(now.steps.iter().map(|step| step.key.as_str()).collect::<Vec<_>>(), ["3", "2"]);
        assert_ne!(now.stamp(), stamp);
    }

    #[test]
    fn a_list_of_differences_ends() {
        let mut now = step(1, "COPY . .", "b", &[]);
        (0..30).for_each(|number| now.inputs.note_file(&format!("f{number:02}"), number));
        let before = BuildTrace::of(vec![step(1, "COPY . .", "a", &[])]);
        let said = before.explain(&now, &texts(&["COPY . ."]));
        assert_eq!((said.len(), said[10].as_str()), (11, "and 20 more"));
    }
}
