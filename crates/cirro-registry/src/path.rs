//! Which endpoint a path is. Repositories' names have slashes in them, so paths are read from their end.

use cirro_image::distribution::{BlobDigest, Reference, RepositoryName};

use crate::error::Fault;

/// An endpoint with the parts of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v2/`
    Base,
    /// `/token`
    Token,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, BlobDigest),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, BlobDigest),
}

impl Endpoint {
    /// Reads a path.
    pub(crate) fn parse(path: &str) -> Result<Self, Fault> {
        let path = decode(path).ok_or(Fault::PageNotFound)?;
        let rest = match path.as_str() {
            "/token" => return Ok(Self::Token),
            "/v2" | "/v2/" => return Ok(Self::Base),
            "/v2/_catalog" => return Ok(Self::Catalog),
            path => path.strip_prefix("/v2/").ok_or(Fault::PageNotFound)?,
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let (name, verb) = match &parts[..] {
            [name @ .., "blobs", "uploads", id] => (name, ["uploads", *id]),
            [name @ .., "blobs", "uploads"] => (name, ["uploads", ""]),
            [name @ .., verb, noun] => (name, [*verb, *noun]),
            _ => return Err(Fault::PageNotFound),
        };
        let name = name.join("/");
        let name = || name.parse::<RepositoryName>().map_err(|_| Fault::NameInvalid(name.clone()));
        let digest =
            |text: &str| text.parse::<BlobDigest>().map_err(|error| Fault::DigestInvalid(error.to_string()));
        match verb {
            ["tags", "list"] => Ok(Self::Tags(name()?)),
            ["manifests", reference] => {
                let unknown = |_| Fault::ReferenceInvalid(reference.to_owned());
                Ok(Self::Manifest(name()?, reference.parse().map_err(unknown)?))
            }
            ["blobs", text] => Ok(Self::Blob(name()?, digest(text)?)),
            ["uploads", ""] => Ok(Self::Uploads(name()?)),
            ["uploads", id] => Ok(Self::Upload(name()?, id.to_owned())),
            ["referrers", text] => Ok(Self::Referrers(name()?, digest(text)?)),
            _ => Err(Fault::PageNotFound),
        }
    }
}

/// Undoes percent-encoding; some clients encode the colon of a digest.
fn decode(path: &str) -> Option<String> {
    if !path.contains('%') {
        return Some(path.to_owned());
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        // No sign, which `from_str_radix` would take.
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn names_may_look_like_verbs() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (path, endpoint) in [
            ("/v2/".to_owned(), Endpoint::Base),
            ("/v2/_catalog".to_owned(), Endpoint::Catalog),
            ("/v2/a/b/tags/list".to_owned(), Endpoint::Tags(name("a/b"))),
            ("/v2/tags/list/tags/list".to_owned(), Endpoint::Tags(name("tags/list"))),
            (
                "/v2/manifests/manifests/v1".to_owned(),
                Endpoint::Manifest(name("manifests"), "v1".parse().unwrap()),
            ),
            (format!("/v2/a/blobs/{digest}"), Endpoint::Blob(name("a"), digest.parse().unwrap())),
            (
                format!("/v2/a/blobs/{}", digest.replace(':', "%3a")),
                Endpoint::Blob(name("a"), digest.parse().unwrap()),
            ),
            ("/v2/a/blobs/uploads/".to_owned(), Endpoint::Uploads(name("a"))),
            ("/v2/a/blobs/uploads".to_owned(), Endpoint::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/x1".to_owned(), Endpoint::Upload(name("a"), "x1".into())),
            (format!("/v2/a/referrers/{digest}"), Endpoint::Referrers(name("a"), digest.parse().unwrap())),
        ] {
            assert_eq!(Endpoint::parse(&path).unwrap(), endpoint, "{path}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_told() {
        for path in ["/", "/v1/", "/v2/a", "/v2/a/b/c", "/v2/a/blobs/%zz", "/v2/a/blobs/%+1"] {
            assert!(matches!(Endpoint::parse(path), Err(Fault::PageNotFound)), "{path}");
        }
        assert!(matches!(Endpoint::parse("/v2/A/tags/list"), Err(Fault::NameInvalid(_))));
        assert!(matches!(Endpoint::parse("/v2/../x/tags/list"), Err(Fault::NameInvalid(_))));
        assert!(matches!(Endpoint::parse("/v2/a/blobs/sha256:x"), Err(Fault::DigestInvalid(_))));
        assert!(matches!(Endpoint::parse("/v2/a/manifests/-x"), Err(Fault::ReferenceInvalid(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "/v2/[ -~é]{0,80}") {
            let _ = Endpoint::parse(&path);
        }
    }
}
