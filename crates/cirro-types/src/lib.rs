//! Nouns of the cloud that every crate shares: digests, image names and configurations, our own kinds.
//!
//! No I/O and no state; what is here parses, prints and compares.

mod byte_size;
pub mod digest;
pub mod image;
pub mod kinds;
pub mod mac;
pub mod quantity;
pub mod reference;
pub mod signal;

pub use byte_size::parse_byte_size;
pub use digest::Digest;
pub use image::{ContainerConfig, HistoryEntry, ImageConfig, RootFs};
pub use mac::MacAddress;
pub use quantity::Quantity;
pub use reference::ImageReference;
