//! Where a container's output goes and what is noted with each line.

use serde::{Deserialize, Serialize};

/// Where a container's output goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// Whether it is kept in a file (`json-file`) or nowhere (`none`).
    pub keep: bool,
    /// Bytes of one file before it is rotated.
    pub max_size: u64,
    /// Number of files kept, the current one included.
    pub max_files: u32,
    /// Whether files that were rotated away are compressed.
    #[serde(default)]
    pub compress: bool,
    /// What is noted with each line.
    #[serde(default)]
    pub attributes: LogAttributes,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            keep: true,
            max_size: 16 << 20,
            max_files: 3,
            compress: false,
            attributes: LogAttributes::default(),
        }
    }
}

/// What of a container is noted with each line of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogAttributes {
    /// Labels by name.
    pub labels: Vec<String>,
    /// Labels whose names this regular expression fits.
    pub labels_pattern: Option<String>,
    /// Variables of the environment by name.
    pub env: Vec<String>,
    /// Variables whose names this regular expression fits.
    pub env_pattern: Option<String>,
    /// A text with fields of the container in it: `{{.Name}}`.
    pub tag: Option<String>,
}
