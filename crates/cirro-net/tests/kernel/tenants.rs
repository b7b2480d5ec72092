//! Tenants' networks.
