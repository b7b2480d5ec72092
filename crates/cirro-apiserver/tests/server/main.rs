//! The server as a whole, over a store in memory.

mod admission;
mod apply;
mod audit;
mod certificates;
mod client;
mod conformance;
mod conversion;
mod custom;
mod custom_kubectl;
mod encode;
mod evict;
mod fairness;
mod fixture;
mod http;
mod kinds;
mod kubectl;
mod lifecycle;
mod nodes;
mod outside;
mod proxy;
mod rbac;
mod shared_store;
mod streams;
mod tokens;
mod watch;
