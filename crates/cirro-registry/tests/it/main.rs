//! The distribution API from outside, one module per workflow of the specification's conformance suite, then what the
//! specification does not speak of.

mod access;
mod collection;
mod discovery;
mod fixture;
mod library;
mod management;
mod mirror;
mod pull;
mod push;
mod requirements;
mod skopeo;
