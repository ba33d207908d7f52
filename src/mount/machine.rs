//! How much memory the machine has.

/// Bytes of RAM the kernel manages. Never 0.
pub fn ram_bytes() -> u64 {
    // SAFETY: two system parameters, no pointers.
    let (pages, page_bytes) =
        unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    // -1 would mean that the C library does not know the name: a machine this does not run on.
    (pages.max(1) as u64).saturating_mul(page_bytes.max(4096) as u64)
}
