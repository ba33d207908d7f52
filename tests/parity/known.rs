//! Differences that are known: of FUSE, of the kernel, of the FUSE library, or on the list of what
//! is to be done. Each must still occur: a difference that is gone has to be taken off.

/// A difference that is expected.
pub struct Known {
    /// The case.
    pub case: &'static str,
    /// How the call's line begins; `tree: path` for what the case leaves.
    pub call: &'static str,
    /// Kinds of filesystems it occurs on; empty for all.
    pub on: &'static [&'static str],
    /// Why it is so.
    pub why: &'static str,
}

/// All of them.
pub const KNOWN_DIFFERENCES: &[Known] = &[
    Known {
        case: "open::temporary_files",
        call: "O_TMPFILE W",
        on: &[],
        why: "the FUSE library has no TMPFILE request: EOPNOTSUPP, on which programs fall back",
    },
    Known { case: "open::temporary_files", call: "O_TMPFILE RW", on: &[], why: "as above" },
];

/// The ones of a case on a kind of filesystem.
pub fn known(case: &str, kind: &str) -> Vec<&'static Known> {
    let holds =
        |known: &&Known| known.case == case && (known.on.is_empty() || known.on.contains(&kind));
    KNOWN_DIFFERENCES.iter().filter(holds).collect()
}
