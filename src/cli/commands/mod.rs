//! One file a command; each checks everything before it changes anything.

pub mod bench;
pub mod demo;
pub mod discard;
pub mod doctor;
pub mod drain;
pub mod help;
pub mod mount;
pub mod run;
pub mod status;
pub mod top;
pub mod umount;
pub mod upgrade;
