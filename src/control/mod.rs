//! Status and commands over a socket.
//!
//! The keeper makes the listening socket (it outlives the worker), a thread of the worker serves
//! it, and the command line connects. The address is an abstract one, named by the device number
//! of the mount, so that whoever sees the mount in the mount table finds its daemon.

pub mod address;
pub mod client;
pub mod errno;
pub mod peer;
pub mod protocol;
pub mod server;
