//! `RUN`: a command in a container over the stage's layers.

use std::sync::Arc;

use cirro_seams::build::{Step, StepMount, StepSource};
use cirro_seams::node::Output;
use cirro_types::Digest;
use tokio::sync::mpsc;

use super::Work;
use super::mounts::Mounted;
use crate::dockerfile::{Command, HereDocument, Instruction};
use crate::error::Refusal;
use crate::key::Key;
use crate::metadata;
use crate::plan::PROXY_ARGS;
use crate::scratch::Scratch;
use crate::{BuildError, BuildEvent};

/// Pieces of output between the runner and whoever listens.
const OUTPUT_PIECES: usize = 64;

impl Work {
    /// Runs a command and makes a layer of what it changed.
    pub(super) async fn run_command(
        &mut self,
        instruction: &Instruction,
        command: &Command,
        documents: &[HereDocument],
    ) -> Result<(), BuildError> {
        let failed = |refusal: Refusal| Refusal::new(format!("RUN failed: {refusal}")).on(instruction.line);
        let (args, script) = self.arguments(command, documents);
        let network = self.network(instruction).map_err(failed)?;
        let created_by = self.run_created_by(&args);
        let mounts = self.wanted_mounts(instruction).map_err(failed)?;
        let mut key = self.run_key(&args, &network);
        let mut inputs = self.inputs();
        inputs.note_list("the command", &args);
        inputs.note("--network", network.as_bytes());
        inputs.note_list("--add-host", &self.shared.request.extra_hosts);
        self.note_environment(&mut inputs);
        if let Some(script) = &script {
            key.field(script.content.as_bytes());
            inputs.note("the here-document", script.content.as_bytes());
        }
        let (key, inputs) = self.key_mounts(&mounts, key, inputs).await.map_err(failed)?;
        let layer = match self.cached(key, inputs).await {
            Some(layer) => layer,
            None => {
                let scratch = self.open().await.map_err(|fault| failed(fault.into()))?;
                let mut mounted = self.open_mounts(&mounts).await.map_err(failed)?;
                mounted.mounts.extend(script.map(Script::mount));
                let code = self.run_step(&scratch, args.clone(), network, &mounted).await.map_err(failed)?;
                mounted.close().await.map_err(failed)?;
                if code != 0 {
                    // A failure to clean up is the library's to mend; the command's is what must be told.
                    let _ = scratch.discard().await;
                    return Err(BuildError::Command {
                        line: instruction.line,
                        command: args.join(" "),
                        code,
                    });
                }
                self.commit(&scratch, key).await.map_err(failed)?
            }
        };
        self.state.add_layer(layer, created_by);
        Ok(())
    }

    async fn run_step(
        &self,
        scratch: &Arc<Scratch>,
        args: Vec<String>,
        network: String,
        mounted: &Mounted,
    ) -> Result<i32, Refusal> {
        let request = &self.shared.request;
        let step = Step {
            layer: scratch.layer().clone(),
            args,
            env: [self.environment(), mounted.env.clone()].concat(),
            working_dir: self.state.working_directory().to_owned(),
            user: self.state.config.config.user.clone(),
            network,
            extra_hosts: request.extra_hosts.clone(),
            limits: request.limits.clone(),
            mounts: mounted.mounts.clone(),
        };
        let name = Digest::of(scratch.layer().key.as_bytes()).short();
        self.line(format!(" ---> Running in {name}\n")).await;
        let (sender, mut receiver) = mpsc::channel(OUTPUT_PIECES);
        let forward = async {
            while let Some(Output::Stdout(bytes) | Output::Stderr(bytes)) = receiver.recv().await {
                self.event(BuildEvent::Output(bytes)).await;
            }
        };
        let (code, ()) = tokio::join!(self.shared.runner.run(step, sender), forward);
        let code = code?;
        self.line(format!(" ---> Removed intermediate container {name}\n")).await;
        Ok(code)
    }

    /// Returns the environment: `ENV`, declared `ARG`s, and the proxies of the build.
    fn environment(&self) -> Vec<String> {
        let mut env = self.state.run_env();
        for name in PROXY_ARGS {
            let given = self.shared.request.build_args.get(name).cloned().flatten();
            if let Some(value) = given
                && self.state.variable(name).is_none()
            {
                env.push(format!("{name}={value}"));
            }
        }
        env
    }

    fn network(&self, instruction: &Instruction) -> Result<String, Refusal> {
        match instruction.flag("network").unwrap_or(&self.shared.request.network) {
            "" | "default" | "bridge" => Ok("default".into()),
            network @ ("none" | "host") => Ok(network.into()),
            other => Err(Refusal::new(format!("network {other}: not supported"))),
        }
    }

    /// Returns the argument vector, and the script that it runs if that is a here-document with an interpreter.
    fn arguments(&self, command: &Command, documents: &[HereDocument]) -> (Vec<String>, Option<Script>) {
        let (command, script) = with_documents(command, documents);
        match script {
            Some(script) => (vec![script.path()], Some(script)),
            None => (metadata::arguments(&self.state, &command), None),
        }
    }

    fn run_key(&self, args: &[String], network: &str) -> Key {
        let mut key = self.key("RUN");
        key.list(args);
        // Not the proxies: they do not change what is built.
        key.list(self.state.run_env());
        key.list([self.state.working_directory(), &self.state.config.config.user, network]);
        key.list(&self.shared.request.extra_hosts);
        if let Some(epoch) = self.shared.epoch {
            key.number(epoch.cast_unsigned());
        }
        key
    }

    fn run_created_by(&self, args: &[String]) -> String {
        let pairs = self.state.arg_pairs();
        let mut words = vec!["RUN".to_owned()];
        if !pairs.is_empty() {
            words.push(format!("|{}", pairs.len()));
            words.extend(pairs);
        }
        words.extend(args.iter().cloned());
        words.push("# buildkit".into());
        words.join(" ")
    }
}

/// A here-document that names its interpreter (`#!`): a file of its own, run as a command.
struct Script {
    name: String,
    content: String,
}

impl Script {
    /// Where the step finds it, as with BuildKit.
    fn path(&self) -> String {
        format!("/dev/pipes/{}", self.name.replace('/', "_"))
    }

    fn mount(self) -> StepMount {
        let source = StepSource::Content {
            content: self.content.clone().into_bytes().into(),
            mode: 0o755,
            owner: (0, 0),
        };
        StepMount { target: self.path(), source, read_only: true }
    }
}

/// Puts here-documents back where the shell reads them.
///
/// A line that is nothing but one document is the script itself; else the shell gets line and documents together.
fn with_documents(command: &Command, documents: &[HereDocument]) -> (Command, Option<Script>) {
    let (Command::Shell(line), [first, ..]) = (command, documents) else {
        return (command.clone(), None);
    };
    let alone = documents.len() == 1 && line.starts_with("<<") && !line.contains(char::is_whitespace);
    if alone && first.content.starts_with("#!") {
        let script = Script { name: first.name.clone(), content: first.content.clone() };
        return (command.clone(), Some(script));
    }
    if alone {
        return (Command::Shell(first.content.clone()), None);
    }
    let mut script = line.clone();
    for document in documents {
        script.push_str(&format!("\n{}{}", document.content, document.name));
    }
    script.push('\n');
    (Command::Shell(script), None)
}
