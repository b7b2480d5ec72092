//! `ADD` from elsewhere: what identifies a source, and its files when no layer is known for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cirro_seams::build::Fetched;
use cirro_types::Digest;

use super::Work;
use crate::dockerfile::{self, Instruction, TransferSource};
use crate::error::Refusal;
use crate::remote::{GitAddress, file_name, is_http};
use crate::transfer::{Remote, Source};
use crate::union::Union;

/// Digits of a commit that name it.
const MIN_COMMIT: usize = 7;

/// The sources of one instruction that are not here.
#[derive(Default)]
pub(super) struct Remotes(BTreeMap<String, Found>);

/// What is known of a source before its files are needed.
enum Found {
    /// A file; it is here unless its digest was known from a `--checksum`.
    File {
        digest: Digest,
        fetched: Option<Fetched>,
    },
    Git {
        address: GitAddress,
        commit: String,
        keep_git_dir: bool,
    },
}

/// Files of the sources, for as long as this is held.
pub(super) struct Opened {
    pub(super) sources: BTreeMap<String, Source>,
    _held: Vec<Fetched>,
}

impl Work {
    /// Finds out what the addresses among the sources stand for now.
    pub(super) async fn look_up(
        &self,
        instruction: &Instruction,
        files: &dockerfile::Transfer,
        keep_git_dir: bool,
    ) -> Result<Remotes, Refusal> {
        let checksum = instruction.flag("checksum").map(|text| self.expand(text)).transpose()?;
        let mut remotes = Remotes::default();
        let mut files_to_check = 0;
        for source in &files.sources {
            let TransferSource::Path(text) = source else { continue };
            let text = self.expand(text)?;
            let found = if let Some(address) = GitAddress::of_source(&text) {
                if instruction.keyword != "ADD" {
                    return Err(Refusal::new("source can't be a git ref for COPY"));
                }
                let commit = self.shared.sources.commit(address.source.clone()).await?;
                files_to_check += 1;
                if let Some(want) = &checksum {
                    check_commit(want, &commit)?;
                }
                Found::Git { address, commit, keep_git_dir }
            } else if is_http(&text) {
                if instruction.keyword != "ADD" {
                    return Err(Refusal::new("source can't be a URL for COPY"));
                }
                files_to_check += 1;
                self.look_up_file(&text, checksum.as_deref()).await?
            } else {
                continue;
            };
            remotes.0.insert(text, found);
        }
        match checksum {
            Some(_) if files.sources.len() > 1 => {
                Err(Refusal::new("checksum can't be specified for multiple sources"))
            }
            Some(_) if files_to_check == 0 => {
                Err(Refusal::new("checksum can't be specified for non-HTTP(S) and non-git sources"))
            }
            _ => Ok(remotes),
        }
    }

    async fn look_up_file(&self, url: &str, checksum: Option<&str>) -> Result<Found, Refusal> {
        // Known by its digest, it need not be fetched to be found in the cache.
        if let Some(text) = checksum {
            let digest = text.parse().map_err(|_| {
                Refusal::new(format!("invalid checksum {text:?}: want sha256: and 64 digits"))
            })?;
            return Ok(Found::File { digest, fetched: None });
        }
        let fetched = self.shared.sources.download(url.to_owned(), file_name(url)).await?;
        let digest = fetched.digest.ok_or_else(|| Refusal::new(format!("{url}: not a file")))?;
        Ok(Found::File { digest, fetched: Some(fetched) })
    }

    /// Fetches what is not here yet.
    pub(super) async fn open_remotes(&self, remotes: Remotes) -> Result<Opened, Refusal> {
        let mut opened = Opened { sources: BTreeMap::new(), _held: Vec::new() };
        for (url, found) in remotes.0 {
            let fetched = match found {
                Found::File { fetched: Some(fetched), .. } => fetched,
                Found::File { digest, fetched: None } => {
                    let fetched = self.shared.sources.download(url.clone(), file_name(&url)).await?;
                    let got = fetched.digest.map(|digest| digest.to_string()).unwrap_or_default();
                    if got != digest.to_string() {
                        return Err(Refusal::new(format!(
                            "digest mismatch {url}: got {got}, expected {digest}"
                        )));
                    }
                    fetched
                }
                Found::Git { address, commit, keep_git_dir } => {
                    self.shared.sources.checkout(address.source, commit, keep_git_dir).await?
                }
            };
            let root =
                Union::read_only(std::slice::from_ref(&fetched.root)).map_err(Refusal::at(&fetched.root))?;
            opened.sources.insert(url, Source { root, ignore: None, is_ours: false });
            opened._held.push(fetched);
        }
        Ok(opened)
    }
}

/// Checks that a commit is the one that a `--checksum` names, by its first digits at least.
fn check_commit(want: &str, commit: &str) -> Result<(), Refusal> {
    let digits = want.len() >= MIN_COMMIT && want.bytes().all(|byte| byte.is_ascii_hexdigit());
    match digits && commit.starts_with(&want.to_ascii_lowercase()) {
        true => Ok(()),
        false => Err(Refusal::new(format!("expected checksum to match {want}, got {commit}"))),
    }
}

impl Remotes {
    /// Returns what a source is, if it is one of these: by what its content is known, and where it is in what is
    /// fetched.
    pub(super) fn get(&self, text: &str) -> Option<Arc<Remote>> {
        let remote = match self.0.get(text)? {
            Found::File { digest, .. } => Remote {
                url: text.to_owned(),
                identity: format!("file {digest}"),
                path: file_name(text),
                is_directory: false,
            },
            Found::Git { address, commit, keep_git_dir } => Remote {
                url: text.to_owned(),
                identity: format!("git {commit} {} {keep_git_dir}", address.subdir),
                path: address.subdir.clone(),
                is_directory: true,
            },
        };
        Some(Arc::new(remote))
    }
}
