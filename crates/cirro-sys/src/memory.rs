//! What the process occupies: the C library's allocator, which Rust's allocations come from, and the program's own code.

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

/// Lets go of the pages of the program's code and constants, and of what the allocator keeps at hand. Most of what is in memory
/// after the start only the start has needed; what is used again comes back by minor faults, from the page cache.
pub fn let_go() {
    // SAFETY: the callback is called before this returns, with what it is declared to take; it uses no data.
    unsafe { libc::dl_iterate_phdr(Some(let_go_of_object), std::ptr::null_mut()) };
    // SAFETY: takes no pointers.
    unsafe { libc::malloc_trim(0) };
}

/// The program itself comes first, and in a static one there is no other object.
unsafe extern "C" fn let_go_of_object(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the C library passes a valid description, whose headers live as long as the program.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    // SAFETY: takes no pointers.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    for header in headers {
        // What may be written holds relocations, which the file has not.
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        let start = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_memsz) / page * page;
        if start < end {
            // SAFETY: a private mapping of a file that nobody has written to: its pages are read from the file again.
            unsafe { libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED) };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_let_go_comes_back() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/status").expect("status");
            let line = text.lines().find_map(|line| line.strip_prefix("RssFile:")).expect("a count");
            line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
        };
        // Constants are read again from the file too.
        let before = (resident(), format!("{:?}", std::time::Duration::from_millis(1500)));
        super::let_go();
        assert_eq!(format!("{:?}", std::time::Duration::from_millis(1500)), before.1);
        assert!(resident() < before.0, "{} kB of {} kB are left", resident(), before.0);
    }
}
