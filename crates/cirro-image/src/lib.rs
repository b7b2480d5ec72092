//! The image library: blobs, layers, images and their names. Blocking; callers use `spawn_blocking`.

mod canonical;
mod compression;
mod confine;
mod error;
mod hash;
mod images;
mod layers;
mod library;
mod limits;
mod load;
mod recipe;
mod records;
mod removal;
mod roots;
mod save;
mod tarball;
mod unpack;
mod xattr;

pub use error::ImageError;
pub use images::Image;
pub use library::Library;
pub use limits::Limits;
pub use load::Loaded;
pub use removal::Removed;
pub use roots::ContainerRoot;
