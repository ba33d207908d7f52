//! Tests through a real mount of the built binary, with real programs.
//!
//! A harness of its own (libtest-mimic), because a test that needs what the machine lacks must be
//! counted as ignored, which the built-in one cannot do at run time. Arguments are those of
//! `cargo test`: a filter, `--test-threads`, `--nocapture`.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod abilities;
mod boot;
mod data;
mod deaths;
mod disk;
mod draining;
mod errors;
mod faulty;
mod keepers;
mod lanes;
mod layout;
mod lifecycle;
mod load;
mod nodes;
mod operations;
mod outages;
mod owners;
mod places;
mod points;
mod power;
mod seeing;
mod space;
mod stored;

use std::sync::{PoisonError, RwLock};

use libtest_mimic::{Arguments, Trial};

static NAMESPACES: RwLock<()> = RwLock::new(());

/// Lists the tests of a module under their names.
macro_rules! trials {
    ($skip:expr, $($module:ident :: $test:ident),* $(,)?) => {
        vec![$(trial($skip, concat!(stringify!($module), "::", stringify!($test)), $module::$test)),*]
    };
}

fn trial(skip: &Option<String>, name: &str, test: impl FnOnce() + Send + 'static) -> Trial {
    let makes_namespace = ["run_", "namespace", "nodes::"].iter().any(|word| name.contains(word));
    let trial = Trial::test(name, move || {
        // A private mount namespace keeps copies of every mount that is there alive: a test that
        // makes one runs alone.
        let lock = || NAMESPACES.read().unwrap_or_else(PoisonError::into_inner);
        let alone = || NAMESPACES.write().unwrap_or_else(PoisonError::into_inner);
        let (_shared, _alone) = ((!makes_namespace).then(lock), makes_namespace.then(alone));
        test();
        Ok(())
    });
    trial.with_ignored_flag(skip.is_some())
}

fn main() {
    if let Some(orders) = faulty::orders() {
        return faulty::serve(&orders);
    }
    let arguments = Arguments::from_args();
    let skip = support::cannot_mount();
    let root_skip = skip.clone().or_else(support::cannot_be_root);
    let mut trials = trials![
        &skip,
        data::written_data_is_seen_at_once_by_everybody,
        data::buffered_data_is_not_below_yet_and_is_after_umount,
        data::writes_in_any_order_overlapping,
        data::mmap_and_write_see_each_other,
        data::truncation_both_ways_while_buffered,
        data::unlinked_open_files_work,
        data::fsync_reaches_the_backing_file,
        data::times_are_those_of_the_program,
        data::without_the_writeback_cache,
        operations::calls_answer_as_on_a_plain_directory,
        operations::a_large_directory_is_listed_whole,
        operations::ordinary_programs_work,
        lifecycle::umount_leaves_nothing,
        lifecycle::signals_end_the_mount_in_order,
        lifecycle::plain_umount_loses_nothing,
        lifecycle::a_mount_in_use_is_not_unmounted,
        lifecycle::a_moment_of_use_does_not_refuse_umount,
        lifecycle::processes_are_told_apart,
        lifecycle::foreground_ends_on_ctrl_c,
        lifecycle::run_covers_a_directory_for_one_command,
        lifecycle::a_panicking_test_leaves_nothing,
        lifecycle::the_mount_helper_mounts,
        places::descriptors_stay_bounded,
        places::metadata_agrees_while_buffered,
        load::no_request_for_each_write,
        load::files_without_a_whole_chunk_do_not_fill_memory,
        load::one_request_for_each_operation,
        load::a_listing_brings_the_attributes,
        load::whole_chunks_in_turn,
        load::programs_are_equally_fast,
        load::no_byte_outlives_its_age,
        load::more_open_files_than_chunks,
        load::others_are_answered_while_writers_wait,
        load::memory_stays_bounded,
        load::the_worker_dies_under_forty_programs,
        deaths::the_worker_is_killed_under_a_mixed_load,
        deaths::no_page_is_missing_when_a_request_comes,
        points::a_stopped_worker_is_waited_for,
        keepers::the_keeper_is_killed_again_and_again,
        keepers::an_order_to_end_survives_the_keeper,
        keepers::a_foreground_mount_outlives_its_keeper,
        keepers::a_dead_mount_is_named_and_cleared,
        keepers::run_outlives_its_keeper,
        keepers::upgrade_replaces_both_processes,
        keepers::a_keeper_that_cannot_start_is_tried_again,
        keepers::upgrade_to_another_layout_is_refused,
        boot::every_option_can_stand_in_fstab,
        boot::the_umount_helper_leaves_a_mount_in_use,
        boot::the_manager_is_told_how_it_goes,
        boot::a_worker_that_hangs_is_replaced,
        stored::both_processes_are_killed_and_the_mount_goes_on,
        stored::what_is_passed_is_checked,
        stored::what_is_left_of_a_mount_that_is_gone_is_given_back,
        power::every_way_to_sync_reaches_the_disk,
        power::lazy_fsync_leaves_the_disk_alone,
    ];
    let points_skip = skip.clone().or_else(points::cannot_kill);
    trials.extend(trials![
        &points_skip,
        points::a_worker_dies_at_every_point,
        points::a_request_that_kills_is_refused,
        points::a_sync_that_kills_is_refused,
        points::a_file_that_kills_is_left_alone,
        points::no_innocent_request_is_refused,
    ]);
    let namespace_skip = skip.clone().or_else(support::cannot_unshare);
    trials.extend(trials![&namespace_skip, lifecycle::works_in_a_user_namespace]);
    trials.extend(trials![
        &root_skip,
        operations::new_files_belong_to_the_caller,
        places::filesystems_below_stay_usable,
        places::mount_options_are_those_of_the_backing,
        errors::every_refusal_is_told_shown_kept_and_mended,
        errors::a_refusal_of_any_request_is_mended,
        errors::a_failed_sync_is_told_and_remembered,
        errors::bytes_are_kept_until_they_are_synced,
        errors::discarded_bytes_are_gone_for_everybody,
        errors::umount_discard_lists_what_is_lost,
        errors::umount_discard_of_a_mount_in_use_loses_nothing,
        errors::run_keeps_or_discards_what_cannot_be_stored,
        errors::a_disk_that_hangs_is_shown_and_waited_for,
        outages::a_file_that_hangs_holds_up_no_others,
        outages::an_outage_that_passes_is_seen_by_no_program,
        outages::programs_that_ask_for_names_see_no_outage,
        outages::programs_of_several_nodes_see_no_outage,
        outages::lost_answers_are_found_out_about,
        outages::a_close_before_what_hangs_ends,
        outages::another_client_takes_the_place_of_a_dead_one,
        errors::writers_end_when_memory_is_full_of_refused_bytes,
        errors::close_tells_of_a_quota_while_memory_is_full,
        errors::writers_end_when_the_disk_is_full,
        draining::a_disk_that_hangs_is_waited_for,
        draining::what_the_disk_refuses_is_listed,
        lanes::run_gives_each_disk_a_lane,
    ]);
    trials.extend(trials![
        &root_skip,
        boot::generic_options_hold,
        boot::starts_run_without_systemd,
        boot::tasks_of_an_array_share_a_directory,
        boot::a_sidecar_serves_its_neighbour,
        boot::helpers_understand_mount_and_umount,
    ]);
    let scripts_skip = boot::cannot_check_scripts();
    trials.extend(trials![&scripts_skip, boot::scripts_are_clean]);
    let units_skip = boot::cannot_check_units();
    trials.extend(trials![&units_skip, boot::units_are_in_order]);
    trials.extend(trials![
        &skip,
        seeing::the_hidden_directory_shows_the_state,
        seeing::a_real_directory_of_that_name_is_left_alone,
        seeing::a_file_tells_its_backlog,
        seeing::the_time_of_a_file_that_passes_through,
        draining::one_file_or_all,
        draining::what_the_kernel_holds_is_stored,
        draining::what_comes_later_is_not_waited_for,
        seeing::the_longest_stall_is_kept,
        seeing::the_log_has_neither_requests_nor_contents,
        seeing::top_prints_lines_into_a_pipe,
        seeing::examples_slow_themselves_down,
    ]);
    trials.extend(trials![&root_skip, seeing::names_of_files_are_for_the_owner]);
    trials.extend(trials![
        &root_skip,
        nodes::what_is_closed_is_seen_elsewhere,
        nodes::readers_do_not_keep_the_old_file_for_others,
        nodes::two_writers_of_one_file_are_named,
        nodes::what_is_done_here_is_no_conflict,
        nodes::the_next_worker_knows_the_same_files,
        nodes::the_default_is_by_the_filesystem,
    ]);
    let promtool_skip = skip.clone().or_else(seeing::cannot_check_metrics);
    trials.extend(trials![&promtool_skip, seeing::promtool_takes_the_metrics]);
    let root_unshare_skip = root_skip.clone().or_else(support::cannot_unshare);
    trials.extend(trials![
        &root_unshare_skip,
        owners::the_mount_is_not_id_mapped,
        owners::a_backing_directory_with_other_ids,
        owners::users_of_another_namespace_are_who_they_are,
        owners::root_is_denied_what_is_not_of_its_namespace,
    ]);
    let helper_skip = root_skip.clone().or_else(support::cannot_use_helper);
    trials.extend(trials![
        &helper_skip,
        places::an_ordinary_user_in_a_namespace_of_mounts,
        places::options_of_an_ordinary_user_in_a_namespace,
        keepers::a_users_mount_in_a_namespace_outlives_its_keeper,
        owners::a_users_namespace_with_files_of_others,
        owners::what_is_denied_later_in_a_users_namespace_is_kept,
    ]);
    let disk_skip = skip.clone().or_else(disk::cannot_make);
    trials.extend(trials![
        &disk_skip,
        power::logs_are_prefixes_after_a_power_cut,
        power::attributes_are_kept_over_deaths,
        draining::the_power_may_go_afterwards,
    ]);
    trials.extend(space::trials(&skip));
    trials.extend(layout::trials(&skip));
    trials.extend(abilities::trials(&skip));
    let skips = [
        &skip,
        &points_skip,
        &namespace_skip,
        &root_skip,
        &helper_skip,
        &disk_skip,
        &scripts_skip,
        &units_skip,
        &promtool_skip,
    ];
    for reason in skips.into_iter().flatten() {
        eprintln!("some mount tests are ignored: {reason}");
    }
    libtest_mimic::run(&arguments, trials).exit();
}
