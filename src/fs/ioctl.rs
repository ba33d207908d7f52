//! IOCTL: the commands that ask for or change attributes of one file are the backing filesystem's;
//! all others are refused. What reaches devices, other files or the whole filesystem (FITRIM,
//! FS_IOC_RESIZE_FS and their like) is not for whoever can open a file here.
//!
//! The kernel answers FIONREAD, FICLONE, FIDEDUPERANGE and FIEMAP without asking us.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::caller::Caller;
use super::nodes::Node;
use super::quiet::Until;
use super::stable::Unsynced;
use super::{Filesystem, Reply, errno};
use crate::backing;

/// What a command does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effect {
    Ask,
    /// Changes attributes that forbid writing: what is buffered must be stored first.
    Change,
}

/// A command that is handed on.
struct Command {
    number: u32,
    effect: Effect,
    /// Bytes it really writes: some are declared with a `long` and write an `int`.
    output_bytes: usize,
}

const fn command(number: u32, effect: Effect, output_bytes: usize) -> Command {
    Command { number, effect, output_bytes }
}

/// `<linux/fs.h>`: FS_IOC_GETFLAGS, SETFLAGS, GETVERSION, FSGETXATTR, FSSETXATTR, GETFSLABEL.
const COMMANDS: [Command; 6] = [
    command(0x8008_6601, Effect::Ask, 4),
    command(0x4008_6602, Effect::Change, 0),
    command(0x8008_7601, Effect::Ask, 4),
    command(0x801c_581f, Effect::Ask, 28),
    command(0x401c_5820, Effect::Change, 0),
    command(0x8100_9431, Effect::Ask, 256),
];

impl Filesystem {
    /// IOCTL on a regular file or directory: value and what the command wrote. A change waits until
    /// the file is clean. Errors: `ENOTTY` for commands not known here, else the command's own.
    pub fn ioctl(
        &self,
        caller: Caller,
        id: u64,
        command: u32,
        input: &[u8],
        output_bytes: u32,
        reply: Reply<(i32, Vec<u8>)>,
    ) {
        let Some(command) = COMMANDS.iter().find(|known| known.number == command) else {
            return reply(Err(errno(libc::ENOTTY)));
        };
        let input = input.to_vec();
        let output_bytes = command.output_bytes.min(output_bytes as usize);
        let act = move |me: &Filesystem, node: &Arc<Node>| {
            let mut argument = input;
            argument.resize(argument.len().max(output_bytes), 0);
            let fd = me.plain_fd(node)?;
            let value = backing::as_caller(&caller.credentials(0), || {
                backing::ioctl(fd.as_fd(), command.number, &mut argument)
            })?;
            argument.truncate(output_bytes);
            Ok((value, argument))
        };
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        let me = self.arc();
        let on_pool = move |node: Arc<Node>| {
            me.clone().pool.run(move || {
                let result = act(&me, &node);
                if command.effect == Effect::Change {
                    // Whether the file may be written is asked again at the next open.
                    me.files.remove(node.id());
                    me.note_changed(&node, Unsynced::Attributes);
                }
                reply(result);
            });
        };
        if command.effect == Effect::Change && !self.is_failing(&node) {
            let changed = node.clone();
            // Also when writing failed: the change may be what makes it possible again.
            self.when_quiet(&node, Until::Clean, move |_| on_pool(changed));
        } else {
            on_pool(node);
        }
    }

    fn is_failing(&self, node: &Node) -> bool {
        node.data_if_any().is_some_and(|data| data.lock().failure.is_some())
    }

    /// A descriptor that is not O_PATH, of a regular file or directory: opening a device has effects.
    fn plain_fd(&self, node: &Arc<Node>) -> io::Result<OwnedFd> {
        match node.identity.kind {
            libc::S_IFREG => (*self.data_file(node)?).as_fd().try_clone_to_owned(),
            libc::S_IFDIR => {
                backing::reopen(self.path_fd(node)?.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)
            }
            _ => Err(errno(libc::ENOTTY)),
        }
    }
}
