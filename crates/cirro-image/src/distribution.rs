//! What a registry keeps and shows: repositories with blobs, manifests, tags and referrers, beside the library's images.
//!
//! Blocking, as the library is.
//!
//! | file | what |
//! | --- | --- |
//! | `name`, `digest`, `manifest` | the nouns, and how they are read from a client's words |
//! | `store`, `uploads` | blobs as files, and how they come |
//! | `manifests` | manifests, tags, referrers |
//! | `view` | the library's images as repositories |
//! | `adopt` | a pushed image becomes one of the library |
//! | `records` | the tables |
//! | `rules`, `collection` | quotas, immutable tags, retention; what is not needed goes |

mod adopt;
mod collection;
mod digest;
mod error;
mod manifest;
mod manifests;
mod name;
mod records;
mod rules;
mod store;
mod uploads;
mod view;

pub use collection::Collected;
pub use digest::{Algorithm, BlobDigest, InvalidBlobDigest};
pub use error::DistributionError;
pub use manifest::{DOCKER_LIST, DOCKER_MANIFEST, Manifest, Named, OCI_INDEX, OCI_MANIFEST};
pub use manifests::{MAX_MANIFEST, Pushed, Reference, Referrer};
pub use name::{InvalidName, RepositoryName, TagName};
pub use rules::{ImmutableTags, InvalidPattern, Pattern, Quota, Retention, Rules};
pub use store::{BlobSource, Distribution, GRACE};
pub use uploads::Upload;
pub use view::{Dialect, LayerSource, StoredManifest};

pub(crate) use view::manifest_of;
