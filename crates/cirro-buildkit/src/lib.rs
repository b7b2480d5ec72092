//! BuildKit's protocol: what `docker buildx`, and `docker build` with BuildKit, speak with a builder.
//!
//! ## Theory of operation
//! ```text
//! POST /session ─▶ session (the client serves: files, secrets, agents, passwords; takes files)
//!                     ▲
//! POST /grpc ─▶ cirro_grpc  ─▶ control, bridge ─▶ solve ─▶ Backend::build
//! POST /build?version=2 ──────────────────────────▶ │          │ events
//!                                     exporters ◀───┘          ▼
//! Control.Status ◀── status (a record of each build) ◀── progress
//! ```
//! The Dockerfile frontend is the builder of [`cirro_build`]; definitions of other frontends are refused.
//!
//! - `messages` BuildKit's protocol buffers
//! - `fetch` files of the client's directories; `kept` contexts that stay; `history` the builds that were
//! - `session` what the client serves; `lender` a session as a build borrows from it
//! - `attributes` what is asked of the frontend; `solve` one build; `exporters` what becomes of its image
//! - `progress` the builder's events as vertexes; `status` the records of builds
//! - `control` and `bridge` the two services; `backend` what all this needs of the engine
//!
//! Everything ends with its connection: calls are tasks of theirs, builds are futures in calls.
#![forbid(unsafe_code)]

use cirro_grpc::Limits;

mod attributes;
pub mod backend;
mod bridge;
mod builds;
mod control;
mod exporters;
mod fetch;
#[doc(hidden)]
pub mod fuzz;
mod history;
mod kept;
mod lender;
#[doc(hidden)]
pub mod messages;
mod progress;
mod session;
mod solve;
mod status;

pub use builds::{BuildKit, Order, Told};
pub use session::{Introduction, Place as SessionPlace, SessionError};

/// Of both directions. Messages have BuildKit's own limit; patterns of `.dockerignore` are among the headers.
#[doc(hidden)]
pub const LIMITS: Limits =
    Limits { message: 16 << 20, stream_window: 1 << 20, connection_window: 8 << 20, headers: 1 << 20 };
