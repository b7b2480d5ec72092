//! Whole builds over a simulated library and runner.

mod cache;
mod files;
mod mounts;
mod simulated;
mod stages;
mod steps;
