//! The server as a whole, over a store in memory.

mod client;
mod fixture;
mod http;
mod kubectl;
mod rbac;
mod tokens;
mod watch;
