//! The Kubernetes API machinery: kinds are data, one path for every object.
//!
//! ```text
//! HTTP, TLS ─▶ decode ─▶ kind ─▶ defaults ─▶ validation ─▶ compare-and-put ─▶ event ─▶ watchers
//!              in-process client ─▶ (the same)
//! ```
//! `registry` says what a kind is, `kinds` lists them, `storage` is the path. docs/adding-a-kind.md
//! and docs/compatibility-kubernetes.md say more.

mod admission;
mod allocate;
mod asker;
mod audit;
mod auth;
mod authenticate;
mod authorize;
mod binding;
mod cel;
mod certificates;
mod client;
mod custom;
mod decode;
mod error;
mod fairness;
mod http;
mod identity;
mod json;
mod jsonpath;
mod kinds;
mod managed;
mod nodes;
mod patch;
pub mod pki;
mod protobuf;
mod rbac;
mod record;
mod registry;
mod schema;
mod sealed;
mod selector;
mod server;
mod storage;
mod structural;
mod table;
mod tokens;
mod validate;

/// Version of Kubernetes that the API speaks, as `/version` and nodes report it.
pub const VERSION: &str = "v1.33.0+cirro";

pub use audit::AuditOptions;
pub use auth::User;
pub use server::{ApiServer, Options, Plugin};
