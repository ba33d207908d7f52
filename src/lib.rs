//! coalescefs: a FUSE filesystem that turns many trickles of tiny writes into one large
//! sequential write after another.
//!
//! # Modules, in the direction of the data
//!
//! ```text
//! fuse -> fs -> buffer, schedule -> drain -> backing
//! ```
//!
//! | module | responsibility |
//! |---|---|
//! | [`fuse`] | adapter: unpack a request, call `fs`, reply; attaching to a live `/dev/fuse` |
//! | [`fs`] | what each operation means: nodes, names, handles, data, attributes |
//! | [`buffer`] | pure: the dirty data of one file, as ranges of arena segments |
//! | [`schedule`] | pure: whose turn it is on the disk, and who may fill memory |
//! | [`drain`] | lanes: a turn becomes large writes to the backing directory |
//! | [`backing`] | the backing directory: system calls, descriptors, what it can do |
//! | [`arena`] | the shared memory that outlives the worker |
//! | [`worker`] | the process that serves the mount: puts the above together |
//! | [`keeper`] | the process that outlives the worker: mounts, supervises, unmounts |
//! | [`mount`] | mount(2), fusermount3, private namespaces, bdi tuning |
//! | [`control`] | status and commands over a socket |
//! | [`stats`] | what is measured, as metrics and in words |
//! | [`isolation`] | keeps what workers died of apart from everything else |
//! | [`clock`] | what time it is |
//! | [`priority`] | how soon a thread gets a processor |
//! | [`killpoint`] | for tests: where a worker dies |
//! | [`cli`] | arguments, commands, exit codes |
//!
//! `buffer` and `schedule` import only `std` and each other; time is an argument there.

pub mod arena;
pub mod backing;
pub mod buffer;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod drain;
pub mod fs;
pub mod fuse;
pub mod isolation;
pub mod keeper;
pub mod killpoint;
pub mod mount;
pub mod priority;
pub mod schedule;
pub mod stats;
pub mod worker;
