//! The library from outside: archives in, trees and archives out.

mod archive;
mod load;
mod save;
