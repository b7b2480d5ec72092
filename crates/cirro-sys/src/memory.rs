//! The C library's allocator, which Rust's allocations come from.

/// As many arenas as keep threads from waiting on one another, on machines of any size.
const ARENAS: i32 = 2;

/// Keeps what a burst of work has freed from staying in an arena for each thread that took part in it. glibc makes up to
/// eight arenas a core, and gives memory back only from the end of each. To be called before any thread starts.
pub fn few_arenas() {
    // SAFETY: mallopt takes no pointers, and no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}
