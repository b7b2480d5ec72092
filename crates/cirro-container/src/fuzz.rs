//! Entries for fuzzing (`crates/cirro-fuzz`): whatever the bytes are, nothing panics.

use std::path::Path;

use crate::log::{LogQuery, read_log};
use crate::protocol::{Envelope, Message, chunk};
use crate::wire::Inbox;

/// Takes frames, and the chunks of an attached stream, off the bytes.
pub fn wire(bytes: &[u8]) {
    let mut inbox = Inbox::of(bytes.to_vec());
    while let Ok(Some(_)) = inbox.next::<Envelope>() {}
    let mut inbox = Inbox::of(bytes.to_vec());
    while let Ok(Some(_)) = inbox.next::<Message>() {}
    let mut rest = bytes;
    while let Some(Ok((_, length))) = chunk::parse(rest) {
        rest = &rest[chunk::HEADER + length..];
    }
}

/// Reads a log file with these bytes, which is made in `directory`.
pub fn log(bytes: &[u8], directory: &Path) {
    let path = directory.join("log");
    if std::fs::write(&path, bytes).is_err() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for tail in [None, Some(3)] {
            let (_sender, ended) = tokio::sync::watch::channel(true);
            let mut entries = read_log(&path, LogQuery { tail, ..LogQuery::default() }, ended);
            while entries.recv().await.is_some() {}
        }
    });
    let _ = std::fs::remove_file(&path);
}

/// Reads a bundle with these bytes as its `config.json`, which is made in `directory`.
pub fn bundle(bytes: &[u8], directory: &Path) {
    let _ = std::fs::create_dir(directory.join("rootfs"));
    if std::fs::write(directory.join("config.json"), bytes).is_ok() {
        crate::cli::read_bundle(directory);
    }
}
