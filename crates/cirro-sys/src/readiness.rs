//! Descriptors in tokio's event loop.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::unix::AsyncFd;

/// Watches a non-blocking descriptor. Must be called within a tokio runtime.
///
/// # Errors
/// That of registering it; descriptors that cannot be polled (plain files) are refused.
pub fn watch(descriptor: impl Into<OwnedFd>) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open and names the same file for as long as it lives, and the `AsyncFd` owns it from here on.
    Ok(unsafe { AsyncFd::register(descriptor.into())? })
}
