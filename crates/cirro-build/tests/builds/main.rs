//! Whole builds over a simulated library and runner.

mod attacks;
mod cache;
mod explain;
mod files;
mod mounts;
mod named;
mod remote;
mod simulated;
mod stages;
mod steps;
