//! The same over the engines of `tests/engines`. Where one is FUSE itself, what FUSE cannot do
//! differs no more; most of what differs is what the engine does otherwise than a filesystem of this
//! machine, and the mount as that.

use super::*;

const OVERLAY: &[&str] = &["overlay"];
const GLUSTER: &[&str] = &["gluster"];
const MOOSEFS: &[&str] = &["moosefs"];
const SSHFS: &[&str] = &["sshfs"];
/// Those that are FUSE themselves.
pub const ARE_FUSE: &[&str] = &["gluster", "moosefs", "sshfs"];

/// Cases that an engine cannot do, by kind and name, and why.
pub const LEFT_OUT: &[(&str, &str, &str)] = &[
    (
        "gluster",
        "locks::deadlock",
        "it finds no deadlocks: who waits for each other waits for ever",
    ),
    (
        "moosefs",
        "locks::deadlock",
        "it finds no deadlocks: who waits for each other waits for ever",
    ),
    ("moosefs", "locks::blocking", "who waits for a lock that is given back goes on waiting"),
];

const IGNORES_NOAPPEND: &str = "the engine takes RWF_NOAPPEND and appends all the same";
const APPENDS_ALWAYS: &str =
    "the engine goes on appending at what was opened to append, whatever the flags are now";
const OF_EXT4: &str =
    "ext4 below makes blocks of the extents, or refuses, by what has been allocated";
const OF_OVERLAY: &str = "overlayfs has no block size of its own and hands this to the layer";
const NEW_INODE: &str = "what may have been changed elsewhere in the same step of time gets a new inode, and who watches the old one hears nothing";
const LATE_SIZE: &str = "the engine's client still tells the size from before for a moment";
const LATE_LINKS: &str = "the engine's client still tells the number of links from before";
const OWN_NAMES: &str = "each name of a file has an inode of its own there: one shows what waits for another once that is stored and looked at anew";
const RENUMBERED: &str =
    "a time that the kernel has kept is for an inode that sshfs has numbered anew since";
const NO_MODE_3: &str = "SFTP cannot open neither to read nor to write; the mount needs not";
const NO_LINK_COUNT: &str = "sshfs tells one link, of what is removed, too";
const SKIPS_NAMES: &str = "sshfs leaves names out when a directory is changed while it is listed";
const BOTH_TIMES: &str = "SFTP sets access and modification times together, and has no change time";
const SHORT_TIMES: &str = "the engine keeps times in 32 bits";
const KEPT_CHANGE_TIME: &str = "the kernel keeps the change time of files it caches";
const KEEPS_SET_ID: &str = "the engine keeps set-id bits that others take off";
const REFUSES_SET_ID: &str = "the engine lets nobody else write to a file with set-id bits";
const CHECKS_LIMIT: &str =
    "the kernel looks at the limit first, and asks then whether there is fallocate";
const NOT_OPENED_AGAIN: &str = "GlusterFS does not open again what has no name any more";
const OWN_BITS: &str =
    "set-group-id and sticky together mark files that GlusterFS moves: it hides them for a while";
const TOO_FAR_FOR_GOOD: &str =
    "GlusterFS answers for a file no more once something was written too far";
const SAYS_NONE: &str = "where there are no ACLs the mount says that a file has none";
const GROUP_OF_OWNER: &str =
    "the engine does not give a file to another group of its owner; the kernel allows it";
const NO_LINK_OF_OTHERS: &str = "GlusterFS links no file of others, whatever the kernel allows";
const NO_OFD: &str = "GlusterFS takes locks of descriptors for those of processes";
const NOT_INTERRUPTED: &str = "who waits for a lock there is not interrupted";
const DIRECT_ERRORS: &str = "GlusterFS tells that a direct write was not aligned at the next call";
const NO_SHARED_DIRECT: &str = "MooseFS lets what it writes past the cache be mapped by nobody";
const MODES_ONLY: &str = "over it the kernel looks at modes only, and the mount at ACLs";
const EMPTY_ACL: &str = "MooseFS takes an empty ACL, and changes modes with it";
const KEEPS_CAPABILITIES: &str =
    "MooseFS keeps capabilities when it is asked for fallocate, which it does not have";
const CRASHES: &str = "a mapping that is written without a descriptor gets SIGBUS there";
const SECONDS: &str = "times in whole seconds: whether one has moved depends on the clock";

/// All of them.
pub const KNOWN_DIFFERENCES: &[Known] = &[
    differs("space::fallocate_moving", "fallocate COLLAPSE_RANGE", OVERLAY, NO_MODE),
    differs("space::fallocate_moving", "fallocate INSERT_RANGE", OVERLAY, NO_MODE),
    differs("space::lseek_values", "lseek SET 9223372036854775807", OVERLAY, NO_LIMIT),
    differs("space::too_big", "pwrite at 9223372036854771712", OVERLAY, NO_LIMIT),
    differs("space::too_big", "pread at 9223372036854771712", OVERLAY, NO_LIMIT),
    differs("space::past_sixteen_tebibytes", "pwrite", OVERLAY, NO_LIMIT),
    differs("space::past_sixteen_tebibytes", "fsync", OVERLAY, NO_LIMIT),
    differs("writes::direct_unaligned", "unaligned", OVERLAY, NO_DIRECT_RULES),
    differs(
        "writes::vectors_with_flags",
        "append NOAPPEND *",
        &["overlay", "gluster", "sshfs"],
        IGNORES_NOAPPEND,
    ),
    differs(
        "writes::vectors_with_flags",
        "append bad *: position",
        &["overlay", "gluster", "sshfs"],
        IGNORES_NOAPPEND,
    ),
    differs(
        "writes::vectors_with_flags",
        "append APPEND|NOAPPEND *: position",
        &["overlay", "gluster", "sshfs"],
        IGNORES_NOAPPEND,
    ),
    differs(
        "writes::vectors_with_flags",
        "contents of file",
        &["overlay", "gluster", "sshfs"],
        IGNORES_NOAPPEND,
    ),
    differs(
        "writes::vectors_with_flags",
        "tree: ./file",
        &["overlay", "gluster", "sshfs"],
        IGNORES_NOAPPEND,
    ),
    differs(
        "writes::vectors_with_flags",
        "unmounted tree: ./file",
        &["overlay", "gluster", "sshfs"],
        IGNORES_NOAPPEND,
    ),
    differs("stat::birth_and_direct_io", "DIOALIGN", OVERLAY, NO_STATX),
    differs("stat::set_times", "before 1901: times of file", OVERLAY, OWN_TIMES),
    differs("stat::set_times", "after 2446: times of file", OVERLAY, OWN_TIMES),
    differs("stat::set_times", "far: times of file", OVERLAY, OWN_TIMES),
    differs(
        "stat::what_moves_times",
        "truncate to the same moves of d/file",
        &["overlay", "gluster", "moosefs", "sshfs"],
        NO_NEW_TIME,
    ),
    may_differ("ioctl::file_flags", "file ", OVERLAY, OF_EXT4),
    differs("ioctl::forbidding_flags", "IMMUTABLE: truncate", OVERLAY, REOPENED),
    differs("ioctl::clones", "FIDEDUPERANGE", OVERLAY, NO_CLONES),
    differs("ioctl::extents", "FIEMAP", OVERLAY, NO_EXTENTS),
    differs("ioctl::extents", "FIBMAP", OVERLAY, OF_SUPERBLOCK),
    differs("ioctl::generic", "* FIGETBSZ", OVERLAY, OF_OVERLAY),
    differs("ioctl::generic", "* GETFSUUID", OVERLAY, OF_SUPERBLOCK),
    differs("open::every_flag_on_every_type", "open * 3 ", SSHFS, NO_MODE_3),
    may_differ("open::every_flag_on_every_type", "tree: ", SSHFS, NO_MODE_3),
    may_differ("open::every_flag_on_every_type", "unmounted tree: ", SSHFS, NO_MODE_3),
    differs("open::deleted_files_again", "stat", SSHFS, NO_LINK_COUNT),
    may_differ("large::a_large_directory", "tree: ./d", SSHFS, SKIPS_NAMES),
    may_differ("large::a_large_directory", "unmounted tree: ./d", SSHFS, SKIPS_NAMES),
    may_differ("large::a_large_directory", "while changed", SSHFS, SKIPS_NAMES),
    may_differ("large::a_large_directory", "rmdir", SSHFS, SKIPS_NAMES),
    may_differ("large::a_large_directory", "from the start", SSHFS, SKIPS_NAMES),
    differs("large::many_links", "read by the first", SSHFS, OWN_NAMES),
    may_differ("space::fallocate_allocating", "fallocate * of 0: size", SSHFS, LATE_SIZE),
    may_differ("space::fallocate_zeroing", "fallocate * of 0: size", SSHFS, LATE_SIZE),
    may_differ("space::fallocate_moving", "fallocate * of 0: size", SSHFS, LATE_SIZE),
    may_differ("space::fallocate_odd", "fallocate * of 0: size", SSHFS, LATE_SIZE),
    differs("space::too_big", "pread at 9223372036854771712", SSHFS, NO_LIMIT),
    differs(
        "space::limit_of_the_file_size",
        "allocate past it",
        &["moosefs", "sshfs"],
        CHECKS_LIMIT,
    ),
    differs("writes::append_and_positions", "contents of file", ARE_FUSE, APPENDS_ALWAYS),
    differs("writes::append_and_positions", "tree: ./file", ARE_FUSE, APPENDS_ALWAYS),
    differs("writes::append_and_positions", "unmounted tree: ./file", ARE_FUSE, APPENDS_ALWAYS),
    may_differ("writes::advice_and_sync", "* syncfs", SSHFS, RENUMBERED),
    differs("mapping::without_descriptor_and_name", "contents of second", SSHFS, OWN_NAMES),
    may_differ("pipes::inotify", "events of rename over", SSHFS, NEW_INODE),
    differs("stat::set_times", "* times of file", SSHFS, BOTH_TIMES),
    differs("stat::set_times", "* times of buffered", SSHFS, BOTH_TIMES),
    differs("stat::what_moves_times", "* moves of d/file", SSHFS, BOTH_TIMES),
    differs("rights::set_id_bits_go", "O_TRUNC *: stat file", SSHFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "fallocate *: stat file", SSHFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "* other: stat file", SSHFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "* other, synced: stat file", SSHFS, KEEPS_SET_ID),
    may_differ("large::many_links", "remove", SSHFS, SKIPS_NAMES),
    may_differ("large::many_links", "tree: ./d", SSHFS, SKIPS_NAMES),
    may_differ("large::many_links", "unmounted tree: ./d", SSHFS, SKIPS_NAMES),
    differs("open::deleted_files_again", "open again", GLUSTER, NOT_OPENED_AGAIN),
    may_differ("open::deleted_files_again", "other calls from here", GLUSTER, NOT_OPENED_AGAIN),
    may_differ("open::deleted_files_again", "tree: ./gone", GLUSTER, NOT_OPENED_AGAIN),
    may_differ("open::deleted_files_again", "unmounted tree: ./gone", GLUSTER, NOT_OPENED_AGAIN),
    may_differ("open::modes_and_umask", "stat f-", GLUSTER, OWN_BITS),
    may_differ("open::modes_and_umask", "tree: ./f-", GLUSTER, OWN_BITS),
    may_differ("open::modes_and_umask", "unmounted tree: ./f-", GLUSTER, OWN_BITS),
    differs("space::too_big", "pread at 9223372036854771712", GLUSTER, TOO_FAR_FOR_GOOD),
    differs("space::too_big", "ftruncate back", GLUSTER, TOO_FAR_FOR_GOOD),
    differs("space::too_big", "size", GLUSTER, TOO_FAR_FOR_GOOD),
    differs("space::too_big", "contents of file", GLUSTER, TOO_FAR_FOR_GOOD),
    differs("writes::direct_unaligned", "unaligned", GLUSTER, DIRECT_ERRORS),
    may_differ("writes::direct_unaligned", "remove", GLUSTER, DIRECT_ERRORS),
    may_differ("pipes::inotify", "events of rename over", GLUSTER, NEW_INODE),
    may_differ("pipes::inotify", "tree: ./", GLUSTER, LATE_LINKS),
    may_differ("pipes::inotify", "unmounted tree: ./", GLUSTER, LATE_LINKS),
    differs("stat::what_moves_times", "fallocate*moves of d/file", GLUSTER, KEPT_CHANGE_TIME),
    differs("stat::what_moves_times", "setxattr moves of d/file", GLUSTER, KEPT_CHANGE_TIME),
    differs("xattr::acl_values", "access ACL of", GLUSTER, SAYS_NONE),
    differs("xattr::acl_values", "default ACL of", GLUSTER, SAYS_NONE),
    differs("xattr::acl_inheritance", "access ACL of", GLUSTER, SAYS_NONE),
    differs("xattr::acl_inheritance", "default ACL of", GLUSTER, SAYS_NONE),
    differs("rights::set_id_bits_go", "* other", GLUSTER, REFUSES_SET_ID),
    differs(
        "rights::chmod_and_chown",
        "chown 4294967295:777 of-the-team",
        &["gluster", "moosefs"],
        GROUP_OF_OWNER,
    ),
    differs("rights::sticky_directories", "link his", GLUSTER, NO_LINK_OF_OTHERS),
    differs("rights::sticky_directories", "tree: ./sticky", GLUSTER, NO_LINK_OF_OTHERS),
    differs("rights::sticky_directories", "unmounted tree: ./sticky", GLUSTER, NO_LINK_OF_OTHERS),
    differs("locks::a_wait_is_interrupted", "other calls from here", GLUSTER, NOT_INTERRUPTED),
    differs("locks::fcntl_ranges", "OFD", GLUSTER, NO_OFD),
    differs("space::too_big", "pwrite at 9223372036854771712", MOOSEFS, NO_LIMIT),
    differs("space::too_big", "pread at 9223372036854771712", MOOSEFS, NO_LIMIT),
    differs("writes::vectors_with_flags", "plain NOAPPEND *", MOOSEFS, IGNORES_NOAPPEND),
    differs("writes::vectors_with_flags", "plain bad *: position", MOOSEFS, IGNORES_NOAPPEND),
    differs(
        "writes::vectors_with_flags",
        "plain APPEND|NOAPPEND *: position",
        MOOSEFS,
        IGNORES_NOAPPEND,
    ),
    differs("writes::vectors_with_flags", "contents of file", MOOSEFS, IGNORES_NOAPPEND),
    differs("writes::vectors_with_flags", "tree: ./file", MOOSEFS, IGNORES_NOAPPEND),
    differs("writes::vectors_with_flags", "unmounted tree: ./file", MOOSEFS, IGNORES_NOAPPEND),
    differs("mapping::arguments", "APPEND ", MOOSEFS, NO_SHARED_DIRECT),
    differs("mapping::without_descriptor_and_name", "other calls from here", MOOSEFS, CRASHES),
    differs("mapping::without_descriptor_and_name", "tree: ./", MOOSEFS, CRASHES),
    differs("mapping::without_descriptor_and_name", "unmounted tree: ./", MOOSEFS, CRASHES),
    may_differ("pipes::inotify", "events of rename over", MOOSEFS, NEW_INODE),
    differs("stat::set_times", "after 2446: times of file", MOOSEFS, SHORT_TIMES),
    differs("stat::set_times", "far: times of file", MOOSEFS, SHORT_TIMES),
    differs("stat::what_moves_times", "fallocate*moves of d/file", MOOSEFS, KEPT_CHANGE_TIME),
    may_differ("stat::what_moves_times", "link moves of d", MOOSEFS, SECONDS),
    may_differ("stat::what_moves_times", "unlink moves of d", MOOSEFS, SECONDS),
    may_differ("stat::what_moves_times", "rename away and back moves of d", MOOSEFS, SECONDS),
    may_differ("stat::what_moves_times", "create moves of d", MOOSEFS, SECONDS),
    may_differ("stat::what_moves_times", "mkdir moves of d", MOOSEFS, SECONDS),
    may_differ("stat::what_moves_times", "rmdir moves of d", MOOSEFS, SECONDS),
    may_differ("stat::what_moves_times", "symlink moves of d", MOOSEFS, SECONDS),
    differs("xattr::capabilities", "get after allocate", MOOSEFS, KEEPS_CAPABILITIES),
    differs("xattr::capabilities", "tree: ./file", MOOSEFS, KEEPS_CAPABILITIES),
    differs("xattr::capabilities", "unmounted tree: ./file", MOOSEFS, KEEPS_CAPABILITIES),
    differs("xattr::acl_values", "set empty system.posix_acl_access", MOOSEFS, EMPTY_ACL),
    may_differ("xattr::acl_values", "ACL: stat ", MOOSEFS, EMPTY_ACL),
    differs("xattr::acl_permissions", "mask ", MOOSEFS, MODES_ONLY),
    differs("rights::set_id_bits_go", "append *: stat file", MOOSEFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "O_TRUNC *: stat file", MOOSEFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "fallocate *: stat file", MOOSEFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "* other", MOOSEFS, KEEPS_SET_ID),
    differs("rights::set_id_bits_go", "* own, synced: stat file", MOOSEFS, KEEPS_SET_ID),
    differs("rights::denials", "run file-1 as ", MOOSEFS, MODES_ONLY),
];
