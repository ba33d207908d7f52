//! The table: all cases, by group.

mod ioctl;
mod large;
mod locks;
mod mapping;
mod names;
mod open;
mod pipes;
mod rights;
mod space;
mod stat;
mod writes;
mod xattr;

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
        large::a_large_directory,
        large::many_links,
        open::every_flag_on_every_type,
        open::bad_descriptors_and_resolve_flags,
        open::temporary_files,
        open::path_descriptors,
        open::deleted_files_again,
        open::modes_and_umask,
        open::running_programs_are_not_written,
        names::rename_plain,
        names::rename_noreplace,
        names::rename_exchange,
        names::rename_whiteout,
        names::rename_odd,
        names::rename_of_open_files,
        names::link_and_linkat,
        names::unlink_and_rmdir,
        names::a_removed_current_directory,
        names::mkdir_mknod_symlink,
        names::long_names_and_any_byte,
        names::loops_and_depth,
        names::names_come_back,
        space::fallocate_allocating,
        space::fallocate_zeroing,
        space::fallocate_moving,
        space::fallocate_odd,
        space::data_and_holes,
        space::lseek_values,
        space::copy_file_range,
        space::truncate,
        space::too_big,
        space::past_sixteen_tebibytes,
        space::limit_of_the_file_size,
        writes::append_by_several_processes,
        writes::append_and_positions,
        writes::direct_aligned,
        writes::direct_unaligned,
        writes::vectors_with_flags,
        writes::vectors_with_hints,
        writes::bad_arguments,
        writes::half_a_buffer,
        writes::advice_and_sync,
        mapping::shared_and_private,
        mapping::past_the_end,
        mapping::arguments,
        mapping::advice_on_mappings,
        mapping::written_from_its_own_mapping,
        mapping::without_descriptor_and_name,
        pipes::splice_both_ways,
        pipes::sendfile_all_ways,
        pipes::fifos_and_sockets,
        pipes::inotify,
        stat::fields,
        stat::birth_and_direct_io,
        stat::of_the_filesystem,
        stat::set_times,
        stat::times_of_others,
        stat::what_moves_times,
        stat::relatime,
        xattr::each_namespace,
        xattr::as_an_ordinary_user,
        xattr::sizes_at_the_limits,
        xattr::of_open_files,
        xattr::capabilities,
        xattr::acl_values,
        xattr::acl_inheritance,
        xattr::acl_permissions,
        rights::set_id_bits_go,
        rights::set_id_bits_of_root,
        rights::chmod_and_chown,
        rights::directories_with_set_group_id,
        rights::sticky_directories,
        rights::denials,
        rights::rights_are_of_the_moment_of_opening,
        locks::flock_conflicts,
        locks::blocking,
        locks::a_wait_is_interrupted,
        locks::fcntl_ranges,
        locks::deadlock,
        locks::leases,
        ioctl::file_flags,
        ioctl::forbidding_flags,
        ioctl::extended_flags,
        ioctl::clones,
        ioctl::extents,
        ioctl::generic,
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
