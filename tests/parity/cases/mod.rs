//! The table: all cases, by group.

mod open;

use crate::compare::Case;

/// Lists cases under their names.
macro_rules! cases {
    ($($module:ident :: $case:ident),* $(,)?) => {
        vec![$(Case { name: concat!(stringify!($module), "::", stringify!($case)), run: $module::$case }),*]
    };
}

/// Every case.
pub fn all() -> Vec<Case> {
    cases![
        open::every_flag_on_every_type,
        open::bad_descriptors_and_resolve_flags,
        open::temporary_files,
        open::path_descriptors,
        open::deleted_files_again,
        open::modes_and_umask,
        open::running_programs_are_not_written,
    ]
}

/// The cases of each group.
pub fn groups() -> Vec<(&'static str, Vec<Case>)> {
    let mut groups: Vec<(&str, Vec<Case>)> = Vec::new();
    for case in all() {
        let group = case.name.split("::").next().expect("at least one part");
        match groups.last_mut() {
            Some((name, cases)) if *name == group => cases.push(case),
            _ => groups.push((group, vec![case])),
        }
    }
    groups
}
