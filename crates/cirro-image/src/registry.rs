//! The registry client: pull, push, login, and what a registry knows of a name.
//!
//! ```text
//! pull, push ─▶ session (repository, authorization) ─▶ http (redirects, limits) ─▶ connect (names, TLS, idle)
//! ```
//! | file | what |
//! | --- | --- |
//! | `options`, `challenge`, `error` | where and as whom, how a registry asks for it, what goes wrong |
//! | `connect`, `tls`, `http`, `session` | from a TCP connection up to one repository |
//! | `pull`, `download`, `growing` | layers are unpacked while they come |
//! | `push` | what is missing there |
//! | `origin` | single documents and blobs, for mirrors |
//! | `progress` | docker's words for it |

mod challenge;
mod connect;
mod download;
mod error;
mod file;
mod growing;
mod http;
mod options;
mod origin;
mod progress;
mod pull;
mod push;
mod reach;
mod session;
mod tls;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use ::http::Method;
use ::http::header::ACCEPT;
use cirro_types::{Digest, ImageConfig, ImageReference};
use serde_json::Value;

pub use challenge::{Challenge, parse_challenges};
pub use connect::Resolve;
pub use error::RegistryError;
pub use file::HttpFile;
pub use options::{Credentials, RegistryOptions};
pub use origin::Origin;
pub use progress::{PROGRESS_LINES, Progress, ProgressSink};
pub use pull::Pulled;

use crate::document::{Document, Platform};
use crate::library::Library;
use crate::media;
use connect::Connector;
use options::{Endpoint, HUB};
use pull::{MAX_TAGS, Pull, blocking};
use push::Push;
use session::{Access, Session};

/// Where the hub's search is.
const SEARCH: &str = "https://index.docker.io/v1/search";
const MAX_DOCUMENT: u64 = 4 << 20;
/// Repositories that a push asks to read, so that their blobs can be mounted.
const MAX_FURTHER: usize = 4;

/// What is to be pulled.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// The name.
    pub reference: ImageReference,
    /// Every tag of the repository instead of one.
    pub all_tags: bool,
    /// Another platform than this host's.
    pub platform: Option<Platform>,
    /// Who asks.
    pub credentials: Credentials,
}

/// What a registry says of a name.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// Type of the index or manifest.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// What there are images for.
    pub platforms: Vec<Platform>,
}

/// The client. Cheap to clone.
#[derive(Clone)]
pub struct Registry {
    options: Arc<RegistryOptions>,
    connector: Arc<Connector>,
    /// Which of several places answered: by domain.
    answered: Arc<Mutex<HashMap<String, Endpoint>>>,
}

impl Registry {
    /// Makes a client; nothing is asked yet.
    pub fn new(options: RegistryOptions, resolver: Arc<dyn Resolve>) -> Self {
        Self {
            options: Arc::new(options),
            connector: Arc::new(Connector::new(resolver)),
            answered: Arc::default(),
        }
    }

    /// Pulls an image, or every tag of a repository, into the library.
    ///
    /// # Errors
    /// Nothing of an image that could not be pulled whole is kept; with all tags, those before it are.
    pub async fn pull(
        &self,
        library: &Library,
        request: PullRequest,
        progress: &ProgressSink,
    ) -> Result<Vec<Pulled>, RegistryError> {
        let reference = &request.reference;
        let mut first = None;
        for endpoint in self.endpoints(&reference.domain, Access::Pull).await? {
            let session = self.session(&endpoint, reference, &request.credentials, Access::Pull, Vec::new());
            let pull =
                Pull { library, session: Arc::new(session), platform: request.platform.clone(), progress };
            match self.pull_from(pull, &request).await {
                Ok(pulled) => return Ok(pulled),
                // A mirror that does not have it, or is down, is passed over.
                Err(error) if endpoint.mirror => {
                    tracing::warn!(mirror = endpoint.host, %error, "pull from a mirror failed");
                    first = Some(error);
                }
                Err(error) => return Err(error.of_pull(reference)),
            }
        }
        Err(first.unwrap_or(RegistryError::Cancelled))
    }

    async fn pull_from(&self, pull: Pull<'_>, request: &PullRequest) -> Result<Vec<Pulled>, RegistryError> {
        let reference = &request.reference;
        if !request.all_tags {
            let pulled = pull.one(reference).await?;
            finish(pull.progress, &reference.familiar(), pulled.newer);
            self.warn_of_platform(&pull, &pulled, request.platform.as_ref());
            return Ok(vec![pulled]);
        }
        let mut all = Vec::new();
        for tag in pull.session.tags(MAX_TAGS).await? {
            let one = format!("{}/{}:{tag}", reference.domain, reference.path);
            let Ok(one) = one.parse::<ImageReference>() else {
                return Err(RegistryError::Protocol(format!("the registry has an invalid tag {tag:?}")));
            };
            all.push(pull.one(&one).await?);
        }
        finish(pull.progress, &reference.familiar_name(), all.iter().any(|pulled| pulled.newer));
        Ok(all)
    }

    /// A single manifest is taken whatever it is for; who asked for a platform is told.
    fn warn_of_platform(&self, pull: &Pull<'_>, pulled: &Pulled, wanted: Option<&Platform>) {
        let Some(wanted) = wanted else { return };
        let Ok(image) = pull.library.find(&pulled.id.to_string()) else { return };
        let actual = platform_of(&image.config);
        if !wanted.accepts(&actual) {
            pull.progress.status(
                None,
                format!(
                    "image with reference {} was found but does not match the specified platform: wanted {wanted}, \
                     actual: {actual}",
                    pulled.reference.familiar()
                ),
            );
        }
    }

    /// Pushes one tag, or every tag that the library has of a repository.
    pub async fn push(
        &self,
        library: &Library,
        reference: &ImageReference,
        all_tags: bool,
        credentials: &Credentials,
        progress: &ProgressSink,
    ) -> Result<(), RegistryError> {
        let name = format!("{}/{}", reference.domain, reference.path);
        progress.status(None, format!("The push refers to repository [{name}]"));
        let tags = {
            let (library, reference) = (library.clone(), reference.clone());
            blocking(move || Ok(tags_of(&library, &reference)?)).await?
        };
        if tags.is_empty() {
            return Err(RegistryError::NotFound(format!(
                "An image does not exist locally with the tag: {}",
                reference.familiar_name()
            )));
        }
        let wanted = if all_tags { tags } else { vec![reference.clone()] };
        let further = further(library, &wanted, reference);
        // The last place is the registry itself: nothing is pushed to a mirror.
        let Some(endpoint) = self.endpoints(&reference.domain, Access::Push).await?.pop() else {
            return Err(RegistryError::Cancelled);
        };
        let session = Arc::new(self.session(&endpoint, reference, credentials, Access::Push, further));
        let push = Push { library, session, domain: &reference.domain, progress };
        for one in &wanted {
            push.one(one).await?;
        }
        Ok(())
    }

    /// Asks a registry whether it takes these credentials. An empty address means the hub.
    pub async fn login(&self, credentials: &Credentials) -> Result<Option<String>, RegistryError> {
        let domain = domain_of_address(&credentials.serveraddress);
        let Some(endpoint) = self.endpoints(&domain, Access::Push).await?.pop() else {
            return Err(RegistryError::Cancelled);
        };
        let session = Session::new(
            Arc::clone(&self.connector),
            endpoint,
            (&domain, ""),
            credentials.clone(),
            Access::Pull,
            Vec::new(),
        );
        session.log_in().await
    }

    /// Tells what a registry has under a name.
    pub async fn distribution(
        &self,
        reference: &ImageReference,
        credentials: &Credentials,
    ) -> Result<Distribution, RegistryError> {
        let name = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        };
        let Some(endpoint) = self.endpoints(&reference.domain, Access::Push).await?.pop() else {
            return Err(RegistryError::Cancelled);
        };
        let session = self.session(&endpoint, reference, credentials, Access::Pull, Vec::new());
        let fetched = session.manifest(&name, MAX_DOCUMENT).await?;
        let (platforms, media_type) = match Document::parse(&fetched.bytes, fetched.media_type.as_deref())? {
            Document::Index(list) => {
                (list.into_iter().filter_map(|one| one.platform).collect(), media::OCI_INDEX)
            }
            Document::Manifest(manifest) => {
                let config = &manifest.config;
                let bytes = session.document(&config.digest, config.size, MAX_DOCUMENT).await?;
                let config = serde_json::from_slice::<ImageConfig>(&bytes).ok();
                (config.iter().map(platform_of).collect(), media::OCI_MANIFEST)
            }
        };
        let media_type = fetched.media_type.unwrap_or_else(|| media_type.to_owned());
        Ok(Distribution { media_type, digest: fetched.digest, size: fetched.bytes.len() as u64, platforms })
    }

    /// Searches the hub; returns its answer's rows.
    pub async fn search(&self, term: &str, limit: u32) -> Result<Vec<Value>, RegistryError> {
        let url = format!("{SEARCH}?q={}&n={limit}", http::escape(term));
        let ask = http::Ask::new(Method::GET, url, true).header(ACCEPT, "application/json");
        let mut answer = http::send(&self.connector, ask).await?;
        if answer.status != ::http::StatusCode::OK {
            return Err(session::refusal(&mut answer).await);
        }
        let document: Value = session::json(&answer.document(MAX_DOCUMENT).await?, SEARCH)?;
        Ok(document["results"].as_array().cloned().unwrap_or_default())
    }

    fn session(
        &self,
        endpoint: &Endpoint,
        reference: &ImageReference,
        credentials: &Credentials,
        access: Access,
        further: Vec<String>,
    ) -> Session {
        let name = (reference.domain.as_str(), reference.path.as_str());
        Session::new(
            Arc::clone(&self.connector),
            endpoint.clone(),
            name,
            credentials.clone(),
            access,
            further,
        )
    }

    /// Lists the places to ask. Where TLS and plain HTTP are both allowed, the one that answers is found out once.
    async fn endpoints(&self, domain: &str, access: Access) -> Result<Vec<Endpoint>, RegistryError> {
        let mut places = self.options.endpoints(domain)?;
        if domain == HUB {
            places.retain(|place| access == Access::Pull || !place.mirror);
        }
        let [tls, plain] = &places[..] else { return Ok(places) };
        if plain.tls || tls.mirror {
            return Ok(places);
        }
        if let Some(known) = self.answered().get(domain) {
            return Ok(vec![known.clone()]);
        }
        let mut last = None;
        for place in [tls, plain] {
            let session = Session::new(
                Arc::clone(&self.connector),
                place.clone(),
                (domain, ""),
                Credentials::default(),
                Access::Pull,
                Vec::new(),
            );
            match session.reach().await {
                Ok(()) => {
                    self.answered().insert(domain.to_owned(), place.clone());
                    return Ok(vec![place.clone()]);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(RegistryError::Cancelled))
    }

    fn answered(&self) -> std::sync::MutexGuard<'_, HashMap<String, Endpoint>> {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn finish(progress: &ProgressSink, name: &str, newer: bool) {
    let what = if newer { "Downloaded newer image for" } else { "Image is up to date for" };
    progress.status(None, format!("Status: {what} {name}"));
}

fn platform_of(config: &ImageConfig) -> Platform {
    let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
    let variant = config.extra.get("variant").and_then(Value::as_str).filter(|text| !text.is_empty());
    Platform {
        architecture: or(&config.architecture, crate::ARCHITECTURE),
        os: or(&config.os, "linux"),
        variant: variant.map(str::to_owned),
        ..Platform::host()
    }
}

/// Lists the tags that the library has of a repository.
fn tags_of(library: &Library, reference: &ImageReference) -> Result<Vec<ImageReference>, crate::ImageError> {
    let of_repository = |tag: &ImageReference| {
        tag.digest.is_none() && tag.domain == reference.domain && tag.path == reference.path
    };
    let tags: BTreeSet<_> =
        library.list()?.into_iter().flat_map(|image| image.tags).filter(of_repository).collect();
    Ok(tags.into_iter().collect())
}

/// Lists the other repositories of the same registry that are known to have blobs of these images.
fn further(library: &Library, wanted: &[ImageReference], reference: &ImageReference) -> Vec<String> {
    let prefix = format!("{}/", reference.domain);
    let images = wanted.iter().filter_map(|tag| library.find(&tag.to_string()).ok());
    let diff_ids: BTreeSet<Digest> = images.flat_map(|image| image.config.rootfs.diff_ids.clone()).collect();
    let blobs = diff_ids.iter().flat_map(|diff_id| library.blobs_of(diff_id));
    let sources: BTreeSet<String> = blobs
        .flat_map(|(_, blob)| blob.sources)
        .filter_map(|source| source.strip_prefix(&prefix).map(str::to_owned))
        .filter(|path| *path != reference.path)
        .collect();
    sources.into_iter().take(MAX_FURTHER).collect()
}

/// Makes a registry's name of what `docker login` was given.
fn domain_of_address(address: &str) -> String {
    let bare = address.trim_start_matches("https://").trim_start_matches("http://");
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => HUB.to_owned(),
        domain => domain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_a_login_become_registries() {
        for (address, domain) in [
            ("", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://quay.io/v2/", "quay.io"),
        ] {
            assert_eq!(domain_of_address(address), domain);
        }
    }
}
