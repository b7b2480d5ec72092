//! Git repositories, by the host's `git` program.
//!
//! The repository is hostile until shown otherwise: no configuration of the host's, no hooks, no templates, no prompts,
//! only transports that reach other hosts, and a checkout into a directory that is nobody else's.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cirro_seams::build::GitSource;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::error::{EngineError, blocking, io};

/// How long one git command may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Bytes of a command's output that are read.
const MAX_OUTPUT: u64 = 8 << 20;
const MAX_REFERENCE: usize = 1024;

/// Finds the commit that a source means.
pub(super) async fn commit(source: &GitSource) -> Result<String, EngineError> {
    let reference = source.reference.as_deref().unwrap_or("HEAD");
    check(&source.url, reference)?;
    if is_commit(reference) {
        return Ok(reference.to_owned());
    }
    let listed = git(None, &["ls-remote", "--", &source.url]).await?;
    find(&listed, reference).ok_or_else(|| {
        EngineError::Invalid(format!("{}: repository does not contain ref {reference}", source.url))
    })
}

/// Checks a commit out into `dir`, which is empty.
pub(super) async fn checkout(
    dir: &Path,
    source: &GitSource,
    commit: &str,
    keep_git_dir: bool,
) -> Result<(), EngineError> {
    check(&source.url, commit)?;
    git(Some(dir), &["init", "-q", "--template=", "."]).await?;
    git(Some(dir), &["remote", "add", "origin", &source.url]).await?;
    fetch(dir, source, commit).await?;
    git(Some(dir), &["checkout", "-q", "--detach", commit]).await?;
    let modules = dir.join(".gitmodules");
    if blocking(move || Ok(std::fs::symlink_metadata(modules).is_ok())).await? {
        git(Some(dir), &["submodule", "-q", "update", "--init", "--recursive", "--depth=1"]).await?;
    }
    if !keep_git_dir {
        let dir = dir.to_owned();
        blocking(move || remove_git_directories(&dir, 0)).await?;
    }
    Ok(())
}

/// Fetches a commit alone if the server gives it so, else everything.
async fn fetch(dir: &Path, source: &GitSource, commit: &str) -> Result<(), EngineError> {
    let shallow = ["fetch", "-q", "--depth=1", "--no-tags", "origin"];
    if git(Some(dir), &[&shallow[..], &[commit]].concat()).await.is_ok() {
        return Ok(());
    }
    git(Some(dir), &["fetch", "-q", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]).await?;
    let named = source.reference.as_deref().filter(|reference| !is_commit(reference));
    if let Some(reference) = named {
        // A reference that is neither a branch nor a tag; those are here already.
        let _ = git(Some(dir), &["fetch", "-q", "origin", reference]).await;
    }
    Ok(())
}

/// Refuses what git would take for an option, and what is no reference.
fn check(url: &str, reference: &str) -> Result<(), EngineError> {
    let clean = |text: &str| !text.starts_with('-') && !text.chars().any(|c| c.is_control() || c == ' ');
    if !clean(url) || !clean(reference) || reference.len() > MAX_REFERENCE {
        return Err(EngineError::Invalid(format!(
            "invalid git address {url:?} with reference {reference:?}"
        )));
    }
    Ok(())
}

fn is_commit(reference: &str) -> bool {
    reference.len() == 40 && reference.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Finds a reference in the list of a server's: as it is, else as a branch, else as a tag (what it points to).
fn find(listed: &str, reference: &str) -> Option<String> {
    let named = |name: &str| {
        listed.lines().find_map(|line| {
            let (commit, listed) = line.split_once('\t')?;
            (listed == name && is_commit(commit)).then(|| commit.to_owned())
        })
    };
    let tag = format!("refs/tags/{reference}");
    named(reference)
        .or_else(|| named(&format!("refs/heads/{reference}")))
        .or_else(|| named(&format!("{tag}^{{}}")))
        .or_else(|| named(&tag))
}

async fn git(dir: Option<&Path>, arguments: &[&str]) -> Result<String, EngineError> {
    let mut command = Command::new("git");
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    command
        .args([
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "protocol.file.allow=never",
            "-c",
            "advice.detachedHead=false",
        ])
        .args(["-c", "credential.helper=", "-c", "core.fsmonitor=false"])
        .args(arguments)
        .env_clear()
        .env("PATH", path)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
        // As BuildKit without known hosts: who signs the commits is not known either.
        .env(
            "GIT_SSH_COMMAND",
            "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .current_dir(dir.unwrap_or(Path::new("/")));
    for name in ["http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let failed = |reason: String| EngineError::Failed(format!("git {}: {reason}", arguments[0]));
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("this host has no git program".into()),
        _ => failed(error.to_string()),
    })?;
    let (out, err) = (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
    let run = async { tokio::join!(read(out), read(err), child.wait()) };
    let Ok((out, err, status)) = tokio::time::timeout(PATIENCE, run).await else {
        return Err(failed(format!("not done after {} s", PATIENCE.as_secs())));
    };
    match status {
        Ok(status) if status.success() => Ok(out),
        Ok(_) => Err(failed(err.trim().lines().next_back().unwrap_or("failed").to_owned())),
        Err(error) => Err(failed(error.to_string())),
    }
}

async fn read(stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut bytes = Vec::new();
    let mut limited = stream.take(MAX_OUTPUT);
    let _ = limited.read_to_end(&mut bytes).await;
    // A pipe that nobody reads would stop the command.
    let _ = tokio::io::copy(limited.get_mut(), &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Takes git's own directories out of a tree, those of submodules too. Nothing is followed.
fn remove_git_directories(dir: &Path, depth: usize) -> Result<(), EngineError> {
    const MAX_DEPTH: usize = 200;
    let failed = || io(format!("look through {}", dir.display()));
    if depth > MAX_DEPTH {
        return Err(EngineError::Invalid(format!("a repository deeper than {MAX_DEPTH} directories")));
    }
    for entry in std::fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let kind = entry.file_type().map_err(failed())?;
        match (entry.file_name() == ".git", kind.is_dir()) {
            (true, true) => std::fs::remove_dir_all(entry.path()).map_err(failed())?,
            (true, false) => std::fs::remove_file(entry.path()).map_err(failed())?,
            (false, true) => remove_git_directories(&entry.path(), depth + 1)?,
            (false, false) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_a_branch_before_it_is_a_tag() {
        let (a, b, c) = ("a".repeat(40), "b".repeat(40), "c".repeat(40));
        let listed = format!(
            "{a}\tHEAD\n{a}\trefs/heads/main\n{b}\trefs/tags/v1\n{c}\trefs/tags/v1^{{}}\n{b}\trefs/tags/main\n"
        );
        assert_eq!(find(&listed, "HEAD"), Some(a.clone()));
        assert_eq!(find(&listed, "main"), Some(a));
        assert_eq!(find(&listed, "v1"), Some(c));
        assert_eq!(find(&listed, "refs/tags/v1"), Some(b));
        assert_eq!(find(&listed, "v2"), None);
    }

    #[test]
    fn nothing_becomes_an_option() {
        assert!(check("--upload-pack=evil", "main").is_err());
        assert!(check("https://x/y.git", "--output=x").is_err());
        assert!(check("https://x/y.git", "a b").is_err());
        assert!(check("https://x/y.git", "feature/a").is_ok());
    }
}
