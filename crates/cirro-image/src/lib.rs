//! The image library of one host: layers, images, their names, and the writable roots over them.
//!
//! Blocking; callers use `spawn_blocking`. The registry client alone is asynchronous.
//!
//! ## Theory of operation
//! ```text
//! load, import ─▶ unpack ─▶ layers/<diff id>/{diff,recipe} ─▶ lower directories of containers
//! open_layer ─▶ (someone fills it) ─▶ commit_layer ─┘   └─▶ save: tree + recipe = the same tar again
//! ```
//! A layer is unpacked once and shared by every image that has it; what is built becomes a layer by a
//! rename. The tar that a digest speaks of is not kept but made again from the tree and its recipe. An image
//! is its configuration document, byte for byte, and the names that point to it.
//!
//! | file | what |
//! | --- | --- |
//! | `library`, `records`, `trash` | state, crash recovery, what is noted where, deletion |
//! | `layers`, `blobs`, `images`, `removal`, `roots` | the nouns and what is done with them |
//! | `quota` | bounds on what a container's root takes |
//! | `document`, `media` | manifests and indexes |
//! | `load`, `save`, `tarball` | archives in and out |
//! | `unpack`, `confine`, `xattr` | from hostile tar to tree |
//! | `canonical`, `recipe`, `compress` | from tree to tar, to blob |
//! | `registry` | pull and push |
//! | `files` | a container's files: copied in and out, whatever is mounted in its root |
//! | `distribution` | what a registry keeps and shows beside all that |

mod blobs;
mod canonical;
mod compress;
mod confine;
pub mod distribution;
mod document;
mod error;
pub mod files;
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod images;
mod layers;
mod library;
mod limits;
mod load;
pub mod media;
mod quota;
mod ratio;
mod recipe;
mod records;
mod registry;
mod removal;
mod roots;
mod save;
mod tables;
mod tarball;
mod trash;
mod unpack;
mod xattr;

pub use blobs::Blob;
pub use document::{ARCHITECTURE, Descriptor, Document, Manifest, Platform};
pub use error::ImageError;
pub use images::Image;
pub use library::Library;
pub use limits::Limits;
pub use load::Loaded;
pub use registry::{
    Challenge, Credentials, Distribution, HttpFile, Origin, PROGRESS_LINES, Progress, ProgressSink,
    PullRequest, Pulled, Registry, RegistryError, RegistryOptions, Resolve, parse_challenges,
};
pub use removal::Removed;
pub use roots::{CachedLayer, ContainerRoot};
