//! Named contexts: what stands in for an image, or a whole stage, of that name.
//!
//! A context of an image is that image under another name. Every other one becomes a layer by itself the first time that
//! something asks for it, so that it is built on, copied from and mounted as an image is; its key is its content.
//!
//! Source: BuildKit, `frontend/dockerui/namedcontext.go`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use cirro_seams::build::Fetched;
use cirro_types::{Digest, ImageReference};
use tokio::sync::OnceCell;

use crate::dockerfile::Dockerfile;
use crate::error::Refusal;
use crate::key::Key;
use crate::remote::{GitAddress, file_name, is_http};
use crate::scratch::Scratch;
use crate::stage::Shared;
use crate::stage::layer::blocking;
use crate::stage::mounts::hand_over;
use crate::trace::Inputs;
use crate::transfer::Source;
use crate::tree::{Hasher, Writer};
use crate::union::Union;

/// Where a named context comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// An image.
    Image(String),
    /// A git repository, or a file over HTTP.
    Remote(String),
    /// A directory that [`cirro_seams::build::Lender::directory`] knows by this name.
    Lent(String),
}

impl NamedContext {
    /// Reads where the context `name` comes from.
    ///
    /// # Errors
    /// In BuildKit's words, if it is none or of a kind that is not there.
    pub fn parse(name: &str, text: &str) -> Result<Self, String> {
        let Some((kind, rest)) = text.split_once(':') else {
            return Err(format!("invalid context specifier {text} for {name}"));
        };
        match kind {
            "docker-image" => {
                let image = rest.trim_start_matches("//");
                let parsed: Result<ImageReference, _> = image.parse();
                parsed.map_err(|_| format!("invalid reference format: {image} for the context {name}"))?;
                Ok(Self::Image(image.to_owned()))
            }
            "git" | "http" | "https" => Ok(Self::Remote(text.to_owned())),
            "local" => Ok(Self::Lent(rest.to_owned())),
            "oci-layout" => {
                Err(format!("a directory of the OCI layout as the context {name} is not supported"))
            }
            "input" => Err(format!("the result of another build as the context {name} is not supported")),
            _ => Err(format!("unsupported context source {kind} for {name}")),
        }
    }
}

/// Returns the form of a name in which contexts are kept: as images are written, without `:latest`.
///
/// # Errors
/// In BuildKit's words, if it cannot be an image's.
pub fn context_name(name: &str) -> Result<String, String> {
    let parsed: ImageReference = name.parse().map_err(|_| format!("invalid context name {name}"))?;
    let familiar = parsed.familiar();
    Ok(familiar.strip_suffix(":latest").map_or(familiar.clone(), str::to_owned))
}

/// The named contexts of a build.
#[derive(Debug, Default)]
pub(crate) struct Contexts(BTreeMap<String, (NamedContext, OnceCell<Vec<Digest>>)>);

impl Contexts {
    /// Takes those of a request.
    pub(crate) fn new(named: &BTreeMap<String, NamedContext>) -> Self {
        let entry =
            |(name, context): (&String, &NamedContext)| (name.clone(), (context.clone(), OnceCell::new()));
        Self(named.iter().map(entry).collect())
    }

    /// Returns what stands in for an image or stage.
    pub(crate) fn get(&self, name: &str) -> Option<&NamedContext> {
        self.0.get(&context_name(name).ok()?).map(|(context, _)| context)
    }

    /// Puts contexts in the place of the stages that are named like them.
    pub(crate) fn replace_stages(&self, file: &mut Dockerfile) {
        for stage in &mut file.stages {
            if let Some(name) = stage.name.clone().filter(|name| self.get(name).is_some()) {
                stage.image = name;
                stage.body.clear();
                stage.from.flags.clear();
            }
        }
    }

    /// Returns the layers of a context; `None` if there is none of that name.
    pub(crate) async fn layers(
        &self,
        shared: &Arc<Shared>,
        name: &str,
    ) -> Result<Option<Vec<Digest>>, Refusal> {
        let found = context_name(name).ok().and_then(|name| self.0.get(&name));
        let Some((context, made)) = found else { return Ok(None) };
        let layers = made.get_or_try_init(|| async {
            if let NamedContext::Image(image) = context {
                let found = shared.library.fetch(image, shared.request.pull).await?;
                let found = found.ok_or_else(|| Refusal::new(format!("No such image: {image}")))?;
                return Ok(found.config.rootfs.diff_ids.clone());
            }
            let files = fetch(shared, name, context).await?;
            Ok::<_, Refusal>(vec![layer(shared, name, files).await?])
        });
        layers.await.map(|layers| Some(layers.clone()))
    }
}

/// Brings the files of a context here; the second part is the directory of them that is meant.
async fn fetch(shared: &Shared, name: &str, context: &NamedContext) -> Result<(Fetched, String), Refusal> {
    match context {
        NamedContext::Lent(directory) => {
            let lent = match &shared.request.lender {
                Some(lender) => lender.0.directory(name.to_owned(), directory.clone()).await?,
                None => None,
            };
            let missing =
                || Refusal::new(format!("the client has no directory {directory} for the context {name}"));
            Ok((lent.ok_or_else(missing)?, String::new()))
        }
        NamedContext::Remote(address) => match GitAddress::parse(address) {
            Some(git) => {
                let commit = shared.sources.commit(git.source.clone()).await?;
                Ok((shared.sources.checkout(git.source, commit, false).await?, git.subdir))
            }
            None if is_http(address) => {
                let fetched = shared.sources.download(address.clone(), file_name(address)).await?;
                Ok((fetched, String::new()))
            }
            None => Err(Refusal::new(format!("invalid git context {address}"))),
        },
        NamedContext::Image(image) => Err(Refusal::new(format!("{image} is an image"))),
    }
}

/// Makes a layer of files, or finds the one that there is of them.
async fn layer(
    shared: &Arc<Shared>,
    name: &str,
    (fetched, directory): (Fetched, String),
) -> Result<Digest, Refusal> {
    let root = Union::read_only(std::slice::from_ref(&fetched.root)).map_err(Refusal::at(&fetched.root))?;
    let source = Source { root, ignore: None, is_ours: false };
    let shown = name.to_owned();
    let (key, source, fetched, directory) = blocking(move |cancel| {
        let (mut key, mut inputs) = (Key::new("context"), Inputs::default());
        let mut hasher = Hasher::directory(&mut key, &mut inputs, &shown);
        if !hand_over(&source, &directory, OsStr::new(""), &cancel, &mut hasher)? {
            return Err(Refusal::new(format!("{directory} is no directory")));
        }
        Ok((key.finish(), source, fetched, directory))
    })
    .await?;
    if !shared.request.no_cache
        && let Some(layer) = shared.library.cached(key).await
    {
        return Ok(layer);
    }
    let scratch = Scratch::open(&shared.library, &[]).await?;
    let writing = scratch.clone();
    blocking(move |cancel| {
        let into = Union::open(writing.layer()).map_err(Refusal::at(&writing.layer().upper))?;
        hand_over(&source, &directory, OsStr::new(""), &cancel, &mut Writer::new(into.root()))?;
        // Only now may the files go.
        drop(fetched);
        Ok(())
    })
    .await?;
    let layer = scratch.commit().await?;
    shared.library.remember(key, layer).await;
    Ok(layer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_images() {
        for (name, kept) in [
            ("base", "base"),
            ("alpine:latest", "alpine"),
            ("docker.io/library/alpine", "alpine"),
            ("golang:1.22", "golang:1.22"),
            ("localhost:5000/x", "localhost:5000/x"),
        ] {
            assert_eq!(context_name(name).as_deref(), Ok(kept));
        }
        assert!(context_name("UPPER").is_err() && context_name("").is_err());
    }

    #[test]
    fn every_kind_is_taken_or_refused_by_name() {
        let parse = |text| NamedContext::parse("x", text);
        assert_eq!(parse("docker-image://a:1"), Ok(NamedContext::Image("a:1".into())));
        assert_eq!(parse("local:src"), Ok(NamedContext::Lent("src".into())));
        for remote in ["https://h/x.git#main:sub", "git://h/x", "http://h/file"] {
            assert_eq!(parse(remote), Ok(NamedContext::Remote(remote.into())));
        }
        for (wrong, text) in [
            ("plain", "invalid context specifier plain for x"),
            ("docker-image://UPPER", "invalid reference format"),
            ("oci-layout://ref@sha256:1", "not supported"),
            ("input:target", "not supported"),
            ("ftp://h/x", "unsupported context source ftp for x"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert!(error.contains(text), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_stage_gives_way_to_the_context_of_its_name() {
        let text = "FROM a AS base\nRUN x\nFROM base\nCOPY --from=Base a b\n";
        let mut file = crate::dockerfile::parse(text).unwrap();
        let named = [("base".to_owned(), NamedContext::Image("b".into()))].into();
        Contexts::new(&named).replace_stages(&mut file);
        assert_eq!((file.stages[0].image.as_str(), file.stages[0].body.len()), ("base", 0));
        assert_eq!((file.stages[1].image.as_str(), file.stages[1].body.len()), ("base", 1));
    }
}
