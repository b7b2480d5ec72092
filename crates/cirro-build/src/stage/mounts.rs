//! `RUN --mount`: what a step sees beside its root, made ready and given back.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cirro_seams::build::{CacheSpace, StepMount, StepSource};
use cirro_types::Digest;

use super::Work;
use super::layer::blocking;
use crate::dockerfile::Instruction;
use crate::error::Refusal;
use crate::key::Key;
use crate::mount::{self, MountKind, RunMount};
use crate::scratch::Scratch;
use crate::trace::Inputs;
use crate::transfer::Source;
use crate::tree::{Cancel, Changes, Hasher, Receiver, Traversal, Writer, base_name};
use crate::union::{Last, Union, Walked};

/// Mounts of one step.
const MAX_MOUNTS: usize = 128;

/// The mounts of a step that runs. What they hold is given back when this goes.
#[derive(Default)]
pub(super) struct Mounted {
    pub(super) mounts: Vec<StepMount>,
    /// Secrets that the step gets as variables.
    pub(super) env: Vec<String>,
    /// Agents so far.
    agents: usize,
    caches: Vec<Box<dyn CacheSpace>>,
    scratches: Vec<Arc<Scratch>>,
}

impl Mounted {
    /// Says where an agent's socket is seen: the first one is what `SSH_AUTH_SOCK` names, as with BuildKit.
    fn agent_target(&mut self, wanted: &str) -> String {
        let target = match wanted {
            "" => format!("/run/buildkit/ssh_agent.{}", self.agents),
            wanted => wanted.to_owned(),
        };
        if self.agents == 0 {
            self.env.push(format!("SSH_AUTH_SOCK={target}"));
        }
        self.agents += 1;
        target
    }

    /// Gives everything back.
    pub(super) async fn close(self) -> Result<(), Refusal> {
        drop(self.caches);
        for scratch in self.scratches {
            scratch.discard().await?;
        }
        Ok(())
    }
}

impl Work {
    /// Reads the `--mount`s of an instruction.
    pub(super) fn wanted_mounts(&self, instruction: &Instruction) -> Result<Vec<RunMount>, Refusal> {
        let flags = instruction.flags.iter().filter(|flag| flag.name == "mount");
        let texts: Vec<&str> = flags.map(|flag| flag.value.as_deref().unwrap_or_default()).collect();
        if texts.len() > MAX_MOUNTS {
            return Err(Refusal::new(format!("more than {MAX_MOUNTS} mounts")));
        }
        let mut mounts = Vec::new();
        for text in texts {
            let mut mount = mount::parse(text, &|word| self.expand(word))?;
            if !mount.target.is_empty() {
                mount.target = self.state.absolute(&mount.target).to_string_lossy().into_owned();
                if mount.target == "/" {
                    return Err(Refusal::new(format!("invalid mount target \"/\" in {text:?}")));
                }
            }
            mounts.push(mount);
        }
        Ok(mounts)
    }

    /// Adds to a step's key what its mounts have to do with the result: all of a bind's content, no secret, and no
    /// content of a cache.
    pub(super) async fn key_mounts(
        &self,
        mounts: &[RunMount],
        mut key: Key,
        mut inputs: Inputs,
    ) -> Result<(Digest, Inputs), Refusal> {
        for mount in mounts {
            let kind = match &mount.kind {
                MountKind::Bind => "bind".to_owned(),
                MountKind::Cache { id, .. } => format!("cache {id}"),
                MountKind::Tmpfs { .. } => "tmpfs".to_owned(),
                MountKind::Secret { id, env, .. } => {
                    format!("secret {id} {}", env.as_deref().unwrap_or_default())
                }
                MountKind::Ssh { .. } => continue,
            };
            key.list([kind.as_str(), &mount.target, &mount.source]);
            key.number(mount.read_only.into());
            inputs.note(
                format!("--mount of {}", mount.target),
                format!("{kind} {} {}", mount.source, mount.read_only).as_bytes(),
            );
            if mount.kind != MountKind::Bind {
                continue;
            }
            match &mount.from {
                Some(from) => {
                    let layers: Vec<String> =
                        self.layers_of(from).await?.iter().map(Digest::to_string).collect();
                    inputs.note_list(&format!("--mount from {from}"), &layers);
                    key.list(layers);
                }
                None => {
                    let (source, path) = (self.context_source(), mount.source.clone());
                    (key, inputs) = blocking(move |cancel| {
                        let mut hasher = Hasher::directory(&mut key, &mut inputs, &path);
                        hand_over(&source, &path, OsStr::new(""), &cancel, &mut hasher)?;
                        Ok((key, inputs))
                    })
                    .await?;
                }
            }
        }
        Ok((key.finish(), inputs))
    }

    /// Makes the mounts ready.
    pub(super) async fn open_mounts(&self, mounts: &[RunMount]) -> Result<Mounted, Refusal> {
        let mut opened = Mounted::default();
        for mount in mounts {
            let source = match &mount.kind {
                MountKind::Bind => StepSource::Path(self.open_bind(mount, &mut opened).await?),
                MountKind::Cache { .. } => StepSource::Path(self.open_cache(mount, &mut opened).await?),
                MountKind::Tmpfs { size } => StepSource::Tmpfs(*size),
                MountKind::Secret { .. } => match self.secret(mount, &mut opened).await? {
                    Some(source) => source,
                    None => continue,
                },
                MountKind::Ssh { .. } => match self.agent(mount).await? {
                    Some(source) => {
                        let target = opened.agent_target(&mount.target);
                        opened.mounts.push(StepMount { target, source, read_only: false });
                        continue;
                    }
                    None => continue,
                },
            };
            let read_only = mount.read_only || matches!(source, StepSource::Content { .. });
            opened.mounts.push(StepMount { target: mount.target.clone(), source, read_only });
        }
        Ok(opened)
    }

    /// Finds the files of a bind. They are copied unless nobody can write to them and nothing is to be left out.
    async fn open_bind(&self, mount: &RunMount, opened: &mut Mounted) -> Result<PathBuf, Refusal> {
        let path = mount.source.clone();
        let Some(from) = &mount.from else {
            if mount.read_only && self.shared.ignore.is_empty() {
                let (source, context) = (self.context_source(), self.shared.request.context.clone());
                return blocking(move |_| real_path(&context, &source, &path)).await;
            }
            return self.copy(self.context_source(), path, opened).await;
        };
        let below = Scratch::open(&self.shared.library, &self.layers_of(from).await?).await?;
        let source = Source { root: super::layer::open_lower(&below)?, ignore: None, is_ours: false };
        opened.scratches.push(below.clone());
        match below.layer().lower.as_slice() {
            // One layer is a tree as it is.
            [only] if mount.read_only => {
                let root = only.clone();
                blocking(move |_| real_path(&root, &source, &path)).await
            }
            _ => self.copy(source, path, opened).await,
        }
    }

    async fn open_cache(&self, mount: &RunMount, opened: &mut Mounted) -> Result<PathBuf, Refusal> {
        let MountKind::Cache { id, sharing, mode, owner } = mount.kind.clone() else {
            return Err(Refusal::new("not a cache"));
        };
        let cache = self.shared.library.open_cache(id, sharing).await?;
        let path = cache.path().to_owned();
        let is_new = cache.is_new();
        opened.caches.push(cache);
        if !is_new {
            return Ok(path);
        }
        if let Some(from) = &mount.from {
            let below = Scratch::open(&self.shared.library, &self.layers_of(from).await?).await?;
            let source = Source { root: super::layer::open_lower(&below)?, ignore: None, is_ours: false };
            let (into, wanted) = (path.clone(), mount.source.clone());
            blocking(move |cancel| {
                let union = Union::directory(&into).map_err(Refusal::at(&into))?;
                hand_over(&source, &wanted, &base_name(&wanted), &cancel, &mut Writer::new(union.root()))
            })
            .await?;
            below.discard().await?;
        }
        let root = path.clone();
        blocking(move |_| {
            chown(&root, Some(owner.0), Some(owner.1)).map_err(Refusal::at(&root))?;
            std::fs::set_permissions(&root, PermissionsExt::from_mode(mode)).map_err(Refusal::at(&root))
        })
        .await?;
        Ok(path)
    }

    /// Copies what is at `path` of `source` into space of its own, where it may be written.
    async fn copy(&self, source: Source, path: String, opened: &mut Mounted) -> Result<PathBuf, Refusal> {
        let scratch = Scratch::open(&self.shared.library, &[]).await?;
        opened.scratches.push(scratch.clone());
        blocking(move |cancel| {
            let root = &scratch.layer().upper;
            let union = Union::open(scratch.layer()).map_err(Refusal::at(root))?;
            let name = base_name(&path);
            let is_directory = hand_over(&source, &path, &name, &cancel, &mut Writer::new(union.root()))?;
            Ok(if is_directory { root.clone() } else { root.join(name) })
        })
        .await
    }

    async fn secret(&self, mount: &RunMount, opened: &mut Mounted) -> Result<Option<StepSource>, Refusal> {
        let MountKind::Secret { id, env, is_file, required, mode, owner } = &mount.kind else {
            return Ok(None);
        };
        let given = self.shared.request.secrets.get(id).cloned();
        let secret = match (given, &self.shared.request.lender) {
            (None, Some(lender)) => lender.0.secret(id.clone()).await?,
            (given, _) => given,
        };
        let Some(secret) = secret else {
            return match required {
                true => Err(Refusal::new(format!("secret {id}: not found"))),
                false => Ok(None),
            };
        };
        if let Some(name) = env {
            let text = std::str::from_utf8(&secret)
                .map_err(|_| Refusal::new(format!("secret {id}: not text, so not a variable")))?;
            opened.env.push(format!("{name}={text}"));
        }
        Ok(is_file.then(|| StepSource::Content { content: secret, mode: *mode, owner: *owner }))
    }

    async fn agent(&self, mount: &RunMount) -> Result<Option<StepSource>, Refusal> {
        let MountKind::Ssh { id, required, mode, owner } = &mount.kind else { return Ok(None) };
        let given = self.shared.request.agents.get(id).cloned();
        let socket = match (given, &self.shared.request.lender) {
            (None, Some(lender)) => lender.0.agent(id.clone()).await?,
            (given, _) => given,
        };
        match (socket, required) {
            (Some(socket), _) => Ok(Some(StepSource::Agent { socket, mode: *mode, owner: *owner })),
            (None, true) => Err(Refusal::new(format!(
                "unset ssh forward key {id}: no agent of that name is forwarded to this build (cirro build --ssh {id})"
            ))),
            (None, false) => Ok(None),
        }
    }

    fn context_source(&self) -> Source {
        Source { root: self.shared.context.clone(), ignore: Some(self.shared.ignore.clone()), is_ours: false }
    }
}

/// Gives what is at `path` to a receiver: a directory's contents, or the file as `name`. Returns whether it is a
/// directory.
pub(crate) fn hand_over(
    source: &Source,
    path: &str,
    name: &OsStr,
    cancel: &Cancel,
    receiver: &mut dyn Receiver,
) -> Result<bool, Refusal> {
    let changes = Changes::default();
    let traversal = Traversal { ignore: source.ignore.as_deref(), exclude: None, changes: &changes, cancel };
    match walk(source, path)? {
        Walked::Directory(mut cursor) => {
            let real = relative(&cursor.path());
            traversal.contents(&mut cursor, &real, receiver)?;
            Ok(true)
        }
        Walked::Other(cursor, entry) => {
            let real = relative(&cursor.path().join(base_name(path)));
            if traversal.ignores(&real) {
                return Err(missing(path));
            }
            traversal.entry(&entry, name, &real, receiver)?;
            Ok(false)
        }
        Walked::Missing(..) => Err(missing(path)),
    }
}

/// Where `path` of `source` really is below `root`, the directory of that source.
fn real_path(root: &Path, source: &Source, path: &str) -> Result<PathBuf, Refusal> {
    match walk(source, path)? {
        Walked::Directory(cursor) => Ok(root.join(relative(&cursor.path()))),
        Walked::Other(cursor, entry) => {
            let name: OsString = entry.name().to_owned();
            Ok(root.join(relative(&cursor.path())).join(name))
        }
        Walked::Missing(..) => Err(missing(path)),
    }
}

fn walk(source: &Source, path: &str) -> Result<Walked, Refusal> {
    source.root.walk(Path::new(path), Last::Follow).map_err(Refusal::at(path))
}

fn missing(path: &str) -> Refusal {
    Refusal::new(format!("failed to compute cache key: {path:?}: not found"))
}

fn relative(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}
