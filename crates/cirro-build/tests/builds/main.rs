//! Whole builds over a simulated library and runner.

mod cache;
mod files;
mod simulated;
mod stages;
mod steps;
