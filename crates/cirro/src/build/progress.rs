//! A build as a person reads it: steps, what they write, how long they took, which were cached.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cirro_build::StepEvent;

use super::flags::Form;
use super::order::Told;

/// Lines of a failed step's output that are shown again with the error.
const LAST_LINES: usize = 12;
/// Times below this are noise.
const WORTH_TELLING: Duration = Duration::from_millis(50);
const INDENT: &str = "    ";

/// Turns what is told of a build into text.
pub(super) struct Progress {
    form: Form,
    why: bool,
    since: Instant,
    /// The step being told of wrote output last, and the line is not at its end.
    open_line: bool,
    last: VecDeque<String>,
    /// Line, instruction, exit code and reason of the step that failed.
    failed: Option<(usize, String, Option<i32>, String)>,
}

impl Progress {
    /// Starts with the build.
    pub(super) fn new(form: Form, why: bool) -> Self {
        Self { form, why, since: Instant::now(), open_line: false, last: VecDeque::new(), failed: None }
    }

    /// Returns the text for something that is told.
    pub(super) fn tell(&mut self, told: Told) -> String {
        let text = match told {
            Told::Step(event) => self.step(event),
            Told::Output { text } => self.output(&text),
            Told::Warning { text } => format!("{}\n", text.trim_end()),
            Told::Image { .. } | Told::Error { .. } => String::new(),
        };
        if self.form == Form::Quiet { String::new() } else { text }
    }

    fn step(&mut self, event: StepEvent) -> String {
        let mut said = if std::mem::take(&mut self.open_line) { "\n".to_owned() } else { String::new() };
        match event {
            StepEvent::Started { number, total, stage, text, .. } => {
                self.last.clear();
                // A stage without a name has a number, which tells nobody anything.
                let stage = if stage.parse::<usize>().is_ok() { String::new() } else { format!(" {stage}") };
                said.push_str(&format!("[{number}/{total}{stage}] {}\n", first_line(&text)));
            }
            StepEvent::Cached { .. } => said.push_str(&format!("{INDENT}CACHED\n")),
            StepEvent::Missed { why, .. } if self.why => {
                why.iter().for_each(|reason| said.push_str(&format!("{INDENT}not cached: {reason}\n")));
            }
            StepEvent::Missed { .. } => {}
            StepEvent::Done { took, .. } if took >= WORTH_TELLING => {
                said.push_str(&format!("{INDENT}{}\n", seconds(took)));
            }
            StepEvent::Done { .. } => {}
            StepEvent::Failed { line, text, code, message, .. } => {
                said.push_str(&format!("{INDENT}FAILED\n"));
                self.failed = Some((line, text, code, message));
            }
        }
        said
    }

    fn output(&mut self, text: &str) -> String {
        let mut said = String::new();
        for piece in text.split_inclusive('\n') {
            if self.open_line {
                if let Some(last) = self.last.back_mut() {
                    last.push_str(piece);
                }
            } else {
                said.push_str(INDENT);
                self.last.push_back(piece.to_owned());
                if self.last.len() > LAST_LINES {
                    self.last.pop_front();
                }
            }
            said.push_str(piece);
            self.open_line = !piece.ends_with('\n');
        }
        said
    }

    /// Returns the text for a build that failed.
    pub(super) fn failure(&self, dockerfile: &str, message: &str) -> String {
        let mut said = if self.open_line { "\n".to_owned() } else { String::new() };
        let Some((line, text, code, reason)) = &self.failed else {
            return format!("{said}cirro: {message}\n");
        };
        let reason = match (code, reason) {
            (Some(code), _) => format!("exit code {code}"),
            (None, reason) => reason.clone(),
        };
        said.push_str(&format!("cirro: {dockerfile}:{line}: {}: {reason}\n", first_line(text)));
        if !self.last.is_empty() {
            said.push_str("last output:\n");
            self.last
                .iter()
                .for_each(|line| said.push_str(&format!("{INDENT}{}\n", line.trim_end_matches('\n'))));
        }
        said
    }

    /// Returns the text for a build that went well.
    pub(super) fn end(&self, id: &str, tags: &[String]) -> String {
        let mut said = format!("built {id} in {}\n", seconds(self.since.elapsed()));
        tags.iter().for_each(|tag| said.push_str(&format!("tagged {tag}\n")));
        said
    }
}

/// A here-document would take the screen.
fn first_line(text: &str) -> String {
    match text.split_once('\n') {
        Some((first, _)) => format!("{first} ..."),
        None => text.to_owned(),
    }
}

fn seconds(took: Duration) -> String {
    format!("{:.1} s", took.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(number: usize, stage: &str, text: &str) -> Told {
        let (total, stage, text) = (3, stage.to_owned(), text.to_owned());
        Told::Step(StepEvent::Started { number, total, stage, line: 7, text })
    }

    fn output(text: &str) -> Told {
        Told::Output { text: text.into() }
    }

    #[test]
    fn a_build_is_told_step_by_step() {
        let mut progress = Progress::new(Form::Plain, true);
        let why = vec!["file a changed".to_owned()];
        let told = [
            started(1, "0", "FROM base"),
            started(2, "app", "RUN <<EOF\nmake\nEOF"),
            Told::Step(StepEvent::Missed { number: 2, why }),
            output("one\ntw"),
            output("o\nthree"),
            Told::Step(StepEvent::Done { number: 2, took: Duration::from_millis(1234) }),
            started(3, "app", "COPY . ."),
            Told::Step(StepEvent::Cached { number: 3 }),
        ];
        let text: String = told.into_iter().map(|told| progress.tell(told)).collect();
        let expected = "[1/3] FROM base\n[2/3 app] RUN <<EOF ...\n    not cached: file a changed\n    one\n    two\n    three\n    1.2 s\n[3/3 app] COPY . .\n    CACHED\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_failure_names_line_code_and_last_output_even_when_quiet() {
        let mut progress = Progress::new(Form::Quiet, false);
        let lines: String = (0..40).map(|number| format!("line {number}\n")).collect();
        let failed = StepEvent::Failed {
            number: 2,
            line: 7,
            text: "RUN make".into(),
            code: Some(2),
            message: "returned a non-zero code".into(),
        };
        for told in [started(2, "0", "RUN make"), output(&lines), Told::Step(failed)] {
            assert_eq!(progress.tell(told), "");
        }
        let said = progress.failure("Dockerfile", "returned a non-zero code");
        assert!(
            said.starts_with("cirro: Dockerfile:7: RUN make: exit code 2\nlast output:\n    line 28\n"),
            "{said}"
        );
        assert!(said.ends_with("    line 39\n"));
        let early = Progress::new(Form::Quiet, false).failure("Dockerfile", "no Dockerfile");
        assert_eq!(early, "cirro: no Dockerfile\n");
    }
}
