//! What a stage has become so far: the image's configuration, and the variables in force.

use std::path::{Component, Path, PathBuf};

use cirro_types::{Digest, HistoryEntry, ImageConfig};

/// What a `FROM scratch` image runs with, as BuildKit has it.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_SHELL: [&str; 2] = ["/bin/sh", "-c"];
/// The remark in every history entry, by which tools know the form of `created_by`.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// A stage being built.
#[derive(Debug, Clone)]
pub(crate) struct State {
    /// The image as it would be if the stage ended here.
    pub(crate) config: ImageConfig,
    /// `ARG`s declared so far, with their values.
    pub(crate) args: Vec<(String, Option<String>)>,
    /// Whether this stage has set `CMD`; an `ENTRYPOINT` takes an inherited one away.
    pub(crate) command_is_own: bool,
    /// RFC 3339 time of history entries.
    pub(crate) now: String,
}

impl State {
    /// Starts on an empty image.
    pub(crate) fn scratch(now: String) -> Self {
        let mut config =
            ImageConfig { architecture: architecture().into(), os: "linux".into(), ..Default::default() };
        config.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        config.config.working_dir = "/".into();
        Self { config, args: Vec::new(), command_is_own: false, now }
    }

    /// Starts on an image.
    pub(crate) fn on(config: ImageConfig, now: String) -> Self {
        Self { config, args: Vec::new(), command_is_own: false, now }
    }

    /// Starts on an earlier stage of the same Dockerfile, whose `ARG`s stay in force.
    pub(crate) fn after(&self) -> Self {
        Self { command_is_own: false, ..self.clone() }
    }

    /// Returns a variable's value: `ENV` before `ARG`.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let from_env = self.config.config.env.iter().find_map(|pair| match pair.split_once('=') {
            Some((key, value)) if key == name => Some(value.to_owned()),
            _ => None,
        });
        from_env.or_else(|| self.args.iter().find(|(key, _)| key == name)?.1.clone())
    }

    /// Sets a variable of the environment, in its old place if it has one.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        let env = &mut self.config.config.env;
        match env.iter_mut().find(|pair| pair.split_once('=').is_some_and(|(key, _)| key == name)) {
            Some(old) => *old = pair,
            None => env.push(pair),
        }
    }

    /// Declares an `ARG`.
    pub(crate) fn set_arg(&mut self, name: &str, value: Option<String>) {
        match self.args.iter_mut().find(|(key, _)| key == name) {
            Some(old) => old.1 = value,
            None => self.args.push((name.to_owned(), value)),
        }
    }

    /// Returns the declared `ARG`s that have a value, as `NAME=value`; the value an `ENV` of that name hides it by.
    pub(crate) fn arg_pairs(&self) -> Vec<String> {
        let pair = |(name, value): &(String, Option<String>)| {
            value.as_ref()?;
            Some(format!("{name}={}", self.variable(name)?))
        };
        self.args.iter().filter_map(pair).collect()
    }

    /// Returns the environment of a `RUN`.
    pub(crate) fn run_env(&self) -> Vec<String> {
        let mut env = self.config.config.env.clone();
        let has = |env: &[String], name: &str| {
            env.iter().any(|pair| pair.split_once('=').is_some_and(|(key, _)| key == name))
        };
        if !has(&env, "PATH") {
            env.insert(0, format!("PATH={DEFAULT_PATH}"));
        }
        for (name, value) in &self.args {
            if let Some(value) = value
                && !has(&env, name)
            {
                env.push(format!("{name}={value}"));
            }
        }
        env
    }

    /// Returns the argument vector that stands before a shell form.
    pub(crate) fn shell(&self) -> Vec<String> {
        match self.config.config.shell.as_slice() {
            [] => DEFAULT_SHELL.map(str::to_owned).to_vec(),
            shell => shell.to_vec(),
        }
    }

    /// Returns the working directory.
    pub(crate) fn working_directory(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }

    /// Resolves a path of the image against the working directory, lexically.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        let mut absolute = PathBuf::from("/");
        for component in Path::new(self.working_directory()).join(path).components() {
            match component {
                Component::Normal(name) => absolute.push(name),
                Component::ParentDir => drop(absolute.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        absolute
    }

    /// Returns the layers so far, the lowest first.
    pub(crate) fn layers(&self) -> &[Digest] {
        &self.config.rootfs.diff_ids
    }

    /// Adds a layer with its history.
    pub(crate) fn add_layer(&mut self, layer: Digest, created_by: String) {
        self.config.rootfs.diff_ids.push(layer);
        self.add_history(created_by, false);
    }

    /// Adds a history entry without a layer.
    pub(crate) fn add_metadata(&mut self, created_by: String) {
        self.add_history(created_by, true);
    }

    fn add_history(&mut self, created_by: String, empty_layer: bool) {
        self.config.created = Some(self.now.clone());
        self.config.history.push(HistoryEntry {
            created: Some(self.now.clone()),
            created_by: Some(created_by),
            comment: Some(COMMENT.into()),
            empty_layer,
            ..Default::default()
        });
    }

    /// Returns the id of the image as it is now, for people to look at; it is not stored.
    pub(crate) fn short_id(&self) -> String {
        Digest::of(&serde_json::to_vec(&self.config).unwrap_or_default()).short()
    }
}

/// Returns the host's architecture in Go's words.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
