//! Status and commands over a socket.

pub mod protocol;
pub mod server;
