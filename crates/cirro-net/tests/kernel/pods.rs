//! Pods and services.
