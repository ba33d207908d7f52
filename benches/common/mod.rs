//! What several benchmarks need.

pub mod carriers;
pub mod helper;
pub mod interrupt;
pub mod process;
pub mod statistics;
