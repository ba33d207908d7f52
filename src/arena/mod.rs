//! The shared memory that outlives the worker.
//!
//! A memfd made by the keeper and mapped before the worker is forked: a control page, then the
//! tables and the data from which a new worker rebuilds what the old one had acknowledged.

mod control_page;

pub use control_page::{ControlPage, Phase, UnmountMode};
