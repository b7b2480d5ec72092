//! Fuzz targets for everything of the engine that parses bytes from outside.
//!
//! A target is a function of bytes and of an empty directory that must not panic, whatever the bytes are, and leaves the directory empty. Each
//! has seeds in `corpus/<name>`, which are good inputs and those that once were trouble.
//!
//! - `cargo test -p cirro-fuzz`: all seeds and some hundreds of their mutations, always the same ones.
//! - `cargo run --release -p cirro-fuzz -- NAME SECONDS`: mutations at random; an input that makes a target
//!   panic is left in the present directory.
//! - `cargo +nightly fuzz run NAME` in `fuzz/`: the same targets under libFuzzer, which follows coverage.

mod mutate;
mod targets;

use std::path::{Path, PathBuf};

pub use mutate::Mutator;
pub use targets::{TARGETS, Target};

impl Target {
    /// Finds a target by its name.
    pub fn find(name: &str) -> Option<&'static Self> {
        TARGETS.iter().find(|target| target.name == name)
    }

    /// Returns the directory of the target's seeds.
    pub fn corpus(&self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(self.name)
    }

    /// Reads the target's seeds, in the order of their names.
    ///
    /// # Errors
    /// When the corpus cannot be read.
    pub fn seeds(&self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(self.corpus())?
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<_>>()?;
        paths.sort();
        paths.iter().map(std::fs::read).collect()
    }
}
