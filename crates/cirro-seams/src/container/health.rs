//! Health checks: the command that says whether a container does its work, and what it said.

use serde::{Deserialize, Serialize};

/// How a container's health is found out; what is absent comes from the image, then from docker's defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// What is run.
    pub test: HealthTest,
    /// Nanoseconds between two checks.
    pub interval: Option<i64>,
    /// Nanoseconds that a check may take.
    pub timeout: Option<i64>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
    /// Nanoseconds after the start in which failures do not count.
    pub start_period: Option<i64>,
    /// Nanoseconds between two checks in the start period.
    pub start_interval: Option<i64>,
}

/// What a check runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthTest {
    /// The image's.
    #[default]
    Inherit,
    /// Nothing: the image's check is put aside.
    None,
    /// An argument vector.
    Command(Vec<String>),
    /// A line for the image's shell.
    Shell(String),
}

/// What the checks of a container found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What they amount to.
    pub status: HealthStatus,
    /// Failures in a row.
    pub failing_streak: u32,
    /// The last few results, the oldest first.
    pub log: Vec<HealthResult>,
}

/// Whether a container does its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// No check has decided yet.
    Starting,
    /// The last check went well.
    Healthy,
    /// Too many checks in a row failed.
    Unhealthy,
}

impl HealthStatus {
    /// Returns docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// RFC 3339 with nanoseconds.
    pub start: String,
    /// RFC 3339 with nanoseconds.
    pub end: String,
    /// 0 for health; -1 for a check that could not run or took too long.
    pub exit_code: i32,
    /// What it wrote, cut short.
    pub output: String,
}
