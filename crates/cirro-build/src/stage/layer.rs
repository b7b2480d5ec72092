//! The instructions that make a layer out of files: `COPY`, `ADD` and `WORKDIR`.

use std::path::Path;
use std::sync::Arc;

use cirro_types::Digest;

use super::Work;
use super::fetch::Remotes;
use crate::accounts::{self, Owner};
use crate::clamp::clamp;
use crate::dockerfile::{self, Instruction, TransferSource};
use crate::error::Refusal;
use crate::expand::Expander;
use crate::ignore::Ignore;
use crate::key::Key;
use crate::mode::ModeChange;
use crate::scratch::Scratch;
use crate::trace::Inputs;
use crate::transfer::{Source, Transfer, Wanted};
use crate::tree::{Cancel, Changes};
use crate::union::{Last, Union, Walked};

impl Work {
    /// `COPY` and `ADD`.
    pub(super) async fn transfer(
        &mut self,
        instruction: &Instruction,
        files: &dockerfile::Transfer,
        unpack: bool,
    ) -> Result<(), Refusal> {
        let switch = |name: &str| instruction.flag(name).map(|text| truth(name, text)).transpose();
        let linked = switch("link")?.unwrap_or(false);
        let wanted_unpack = switch("unpack")?;
        let remotes = self.look_up(instruction, files, switch("keep-git-dir")?.unwrap_or(false)).await?;
        let mut transfer = self.wanted(files, &remotes)?;
        // What is here is unpacked unless one says no, what is fetched only if one says yes.
        transfer.unpack = unpack && wanted_unpack.unwrap_or(true);
        transfer.unpack_remote = unpack && wanted_unpack.unwrap_or(false);
        transfer.parents = switch("parents")?.unwrap_or(false);
        transfer.exclude = self.exclude(instruction)?;
        let chown = instruction.flag("chown").map(|text| self.expand(text)).transpose()?;
        let chmod = instruction.flag("chmod").map(|text| self.expand(text)).transpose()?;
        let mut shown = instruction.keyword.clone();
        for (flag, value) in [("chown", &chown), ("chmod", &chmod)] {
            shown.extend(value.iter().map(|value| format!(" --{flag}={value}")));
        }
        for (flag, _) in [("parents", transfer.parents), ("link", linked)].iter().filter(|(_, on)| *on) {
            shown.push_str(&format!(" --{flag}"));
        }
        let created_by = created_by(shown, &transfer, files);
        let from = match instruction.flag("from") {
            Some(text) => Some(Scratch::open(&self.shared.library, &self.layers_of(text).await?).await?),
            None => None,
        };
        transfer.chown = chown.is_some();
        transfer.changes = Changes {
            owner: match &chown {
                Some(text) => Some(self.owner(text).await?),
                // What comes from the host belongs to root; what comes from an image keeps its owner.
                None => from.is_none().then_some(Owner::default()),
            },
            mode: chmod.as_deref().map(ModeChange::parse).transpose()?,
            modified: self.shared.epoch,
        };
        let source = match &from {
            Some(scratch) => Source { root: open_lower(scratch)?, ignore: None, is_ours: false },
            None => Source {
                root: self.shared.context.clone(),
                ignore: Some(self.shared.ignore.clone()),
                is_ours: self.shared.request.context_is_ours,
            },
        };
        let kind = if unpack { "ADD" } else { "COPY" };
        // A linked layer stands by itself: it neither sees nor depends on what is below it.
        let (below, mut key) = match linked {
            true => (&[][..], Key::new(&format!("{kind} --link"))),
            false => (self.state.layers(), self.key(kind)),
        };
        if transfer.parents {
            key.field(b"parents");
        }
        let mut inputs = match linked {
            true => Inputs::default(),
            false => self.inputs(),
        };
        inputs.note("the destination", transfer.destination.as_os_str().as_encoded_bytes());
        inputs.note_list("--chown", &chown);
        inputs.note_list("--chmod", &chmod);
        let made = self.write_transfer(transfer, source, remotes, (key, inputs), below).await;
        if let Some(scratch) = from {
            scratch.discard().await?;
        }
        self.state.add_layer(made?, created_by);
        Ok(())
    }

    async fn write_transfer(
        &self,
        transfer: Transfer,
        source: Source,
        remotes: Remotes,
        (key, inputs): (Key, Inputs),
        below: &[Digest],
    ) -> Result<Digest, Refusal> {
        let (transfer, source) = (Arc::new(transfer), Arc::new(source));
        let (picking, reading) = (transfer.clone(), source.clone());
        let (picked, key, inputs) = blocking(move |cancel| {
            let (mut key, mut inputs) = (key, inputs);
            let picked = picking.pick(&reading, &cancel)?;
            picking.key(&reading, &picked, &cancel, &mut key, &mut inputs)?;
            Ok((picked, key.finish(), inputs))
        })
        .await?;
        if let Some(layer) = self.cached(key, inputs).await {
            return Ok(layer);
        }
        let opened = self.open_remotes(remotes).await?;
        let scratch = Scratch::open(&self.shared.library, below).await?;
        let writing = scratch.clone();
        blocking(move |cancel| {
            let into = Union::open(writing.layer()).map_err(Refusal::at(&writing.layer().upper))?;
            // The fetched files are needed for as long as they are read, even if nobody waits.
            let opened = opened;
            transfer.write(&source, &opened.sources, &picked, &into, &cancel)
        })
        .await?;
        self.commit(&scratch, key).await
    }

    /// `WORKDIR`: makes the directory, as the stage's user, if it is not there.
    pub(super) async fn workdir(&mut self, path: &str) -> Result<(), Refusal> {
        let absolute = self.state.absolute(&self.expand(path)?);
        let shown = absolute.to_string_lossy().into_owned();
        let created_by = format!("WORKDIR {shown}");
        let user = self.state.config.config.user.clone();
        let mut key = self.key("WORKDIR");
        key.list([shown.as_str(), &user]);
        key.number(self.shared.epoch.map_or(0, i64::cast_unsigned));
        let key = key.finish();
        let mut inputs = self.inputs();
        inputs.note("the path", shown.as_bytes());
        inputs.note("the user", user.as_bytes());
        self.state.config.config.working_dir = shown;
        if let Some(layer) = self.cached(key, inputs).await {
            self.state.add_layer(layer, created_by);
            return Ok(());
        }
        let scratch = self.open().await?;
        let (writing, epoch) = (scratch.clone(), self.shared.epoch);
        let made = blocking(move |_| make_workdir(&writing, &absolute, &user, epoch)).await?;
        if made {
            let layer = self.commit(&scratch, key).await?;
            self.state.add_layer(layer, created_by);
        } else {
            scratch.discard().await?;
            self.state.add_metadata(created_by);
        }
        Ok(())
    }

    /// Starts the key of a step of this stage: what is below it decides as much as the step.
    pub(super) fn key(&self, kind: &str) -> Key {
        let mut key = Key::new(kind);
        key.list(self.state.layers().iter().map(|layer| layer.to_string()));
        key
    }

    /// Makes a layer of the scratch space, with no times after `SOURCE_DATE_EPOCH` (directories that something was put into
    /// have such), and notes it under the key.
    pub(super) async fn commit(&self, scratch: &Arc<Scratch>, key: Digest) -> Result<Digest, Refusal> {
        if let Some(epoch) = self.shared.epoch {
            let writing = scratch.clone();
            blocking(move |cancel| clamp(&writing.layer().upper, epoch, &cancel)).await?;
        }
        let layer = scratch.commit().await?;
        self.shared.library.remember(key, layer).await;
        Ok(layer)
    }

    fn wanted(&self, files: &dockerfile::Transfer, remotes: &Remotes) -> Result<Transfer, Refusal> {
        let lookup = |name: &str| self.state.variable(name);
        let expander = Expander { escape: self.shared.escape, lookup: &lookup };
        let mut wanted = Vec::new();
        for source in &files.sources {
            wanted.push(match source {
                TransferSource::Path(path) => {
                    let path = expander.word(path)?;
                    remotes.get(&path).map_or(Wanted::Path(path), Wanted::Remote)
                }
                TransferSource::Document(document) => Wanted::Document {
                    name: document.name.clone(),
                    content: match document.expand {
                        true => expander.document(&document.content)?,
                        false => document.content.clone(),
                    },
                },
            });
        }
        let destination = expander.word(&files.destination)?;
        Ok(Transfer {
            wanted,
            into_directory: destination.is_empty() || destination == "." || destination.ends_with('/'),
            destination: self.state.absolute(&destination),
            unpack: false,
            unpack_remote: false,
            changes: Changes::default(),
            chown: false,
            parents: false,
            exclude: None,
        })
    }

    /// Reads the `--exclude`s of an instruction.
    fn exclude(&self, instruction: &Instruction) -> Result<Option<Ignore>, Refusal> {
        let flags = instruction.flags.iter().filter(|flag| flag.name == "exclude");
        let patterns: Vec<String> = flags
            .map(|flag| self.expand(flag.value.as_deref().unwrap_or_default()))
            .collect::<Result<_, _>>()?;
        if patterns.is_empty() {
            return Ok(None);
        }
        let rules = Ignore::parse(&patterns.join("\n"));
        rules.map(Some).map_err(|reason| Refusal::new(format!("invalid --exclude: {reason}")))
    }

    /// Resolves a `--chown`; only names need a look at the image.
    async fn owner(&self, text: &str) -> Result<Owner, Refusal> {
        if let Some(owner) = accounts::by_number(text) {
            return Ok(owner);
        }
        let scratch = self.open().await?;
        let (reading, text) = (scratch.clone(), text.to_owned());
        let owner = blocking(move |_| accounts::resolve(&open_lower(&reading)?, &text)).await?;
        scratch.discard().await?;
        Ok(owner)
    }
}

pub(super) fn open_lower(scratch: &Scratch) -> Result<Union, Refusal> {
    Union::read_only(&scratch.layer().lower).map_err(Refusal::at(&scratch.layer().upper))
}

fn make_workdir(scratch: &Scratch, path: &Path, user: &str, epoch: Option<i64>) -> Result<bool, Refusal> {
    let union = Union::open(scratch.layer()).map_err(Refusal::at(path))?;
    match union.walk(path, Last::Follow).map_err(Refusal::at(path))? {
        Walked::Directory(_) => return Ok(false),
        Walked::Other(..) => {
            return Err(Refusal::new(format!("Cannot mkdir: {} is not a directory", path.display())));
        }
        Walked::Missing(..) => {}
    }
    let owner = if user.is_empty() { Owner::default() } else { accounts::resolve(&union, user)? };
    let changes = Changes { owner: Some(owner), mode: None, modified: epoch };
    union.make_directories(path, &changes.parent()).map_err(Refusal::at(path))?;
    Ok(true)
}

fn truth(name: &str, text: &str) -> Result<bool, Refusal> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(Refusal::new(format!("expecting boolean value for flag {name}, not: {text}"))),
    }
}

/// Says for the history what was copied; `text` has the instruction and the flags that show.
fn created_by(mut text: String, transfer: &Transfer, files: &dockerfile::Transfer) -> String {
    for wanted in &transfer.wanted {
        match wanted {
            Wanted::Path(path) => text.push_str(&format!(" {path}")),
            Wanted::Remote(remote) => text.push_str(&format!(" {}", remote.url)),
            Wanted::Document { name, .. } => text.push_str(&format!(" <<{name}")),
        }
    }
    format!("{text} {} # buildkit", files.destination)
}

/// Runs file work on a blocking thread; it stops soon after nobody waits for it any more.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce(Cancel) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    struct CancelOnDrop(Cancel);
    impl Drop for CancelOnDrop {
        fn drop(&mut self) {
            self.0.set();
        }
    }
    let guard = CancelOnDrop(Cancel::default());
    let cancel = guard.0.clone();
    match tokio::task::spawn_blocking(move || work(cancel)).await {
        Ok(done) => done,
        Err(error) => Err(Refusal::new(format!("file work ended early: {error}"))),
    }
}
