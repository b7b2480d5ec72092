//! The network in a real kernel (root), inside a fresh network namespace that plays the host: the machine's
//! own is never touched.

mod kernel {
    pub(crate) mod docker;
    pub(crate) mod firewall;
    pub(crate) mod flows;
    pub(crate) mod lab;
    pub(crate) mod pods;
    pub(crate) mod relay;
    pub(crate) mod restore;
    pub(crate) mod several;
    pub(crate) mod tenants;
}
