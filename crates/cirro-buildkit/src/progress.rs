//! The builder's events as BuildKit tells them: vertexes with their names, times and output.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use cirro_build::{BuildEvent, Outline, StageOutline, StepEvent};
use cirro_grpc::{Code, Status};
use cirro_types::{Digest, ImageReference};
use serde_json::json;

use crate::messages::{Any, StatusResponse, Vertex, VertexLog, VertexStatus, VertexWarning};
use crate::status::{Record, now};

const STDOUT: i64 = 1;
const SOURCE: &str = "github.com/moby/buildkit/errdefs.Source+json";

/// Something that is shown while it goes on. Dropping it says that it was given up.
pub(crate) struct Task {
    record: Arc<Record>,
    vertex: Vertex,
}

impl Task {
    /// Starts a task.
    pub(crate) fn start(record: &Arc<Record>, name: &str) -> Self {
        let digest = Digest::of(format!("{:p} {name}", Arc::as_ptr(record)).as_bytes()).to_string();
        let vertex = Vertex { digest, name: name.to_owned(), started: now(), ..Vertex::default() };
        let task = Self { record: record.clone(), vertex };
        task.tell();
        task
    }

    fn tell(&self) {
        self.record.tell(StatusResponse { vertexes: vec![self.vertex.clone()], ..StatusResponse::default() });
    }

    /// Tells how far a part of the task is.
    pub(crate) fn part(&self, id: &str, current: u64, done: bool) {
        let status = VertexStatus {
            id: id.to_owned(),
            vertex: self.vertex.digest.clone(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            timestamp: now(),
            started: self.vertex.started.clone(),
            completed: now().filter(|_| done),
            ..VertexStatus::default()
        };
        self.record.tell(StatusResponse { statuses: vec![status], ..StatusResponse::default() });
    }

    fn output(&self, bytes: Bytes) {
        let log = VertexLog {
            vertex: self.vertex.digest.clone(),
            timestamp: now(),
            stream: STDOUT,
            message: bytes,
        };
        self.record.tell(StatusResponse { logs: vec![log], ..StatusResponse::default() });
    }

    fn cached(&mut self) {
        self.vertex.cached = true;
    }

    /// Ends the task.
    pub(crate) fn done(mut self) {
        self.vertex.completed = now();
        self.tell();
    }

    /// Ends the task with what went wrong.
    pub(crate) fn failed(mut self, reason: &str) {
        self.vertex.completed = now();
        self.vertex.error = reason.to_owned();
        self.tell();
    }

    /// Ends the task as `result` says.
    ///
    /// # Errors
    /// Those of `result`.
    pub(crate) fn end<T>(self, result: Result<T, Status>) -> Result<T, Status> {
        match &result {
            Ok(_) => self.done(),
            Err(status) => self.failed(&status.message),
        }
        result
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.vertex.completed.is_none() {
            self.vertex.completed = now();
            self.vertex.error = "context canceled".into();
            self.tell();
        }
    }
}

/// A step that failed.
struct Failure {
    line: usize,
    lines: usize,
    message: String,
}

/// Follows a build.
pub(crate) struct Progress {
    record: Arc<Record>,
    /// Name of the Dockerfile, for errors.
    filename: String,
    outline: Option<Arc<Outline>>,
    current: Option<Task>,
    looking: Vec<(String, Task)>,
    failure: Option<Failure>,
}

impl Progress {
    /// Starts to follow.
    pub(crate) fn new(record: &Arc<Record>, filename: &str) -> Self {
        Self {
            record: record.clone(),
            filename: filename.to_owned(),
            outline: None,
            current: None,
            looking: Vec::new(),
            failure: None,
        }
    }

    /// Takes an event; returns the image when the build has come to it.
    pub(crate) fn take(&mut self, event: BuildEvent) -> Option<Digest> {
        match event {
            BuildEvent::Outline(outline) => self.outline = Some(outline),
            BuildEvent::Looking(name) => {
                let shown = format!("[internal] load metadata for {}", canonical(&name));
                self.looking.push((name, Task::start(&self.record, &shown)));
            }
            BuildEvent::Found(name) => {
                if let Some(index) = self.looking.iter().position(|(looked_for, _)| *looked_for == name) {
                    self.looking.remove(index).1.done();
                }
            }
            BuildEvent::Step(event) => self.step(event),
            BuildEvent::Output(bytes) => {
                if let Some(task) = &self.current {
                    task.output(bytes);
                }
            }
            BuildEvent::Line(line) => {
                if let Some(warning) = line.strip_prefix("[Warning] ") {
                    self.warn(warning.trim_end());
                }
            }
            BuildEvent::Image(image) => return Some(image),
        }
        None
    }

    fn step(&mut self, event: StepEvent) {
        match event {
            StepEvent::Started { line, text, .. } => {
                let name = self.outline.as_ref().and_then(|outline| shown_name(outline, line, &text));
                self.current = name.map(|name| Task::start(&self.record, &name));
            }
            StepEvent::Cached { .. } => {
                if let Some(task) = &mut self.current {
                    task.cached();
                }
            }
            StepEvent::Missed { .. } => {}
            StepEvent::Done { .. } => {
                if let Some(task) = self.current.take() {
                    task.done();
                }
            }
            StepEvent::Failed { line, code, message, .. } => {
                let message = match code {
                    Some(code) => command_failed(&message, code),
                    None => message,
                };
                if let Some(task) = self.current.take() {
                    task.failed(&message);
                }
                let lines = self.outline.as_ref().map_or(1, |outline| length(outline, line));
                self.failure = Some(Failure { line, lines, message });
            }
        }
    }

    fn warn(&self, text: &str) {
        let digest = Digest::of(format!("{:p} warnings", Arc::as_ptr(&self.record)).as_bytes()).to_string();
        let short = Bytes::copy_from_slice(text.as_bytes());
        let warning = VertexWarning { vertex: digest, level: 1, short };
        self.record.tell(StatusResponse { warnings: vec![warning], ..StatusResponse::default() });
    }

    /// Returns how the build's failure is told: with the place in the Dockerfile, if it has one.
    pub(crate) fn failed(mut self, message: String) -> Status {
        if self.failure.is_none() {
            for (_, task) in self.looking.drain(..) {
                task.failed(&message);
            }
        }
        let failure = self.failure.take().unwrap_or_else(|| {
            let line = parse_line(&message).unwrap_or(0);
            Failure { line, lines: 1, message }
        });
        let mut status = Status::new(Code::Unknown, failure.message);
        if let (Some(outline), 1..) = (&self.outline, failure.line) {
            status.details.push(source(&self.filename, &outline.text, failure.line, failure.lines));
        }
        status
    }
}

/// Returns the line that a complaint about a Dockerfile names.
fn parse_line(message: &str) -> Option<usize> {
    let rest = message.split_once("line ")?.1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// BuildKit's words for a command that failed, of docker's.
fn command_failed(message: &str, code: i32) -> String {
    let command = message.strip_prefix("The command '").unwrap_or(message);
    let command = command.rsplit_once("' returned").map_or(command, |(command, _)| command);
    format!("process {command:?} did not complete successfully: exit code: {code}")
}

/// Where in the Dockerfile an error is; clients show those lines.
fn source(filename: &str, text: &str, line: usize, lines: usize) -> Any {
    let end = line + lines.max(1) - 1;
    let value = json!({
        "info": { "filename": filename, "data": BASE64_STANDARD.encode(text), "language": "Dockerfile" },
        "ranges": [{ "start": { "line": line }, "end": { "line": end } }],
    });
    Any { type_url: SOURCE.into(), value: Bytes::from(value.to_string()) }
}

/// Returns how many lines the instruction at `line` has, up to the next one without what stands between them.
fn length(outline: &Outline, line: usize) -> usize {
    let all = outline.stages.iter().flat_map(|stage| &stage.steps);
    let next = all.map(|step| step.line).filter(|next| *next > line).min();
    let text: Vec<&str> = outline.text.lines().collect();
    let end = next.unwrap_or(text.len() + 1).min(text.len() + 1);
    let own = text.get(line - 1..end - 1).unwrap_or_default();
    let used = own.iter().rposition(|text| !text.trim().is_empty() && !text.trim_start().starts_with('#'));
    used.map_or(1, |last| last + 1)
}

/// Returns a step's name as BuildKit has it, `[build 2/4] RUN make`; nothing for steps that it does not show.
fn shown_name(outline: &Outline, line: usize, text: &str) -> Option<String> {
    let own = |stage: &StageOutline| stage.steps.iter().any(|step| step.line == line);
    let index = outline.stages.iter().position(own)?;
    let stage = &outline.stages[index];
    let shown: Vec<_> = stage.steps.iter().filter(|step| step.shown).collect();
    let number = shown.iter().position(|step| step.line == line)? + 1;
    let title = match &stage.name {
        Some(name) => format!("{name} "),
        None if outline.stages.len() > 1 => format!("stage-{index} "),
        None => String::new(),
    };
    let width = shown.len().to_string().len();
    let text = match shown[number - 1].keyword.as_str() {
        "FROM" => format!("FROM {}", canonical(image_word(text))),
        _ => text.split('\n').map(str::trim).collect::<Vec<_>>().join(" "),
    };
    Some(format!("[{title}{number:>width$}/{}] {text}", shown.len()))
}

/// Returns what a `FROM` names.
fn image_word(text: &str) -> &str {
    let mut words = text.split_whitespace().skip(1).skip_while(|word| word.starts_with("--"));
    words.next().unwrap_or_default()
}

/// Returns an image's name in full, if it is one.
fn canonical(name: &str) -> String {
    name.parse::<ImageReference>().map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}

#[cfg(test)]
mod tests {
    use cirro_build::StepOutline;

    use super::*;

    /// A step's line, keyword, and whether it is shown.
    type Step<'a> = (usize, &'a str, bool);

    fn outline(text: &str, stages: &[(Option<&str>, &[Step<'_>])]) -> Outline {
        let step = |(line, keyword, shown): &Step<'_>| StepOutline {
            line: *line,
            keyword: (*keyword).to_owned(),
            shown: *shown,
        };
        let stages = stages.iter().map(|(name, steps)| StageOutline {
            name: name.map(str::to_owned),
            steps: steps.iter().map(step).collect(),
        });
        Outline { text: text.to_owned(), stages: stages.collect() }
    }

    const ONE: &str = "FROM busybox\nENV a=b\nRUN x \\\n  y\n\n# end\n";

    fn one() -> Outline {
        outline(ONE, &[(None, &[(1, "FROM", true), (2, "ENV", false), (3, "RUN", true)])])
    }

    #[test]
    fn names_are_buildkits() {
        let name = |outline: &Outline, line, text| shown_name(outline, line, text);
        let from = "[1/2] FROM docker.io/library/busybox:latest";
        assert_eq!(name(&one(), 1, "FROM --platform=linux busybox").as_deref(), Some(from));
        assert_eq!(name(&one(), 2, "ENV a=b"), None);
        assert_eq!(name(&one(), 3, "RUN x   y").as_deref(), Some("[2/2] RUN x   y"));
        let two = outline(
            "",
            &[(Some("base"), &[(1, "FROM", true)]), (None, &[(2, "FROM", false), (3, "COPY", true)])],
        );
        assert_eq!(
            name(&two, 1, "FROM a AS base").as_deref(),
            Some("[base 1/1] FROM docker.io/library/a:latest")
        );
        assert_eq!(name(&two, 2, "FROM base"), None);
        assert_eq!(name(&two, 3, "COPY a b").as_deref(), Some("[stage-1 1/1] COPY a b"));
    }

    #[tokio::test]
    async fn a_build_is_told_from_start_to_failure() {
        let record = Arc::new(Record::default());
        let mut progress = Progress::new(&record, "Dockerfile");
        progress.take(BuildEvent::Outline(Arc::new(one())));
        progress.take(BuildEvent::Looking("busybox".into()));
        progress.take(BuildEvent::Found("busybox".into()));
        let (number, total, stage) = (3, 3, "0".to_owned());
        let text = "RUN x   y".to_owned();
        progress.take(BuildEvent::Step(StepEvent::Started {
            number,
            total,
            stage,
            line: 3,
            text: text.clone(),
        }));
        progress.take(BuildEvent::Output(Bytes::from_static(b"making\n")));
        let message = "The command '/bin/sh -c x' returned a non-zero code: 7".to_owned();
        let code = Some(7);
        progress.take(BuildEvent::Step(StepEvent::Failed {
            number,
            line: 3,
            text,
            code,
            message: message.clone(),
        }));
        let status = progress.failed(message);
        let expected = "process \"/bin/sh -c x\" did not complete successfully: exit code: 7";
        assert_eq!(status.message, expected);
        let place: serde_json::Value = serde_json::from_slice(&status.details[0].value).unwrap();
        assert_eq!(
            (&place["ranges"][0]["start"]["line"], &place["ranges"][0]["end"]["line"]),
            (&json!(3), &json!(4))
        );
        record.end();
        let mut listener = record.listen();
        let (mut names, mut output, mut error) = (Vec::new(), Vec::new(), String::new());
        while let Some(part) = listener.next().await {
            names.extend(part.vertexes.iter().map(|vertex| vertex.name.clone()));
            output.extend(part.logs.iter().map(|log| log.message.clone()));
            error.extend(part.vertexes.iter().map(|vertex| vertex.error.clone()));
        }
        names.dedup();
        assert_eq!(
            names,
            ["[internal] load metadata for docker.io/library/busybox:latest", "[2/2] RUN x   y"]
        );
        assert_eq!(output, ["making\n"]);
        assert_eq!(error, expected);
    }

    #[test]
    fn a_dockerfile_that_cannot_be_read_has_its_line() {
        let record = Arc::new(Record::default());
        let mut progress = Progress::new(&record, "D");
        progress.take(BuildEvent::Outline(Arc::new(one())));
        let status = progress.failed("dockerfile parse error on line 3: unknown instruction: FOO".into());
        assert!(status.message.ends_with("unknown instruction: FOO"));
        let place: serde_json::Value = serde_json::from_slice(&status.details[0].value).unwrap();
        assert_eq!(place["ranges"][0]["start"]["line"], 3);
        assert!(Progress::new(&record, "D").failed("no such image".into()).details.is_empty());
    }
}
