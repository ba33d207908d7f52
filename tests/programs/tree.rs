//! A directory tree as it can be compared: names, types, modes, owners, links, sizes, contents,
//! extended attributes (ACLs are among them), times, holes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::SystemTime;

use crate::Times;

/// A file with less than this in holes is not called sparse: filesystems store a bit more or less.
const HOLES_BYTES: u64 = 256 << 10;

/// Everything below a directory, itself included, by path.
pub struct Tree(BTreeMap<String, Node>);

#[derive(Debug, Clone, PartialEq)]
struct Node {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    links: u64,
    /// The first path of the same file.
    same_as: Option<String>,
    device: u64,
    xattrs: BTreeMap<String, Vec<u8>>,
    data: Data,
    mtime: SystemTime,
    /// Holds less than its size. Only final on the disk.
    is_sparse: bool,
}

/// What `# Differs:` lets differ.
#[derive(Debug, Clone, PartialEq, Default)]
struct Data {
    size: u64,
    hash: u64,
    target: Option<String>,
}

impl Tree {
    /// Reads everything, except what matches `skips`.
    pub fn of(root: &Path, skips: &[String]) -> Tree {
        let mut nodes = BTreeMap::new();
        let mut first = HashMap::new();
        let mut paths = vec![".".to_owned()];
        while let Some(path) = paths.pop() {
            let real = root.join(&path);
            let node = Node::of(&real, &path, &mut first);
            if node.kind == "directory" {
                let mut names: Vec<String> = fs::read_dir(&real)
                    .unwrap()
                    .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                    .collect();
                // The first of several links must be the same one each time.
                names.sort_by(|a, b| b.cmp(a));
                paths.extend(names.iter().map(|name| format!("{path}/{name}")));
                paths.retain(|path| !matches_any(skips, path));
            }
            nodes.insert(path, node);
        }
        Tree(nodes)
    }

    /// The same to a program that does not look at times and holes.
    pub fn assert_same(&self, found: &Tree, differs: &[String], where_: &str) {
        let plain = |path: &str, node: &Node| {
            let mut node = Node { mtime: SystemTime::UNIX_EPOCH, is_sparse: false, ..node.clone() };
            if matches_any(differs, path) {
                node.data = Data::default();
            }
            // What a directory takes depends on how its names came and went.
            if node.kind == "directory" {
                node.data.size = 0;
            }
            node
        };
        self.assert_equal(found, where_, plain);
    }

    /// The same, times included.
    pub fn assert_identical(&self, found: &Tree, where_: &str) {
        self.assert_equal(found, where_, |_, node| Node { is_sparse: false, ..node.clone() });
    }

    fn assert_equal(&self, found: &Tree, where_: &str, view: impl Fn(&str, &Node) -> Node) {
        let mut differences = Vec::new();
        let paths: std::collections::BTreeSet<&String> =
            self.0.keys().chain(found.0.keys()).collect();
        for path in paths {
            let sides = [self, found].map(|tree| tree.0.get(path).map(|node| view(path, node)));
            if sides[0] != sides[1] {
                differences.push(format!("{path}:\n  {:?}\n  {:?}", sides[0], sides[1]));
            }
        }
        assert!(
            differences.is_empty(),
            "{where_}: expected, then found:\n{}",
            differences[..differences.len().min(10)].join("\n")
        );
    }

    /// A time from before the job was set by a program, and must be the same; others are from the
    /// time of the job, not from that of the drain.
    pub fn assert_same_times(&self, found: &Tree, here: &Times, there: &Times) {
        for (path, node) in &self.0 {
            let time = found.0[path].mtime;
            if here.contains(&node.mtime) {
                assert!(there.contains(&time), "{path}: {time:?} is not within {there:?}");
            } else {
                assert_eq!(node.mtime, time, "{path}: left: plain directory, right: mount");
            }
        }
    }

    /// What is sparse is sparse, and nothing else.
    pub fn assert_same_holes(&self, stored: &Tree, differs: &[String]) {
        for (path, node) in self.0.iter().filter(|(path, _)| !matches_any(differs, path)) {
            let is_sparse = stored.0[path].is_sparse;
            assert_eq!(node.is_sparse, is_sparse, "{path} is sparse: plain directory, disk");
        }
    }
}

impl Node {
    fn of(real: &Path, path: &str, first: &mut HashMap<(u64, u64), String>) -> Node {
        let meta = fs::symlink_metadata(real).unwrap();
        let kind = meta.file_type();
        let is_linked = meta.nlink() > 1 && !kind.is_dir();
        let same_as = is_linked.then(|| {
            first.entry((meta.dev(), meta.ino())).or_insert_with(|| path.to_owned()).clone()
        });
        let kind = match () {
            () if kind.is_file() => "file",
            () if kind.is_dir() => "directory",
            () if kind.is_symlink() => "link",
            () if kind.is_fifo() => "fifo",
            () if kind.is_socket() => "socket",
            () => "device",
        };
        let target = (kind == "link").then(|| fs::read_link(real).unwrap());
        Node {
            kind,
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            links: meta.nlink(),
            same_as,
            device: meta.rdev(),
            xattrs: xattrs(real),
            data: Data {
                size: meta.len(),
                hash: if kind == "file" { hash(real) } else { 0 },
                target: target.map(|target| target.to_string_lossy().into_owned()),
            },
            mtime: meta.modified().unwrap(),
            is_sparse: kind == "file" && meta.blocks() * 512 + HOLES_BYTES < meta.len(),
        }
    }
}

fn hash(path: &Path) -> u64 {
    let mut file = fs::File::open(path).unwrap();
    let (mut hasher, mut buffer) = (DefaultHasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return hasher.finish(),
            bytes => hasher.write(&buffer[..bytes]),
        }
    }
}

/// Extended attributes of the file itself, not of what it points to.
fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0_u8; 1 << 16];
    // SAFETY: a buffer of ours with its length.
    let len = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    let len = usize::try_from(len).expect("attributes are listed");
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0_u8; 1 << 16];
            let c_name = CString::new(name).unwrap();
            let (buffer, room) = (value.as_mut_ptr().cast(), value.len());
            // SAFETY: a buffer of ours with its length.
            let len = unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), buffer, room) };
            value.truncate(usize::try_from(len).expect("a listed attribute has a value"));
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect()
}

fn matches_any(patterns: &[String], path: &str) -> bool {
    let path = path.strip_prefix("./").unwrap_or(path);
    patterns.iter().any(|pattern| matches(pattern, path))
}

/// `*` stands for anything, slashes included.
fn matches(pattern: &str, path: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == path };
    let Some(path) = path.strip_prefix(start) else { return false };
    (0..=path.len()).any(|at| path.is_char_boundary(at) && matches(rest, &path[at..]))
}
