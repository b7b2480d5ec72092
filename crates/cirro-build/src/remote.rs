//! Addresses that a build fetches from: HTTP files and git repositories.
//!
//! Source: BuildKit, `util/gitutil` (`ParseGitRef`) and `frontend/dockerfile/dfgitutil`; Docker's "Build context".

use cirro_seams::build::GitSource;

/// A git repository, with what of it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAddress {
    /// Where it is, and which commit.
    pub source: GitSource,
    /// Directory in it; its root when empty.
    pub subdir: String,
}

impl GitAddress {
    /// Reads `URL#reference:directory`; `None` if the address is not one of a git repository.
    pub fn parse(text: &str) -> Option<Self> {
        let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
        let by_scheme = ["git://", "ssh://", "git@"].iter().any(|scheme| url.starts_with(scheme));
        let by_name = is_http(url) && url.split('?').next().is_some_and(|path| path.ends_with(".git"));
        let short = url.starts_with("github.com/");
        if !(by_scheme || by_name || short) {
            return None;
        }
        let url = if short { format!("https://{url}") } else { url.to_owned() };
        let (reference, subdir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
        Some(Self { source: GitSource { url, reference }, subdir: subdir.to_owned() })
    }

    /// Reads a source of `ADD`, where a path may begin with `github.com/`.
    pub(crate) fn of_source(text: &str) -> Option<Self> {
        Self::parse(text).filter(|_| !text.starts_with("github.com/"))
    }
}

/// Says whether an address is one of HTTP.
pub fn is_http(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

/// Returns the name that the file at an address gets.
pub(crate) fn file_name(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = match path.split_once('/') {
        Some((_, path)) => path.trim_end_matches('/').rsplit('/').next().unwrap_or_default(),
        None => "",
    };
    match name {
        "" | "." | ".." => "__unnamed__".into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_are_known_by_scheme_or_suffix() {
        let parsed = |text: &str| {
            let address = GitAddress::parse(text)?;
            Some((address.source.url, address.source.reference.unwrap_or_default(), address.subdir))
        };
        let git =
            |url: &str, reference: &str, subdir: &str| Some((url.into(), reference.into(), subdir.into()));
        assert_eq!(parsed("https://x/y.git"), git("https://x/y.git", "", ""));
        assert_eq!(parsed("https://x/y.git#v1:docs/a"), git("https://x/y.git", "v1", "docs/a"));
        assert_eq!(parsed("git://x/y#:d"), git("git://x/y", "", "d"));
        assert_eq!(parsed("git@x:y#main"), git("git@x:y", "main", ""));
        assert_eq!(parsed("github.com/a/b"), git("https://github.com/a/b", "", ""));
        for other in ["https://x/y.tar.gz", "./git@x", "x.git", "http://x/y#z.git"] {
            assert_eq!(parsed(other), None, "{other}");
        }
        assert_eq!(GitAddress::of_source("github.com/a/b"), None);
    }

    #[test]
    fn files_are_named_by_the_last_part_of_their_path() {
        for (url, name) in [
            ("https://x/a/b.tar.gz?sig=1", "b.tar.gz"),
            ("https://x/a/", "a"),
            ("https://x", "__unnamed__"),
            ("http://x/", "__unnamed__"),
            ("http://x/a/..", "__unnamed__"),
        ] {
            assert_eq!(file_name(url), name, "{url}");
        }
    }
}
