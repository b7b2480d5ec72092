//! The real API server, controllers, scheduler and kubelet over a simulated engine, in simulated time.

mod deletion;
mod deployments;
mod instances;
mod kubelet;
mod leader;
mod pods;
mod random;
mod services;
mod storage;
mod world;
