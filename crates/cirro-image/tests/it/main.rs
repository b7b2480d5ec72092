//! The library from outside: archives in, trees and archives out.

mod archive;
mod build;
mod hostile;
mod images;
mod load;
mod overlay;
mod recovery;
mod save;
