//! The library from outside: archives in, trees and archives out.

mod archive;
mod build;
mod elsewhere;
mod faults;
mod hostile;
mod images;
mod load;
mod overlay;
mod pull;
mod push;
mod recovery;
mod save;
mod server;
