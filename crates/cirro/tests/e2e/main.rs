//! End-to-end tests: the built binary as its users meet it, through the real `docker` and `kubectl`.
//!
//! Each test starts a cloud of its own (name, directories, ports, ranges) and ends it with
//! `cirro down --workloads`; what is left on the host after that fails the test. They need root.

mod build;
mod buildkit;
mod buildx;
mod clients;
mod cloud;
mod commands;
mod etcd;
mod extension;
mod faults;
mod files;
mod full_disk;
mod guest_cgroup2;
mod identity;
mod kubectl;
mod large_definitions;
mod lifecycle;
mod options;
mod parts;
mod registry_clients;
mod robust;
mod run_options;
mod survival;
mod walk_container;
mod walk_kubernetes;
mod walk_machine;
mod walk_registry;
