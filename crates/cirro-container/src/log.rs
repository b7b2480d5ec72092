//! Logs in docker's json-file format: one JSON object a line, pieces of at most 16 KiB, rotation by size.

pub(crate) mod clock;
mod entry;
pub(crate) mod packed;
mod reader;
mod splitter;
mod writer;

pub use entry::LogEntry;
pub use reader::{LogQuery, read_log};

pub(crate) use clock::now;
pub(crate) use splitter::Splitter;
pub(crate) use writer::LogWriter;
