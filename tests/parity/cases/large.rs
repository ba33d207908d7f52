//! Many entries, many links.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::*;

use crate::log::Log;
use crate::sys::{self, c, open, openat, sys};

/// Fewer where a directory has fewer entries, too.
const LINKS_MAX: usize = 10_000;

fn entries_wanted() -> usize {
    std::env::var(crate::compare::ENTRIES_VARIABLE).unwrap().parse().unwrap()
}

/// The rest of a directory's entries: position after it, name.
fn entries(dir: &OwnedFd, most: usize) -> Vec<(i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut bytes = vec![0u8; 32 << 10];
    while all.len() < most {
        let call = sys!(syscall(SYS_getdents64, dir.as_raw_fd(), bytes.as_mut_ptr(), bytes.len()));
        let len = call.unwrap() as usize;
        if len == 0 {
            break;
        }
        let mut at = 0;
        while at < len {
            let position = i64::from_ne_bytes(bytes[at + 8..at + 16].try_into().unwrap());
            let record = u16::from_ne_bytes(bytes[at + 16..at + 18].try_into().unwrap());
            let name = bytes[at + 19..at + record as usize].split(|byte| *byte == 0).next();
            all.push((position, name.unwrap().to_vec()));
            at += record as usize;
        }
    }
    all
}

fn seek(dir: &OwnedFd, position: i64) {
    sys!(lseek(dir.as_raw_fd(), position, SEEK_SET)).unwrap();
}

fn make(dir: &OwnedFd, name: &str) {
    sys!(mknodat(dir.as_raw_fd(), c(name).as_ptr(), S_IFREG | 0o600, 0)).unwrap();
}

/// How often the names that were there all the time were listed.
fn count(
    log: &Log,
    what: &str,
    listed: &[(i64, Vec<u8>)],
    stayed: &mut dyn Iterator<Item = usize>,
) {
    let mut seen: BTreeMap<&[u8], usize> = BTreeMap::new();
    listed.iter().for_each(|(_, name)| *seen.entry(name).or_default() += 1);
    let times = |at: &usize| seen.get(format!("entry {at}").as_bytes()).copied().unwrap_or(0);
    let stayed: Vec<usize> = stayed.collect();
    let missed = stayed.iter().filter(|at| times(at) == 0).count();
    let doubled = stayed.iter().filter(|at| times(at) > 1).count();
    log.line(what, format_args!("{} stayed, {missed} missed, {doubled} doubled", stayed.len()));
}

pub fn a_large_directory(log: &Log) {
    let size = entries_wanted();
    fs::create_dir("d").unwrap();
    let dir = open("d", O_RDONLY, 0).unwrap();
    (0..size).for_each(|at| make(&dir, &format!("entry {at}")));
    let listed = entries(&dir, usize::MAX);
    log.line("listed", listed.len());
    count(log, "listed", &listed, &mut (0..size));
    // Every position leads on to what followed it, in any order.
    let mut wrong = 0;
    for at in (0..listed.len() - 1).step_by(size / 50 + 1).rev() {
        seek(&dir, listed[at].0);
        wrong += usize::from(entries(&dir, 1)[0].1 != listed[at + 1].1);
    }
    log.line("wrong after seeking", wrong);
    log.line("links", sys::fstat(&dir).unwrap().st_nlink);
    // Removed and created while listed: what stays is seen once.
    seek(&dir, 0);
    let mut listed = entries(&dir, size / 5);
    let position = listed.last().unwrap().0;
    let writer = open("d", O_RDONLY, 0).unwrap();
    for at in (0..size).step_by(5) {
        let name = c(format!("entry {at}"));
        sys!(unlinkat(writer.as_raw_fd(), name.as_ptr(), 0)).unwrap();
    }
    (0..size / 20).for_each(|at| make(&writer, &format!("new {at}")));
    listed.extend(entries(&dir, usize::MAX));
    count(log, "while changed", &listed, &mut (0..size).filter(|at| at % 5 != 0));
    seek(&dir, position);
    log.line("goes on", !entries(&dir, 1).is_empty());
    seek(&dir, 0);
    log.line("from the start", entries(&dir, usize::MAX).len());
    // Removed by the list, as rm -r does.
    seek(&dir, 0);
    loop {
        let listed = entries(&dir, 1);
        if listed.is_empty() {
            break;
        }
        for (_, name) in listed.iter().filter(|(_, name)| name != b"." && name != b"..") {
            sys!(unlinkat(dir.as_raw_fd(), c(name).as_ptr(), 0)).unwrap();
        }
    }
    log.ok("rmdir", fs::remove_dir("d"));
}

pub fn many_links(log: &Log) {
    fs::create_dir("d").unwrap();
    let file = sys::file("d/file", b"linked often");
    let dir = open("d", O_RDONLY, 0).unwrap();
    let count = entries_wanted().min(LINKS_MAX);
    let mut made = 0;
    for at in 0..count {
        let (from, to) = (c("file"), c(format!("link {at}")));
        let (fd, flags) = (dir.as_raw_fd(), 0);
        // GlusterFS allows a hundred.
        if log.refused(
            format_args!("link {at}"),
            sys!(linkat(fd, from.as_ptr(), fd, to.as_ptr(), flags)),
        ) {
            break;
        }
        made = at;
    }
    log.value("links", sys::fstat(&file).map(|stat| stat.st_nlink));
    let last = openat(dir.as_raw_fd(), format!("link {made}"), O_RDWR, 0).unwrap();
    log.value("write by the last", sys::pwrite(&last, b"LINKED", 0));
    log.value("read by the first", sys::pread(&file, 20, 0));
    log.ok("remove", fs::remove_dir_all("d"));
    log.value("links", sys::fstat(&file).map(|stat| stat.st_nlink));
}
