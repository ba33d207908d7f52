//! The kernel's side: attaching to a live `/dev/fuse`, and the adapter from requests to [`fs`].
//!
//! The adapter unpacks, calls, replies; it decides nothing. Errors of `fs` carry the errno that
//! the program is to see. Before it stands a guard against requests that kill.
//!
//! [`fs`]: crate::fs

mod adapter;
mod answering;
mod attach;
mod convert;
mod guard;
mod kernel_pages;
mod linger;
mod read_buffer;

pub use attach::serve;
pub use read_buffer::PresentReadBuffers;
