//! The build context: how it comes off the wire, and what the builder reads of it first.

use std::io::Write;
use std::path::Path;

use crate::archive::{Opened, Ownership, Unpacker};
use crate::dockerfile::MAX_DOCKERFILE_BYTES;
use crate::error::Refusal;
use crate::ignore::Ignore;
use crate::tree::{Cancel, Changes};
use crate::union::{Last, Union, Walked};
use crate::{BuildError, BuildRequest};

const DEFAULT_DOCKERFILE: &str = "Dockerfile";
pub(crate) const MAX_IGNORE_BYTES: u64 = 1 << 20;

/// Unpacks a build context below `dir`, which is there and empty; blocks.
///
/// `tar` is what the classic endpoint gets: a tar archive, plain or compressed with gzip, bzip2, xz or zstd, or else one
/// Dockerfile by itself. Entries belong to root. On error what was unpacked so far is left to the caller, who
/// owns `dir`.
///
/// # Errors
/// [`BuildError::Context`] for names that leave `dir`, devices, too many entries or bytes, other compressions.
pub fn unpack_context(tar: &mut dyn std::io::Read, dir: &Path) -> Result<(), BuildError> {
    unpack(tar, dir).map_err(|refusal| BuildError::Context { message: refusal.to_string() })
}

fn unpack(tar: &mut dyn std::io::Read, dir: &Path) -> Result<(), Refusal> {
    let union = Union::directory(dir).map_err(Refusal::at(dir))?;
    let opened = Opened::new(tar)?;
    if opened.head.is_empty() {
        return Err(Refusal::new("the context is empty"));
    }
    if !opened.is_tar() {
        return write_dockerfile(opened, &union);
    }
    let unpacker = Unpacker {
        union: &union,
        base: "/".into(),
        ownership: Ownership::Root,
        changes: &Changes::default(),
        cancel: &Cancel::default(),
    };
    unpacker.unpack(opened)
}

/// Takes the stream for a Dockerfile if it is text.
fn write_dockerfile(opened: Opened<'_>, union: &Union) -> Result<(), Refusal> {
    use std::io::Read;
    let mut text = Vec::new();
    let mut reader = opened.into_reader().take(MAX_DOCKERFILE_BYTES + 1);
    reader.read_to_end(&mut text).map_err(Refusal::at(DEFAULT_DOCKERFILE))?;
    if text.len() as u64 > MAX_DOCKERFILE_BYTES || text.contains(&0) || std::str::from_utf8(&text).is_err() {
        return Err(Refusal::new("neither a tar archive nor a Dockerfile"));
    }
    let file = union.root().make_file(DEFAULT_DOCKERFILE.as_ref());
    file.and_then(|mut file| file.write_all(&text)).map_err(Refusal::at(DEFAULT_DOCKERFILE))
}

/// What is read of a context before anything is built.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) root: Union,
    pub(crate) dockerfile: String,
    pub(crate) ignore: Ignore,
}

impl Context {
    /// Reads Dockerfile and ignore rules; blocks.
    pub(crate) fn load(request: &BuildRequest) -> Result<Self, BuildError> {
        let wrong = |refusal: Refusal| BuildError::Context { message: refusal.to_string() };
        let root = Union::read_only(std::slice::from_ref(&request.context))
            .map_err(|error| wrong(Refusal::at(&request.context)(error)))?;
        let path = dockerfile_path(&root, &request.dockerfile).map_err(wrong)?;
        let dockerfile = match &request.dockerfile_text {
            Some(text) => text.clone(),
            None => read_dockerfile(&root, path.clone())?,
        };
        let ignore = match &request.ignore_text {
            Some(text) => Ignore::parse(text).map_err(|reason| wrong(Refusal::new(reason)))?,
            None => load_ignore(&root, &path).map_err(wrong)?,
        };
        Ok(Self { root, dockerfile, ignore })
    }
}

fn read_dockerfile(root: &Union, path: String) -> Result<String, BuildError> {
    let bytes = root.read(Path::new(&path), MAX_DOCKERFILE_BYTES);
    let bytes = bytes.map_err(|error| BuildError::Context { message: format!("{path}: {error}") })?;
    let Some(bytes) = bytes else { return Err(BuildError::NoDockerfile { path }) };
    String::from_utf8(bytes).map_err(|_| BuildError::Context { message: format!("{path} is not UTF-8 text") })
}

/// Chooses the Dockerfile: the one asked for, else `Dockerfile`, else `dockerfile`.
fn dockerfile_path(root: &Union, asked: &str) -> Result<String, Refusal> {
    if !asked.is_empty() && asked != DEFAULT_DOCKERFILE {
        return Ok(asked.to_owned());
    }
    let lower = DEFAULT_DOCKERFILE.to_ascii_lowercase();
    for name in [DEFAULT_DOCKERFILE, &lower] {
        if let Walked::Other(..) = root.walk(Path::new(name), Last::Follow).map_err(Refusal::at(name))? {
            return Ok(name.to_owned());
        }
    }
    Ok(DEFAULT_DOCKERFILE.into())
}

/// Returns where ignore rules may be, the first that is there counts.
pub(crate) fn ignore_names(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()]
}

/// Reads `<Dockerfile>.dockerignore`, which goes before `.dockerignore`.
fn load_ignore(root: &Union, dockerfile: &str) -> Result<Ignore, Refusal> {
    for name in ignore_names(dockerfile) {
        if let Some(bytes) = root.read(Path::new(&name), MAX_IGNORE_BYTES).map_err(Refusal::at(&name))? {
            let text = String::from_utf8_lossy(&bytes);
            return Ignore::parse(&text).map_err(|reason| Refusal::new(format!("{name}: {reason}")));
        }
    }
    Ok(Ignore::default())
}

#[cfg(test)]
mod tests;
