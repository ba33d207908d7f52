//! What `coalescefs help TOPIC` and the manual say beside the options. A page fits a screen.

/// Something that concerns several commands.
#[derive(Debug)]
pub struct Topic {
    /// As it is asked for.
    pub name: &'static str,
    /// Lines of 80 characters at most.
    pub text: &'static str,
}

/// Looks one up by its name.
pub fn find(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

/// In the order of the manual.
pub const TOPICS: [Topic; 7] = [
    Topic { name: "sizes", text: SIZES },
    Topic { name: "exit-codes", text: EXIT_CODES },
    Topic { name: "signals", text: SIGNALS },
    Topic { name: "files", text: FILES },
    Topic { name: "rules", text: RULES },
    Topic { name: "conduct", text: CONDUCT },
    Topic { name: "fstab", text: FSTAB },
];

const SIZES: &str = "\
A SIZE is a number with a unit: K, M, G and T are powers of 1024, with or
without B or iB behind: 20M, 20MB, 20MiB and 20971520 are the same. A rate is a
SIZE for each second.

A DURATION is a number with a unit, or several: 500ms, 30s, 2min, 1h 30min.

--memory  at least 4M, at most the machine's memory; a hard limit of the bytes
          held. The daemon needs some tens of MiB beside it.
--chunk   a multiple of 4K, rounded up to whole segments (4K to 64K, by
          --memory); four chunks must fit into --memory. A power of two leaves
          no gaps on ext4.";

const EXIT_CODES: &str = "\
0      done
1      failed; nothing was changed unless the message says so.
       doctor: there is a problem
2      the command line makes no sense
75     acknowledged data is not in the backing files: it is still in memory, or
       the message says that it is lost
other  run: the command's own; 128+n when signal n killed it, 126 or 127 when
       it could not be started

The helpers of mount(8) and umount(8) end with 0, 1 (wrong usage), 32 (failed)
and 75.";

const SIGNALS: &str = "\
SIGTERM, SIGINT  to 'mount --foreground' or to the keeper: everything is
                 written while the mount goes on, then it is unmounted; open
                 files go on until they are closed. What cannot be stored is
                 tried again for as long as it takes.
SIGHUP           to 'mount --foreground': the same. Others pass over it.
SIGKILL          to the worker or to the keeper: nothing is lost, the other one
                 replaces it. To both at once: what was in memory is lost, but
                 for a service with a descriptor store (coalescefs@.service).
SIGSTOP          programs wait until SIGCONT. With WatchdogSec= a worker that is
                 stopped for longer is replaced.

'run' passes SIGINT, SIGTERM and SIGHUP on to its command.";

const FILES: &str = "\
/dev/fuse                          must be there, and may be opened by the user
/etc/fuse.conf                     user_allow_other lets ordinary users give
                                   --allow-other
/sbin/mount.coalescefs             mount -t coalescefs, fstab
/sbin/umount.coalescefs            umount waits until everything is on disk;
                                   /sbin/umount.fuse.coalescefs is a link to it
coalescefs@.service                a mount as a service of systemd
/etc/default/coalescefs            COALESCEFS_OPTIONS of all such services
/etc/coalescefs/NAME.conf          COALESCEFS_OPTIONS of coalescefs@NAME
/sys/class/bdi/0:N/                the kernel's limits of the mount's dirty
                                   pages, which root's mounts set

The daemon listens on abstract unix sockets and leaves no files. It may hold
room on the disk with a file that has no name.

Environment: RUST_LOG and COALESCEFS_LOG_FILE are the defaults of --log-level
and --log-file.";

const RULES: &str = "\
What holds for some files only, by their path:

  coalescefs mount --rule '*.log:coalesce=off' \\
                   --rule 'OUTPUT*:chunk=64M,max-age=5s,priority=high' out

The first rule whose GLOB matches decides; what it leaves open is as the other
options have it.

GLOB            without / it is compared with the file's name, in whatever
                directory; with / with the path below the mountpoint.
                * ? [a-z] do not match /, ** does; {a,b} is one or the other.
chunk=SIZE      instead of --chunk
max-age=TIME    instead of --max-age
priority=high   its whole chunks go before those of others
coalesce=off    writes go to the disk at once, as without a mount

The same in a file for --config, with all options by their names:

  memory = \"4G\"
  max-age = \"10s\"
  rule = [\"*.log:coalesce=off\", \"OUTPUT*:chunk=64M,priority=high\"]

'run --redirect GLOB' mounts over the directories of what GLOB names, and has
coalesce=off for everything else there. Put globs in quotes, or the shell
expands them.";

const CONDUCT: &str = "\
1. The backing directory belongs to the mount while it is mounted: change
   nothing below it, past the mount.
2. End a mount with 'coalescefs umount', SIGTERM, or umount(8) with its helper,
   and look at the exit code: 75 says that data is not on disk.
3. What must survive a power loss needs fsync(2), as anywhere. sync(1) does not
   reach a FUSE filesystem.
4. A full disk or a quota is told by fsync and close: programs must look at
   their results, as they should anywhere.
5. Give --memory no more than the machine has to spare: it is locked.
6. One mount for a disk: two would make its heads jump between them.";

const FSTAB: &str = "\
With /sbin/mount.coalescefs, a line of /etc/fstab is

  /data/out /data/out coalescefs memory=4G,max_age=10s,nosuid,nodev 0 0

The backing directory and the mountpoint may be the same. Options of
'coalescefs mount' lose their dashes: memory=, chunk=, layout=, max_age=,
lanes=, drain_rate=, min_free=, patience=, fsync=, consistency=, rule=,
config=, log_level=, log_file=, no_writeback_cache, allow_other,
no_allow_other.
A rule's commas are semicolons here: rule=*.dat:chunk=64M;priority=high.

ro, nosuid, nodev, noexec, noatime, nodiratime, relatime, strictatime,
lazytime, sync, dirsync and their opposites hold for the mount, beside those of
the backing filesystem. _netdev, nofail, noauto, user and x-... are for
mount(8), fstab and systemd. Useful with systemd:

  x-systemd.mount-timeout=30min        also the time to write all at the end
  x-systemd.requires-mounts-for=/disk  when the backing directory is elsewhere

coalescefs@.service does more: it survives the death of all its processes.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_fits_a_screen() {
        for topic in &TOPICS {
            assert!(topic.text.lines().count() <= 40, "{}", topic.name);
            assert!(topic.text.lines().all(|line| line.len() <= 80), "{}", topic.name);
        }
    }
}
