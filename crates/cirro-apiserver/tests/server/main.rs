//! The server as a whole, over a store in memory.

mod admission;
mod apply;
mod certificates;
mod client;
mod custom;
mod custom_kubectl;
mod fixture;
mod http;
mod kinds;
mod kubectl;
mod outside;
mod proxy;
mod rbac;
mod shared_store;
mod streams;
mod tokens;
mod watch;
