//! Memory of the buffers into which requests are read.
//!
//! When a process is killed while the kernel copies a request to it, and the buffer takes a page
//! fault there, the kernel answers that request EIO (`fuse_dev_do_read`: the fault is refused to a
//! process with a fatal signal) instead of keeping it for the next worker. So no page of a buffer
//! may be missing when the first request comes. The buffers are the FUSE library's, allocated
//! zeroed, that is untouched, by each thread before it reads.

use std::alloc::{GlobalAlloc, Layout, System};

use crate::fs::WRITE_BYTES_MAX;

/// What only the library's buffers have: its longest WRITE.
const LIBRARY_BYTES: usize = 16 << 20;
/// What of it requests use: our longest WRITE, and its header.
const USED_BYTES: usize = WRITE_BYTES_MAX as usize + (64 << 10);

/// The system's allocator; the part of read buffers that is used has its pages from the start.
#[derive(Clone, Copy, Debug)]
pub struct PresentReadBuffers;

// SAFETY: all is left to `System`; advice on pages changes no byte.
unsafe impl GlobalAlloc for PresentReadBuffers {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the contract of this function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: by the contract of this function.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the contract of this function.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: by the contract of this function.
        let memory = unsafe { System.alloc_zeroed(layout) };
        if layout.size() > LIBRARY_BYTES && !memory.is_null() {
            // Linux before 5.14 does not know it: the risk stays there.
            // SAFETY: within the allocation, which is larger than two pages more than this;
            // changes no byte.
            unsafe {
                let page = memory.map_addr(|at| at & !4095);
                libc::madvise(page.cast(), USED_BYTES, libc::MADV_POPULATE_WRITE);
            }
        }
        memory
    }
}
