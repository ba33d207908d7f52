//! Goal: nobody gets through a mount, its processes or its control socket at what he could not get
//! at without them; and nothing that comes from outside makes them fall.
//!
//! | module | what |
//! |---|---|
//! | `processes` | rights and memory of keeper and worker |
//! | `users` | other users, on the mount and on the control socket |
//! | `escape` | an attacker who works in the backing directory |
//! | `hostile` | names, values and options of any bytes |
//!
//! Real mounts and real users; those that need root or fusermount3 are ignored without.

#![allow(clippy::unwrap_used)] // a test fails by panicking

#[path = "../support/mod.rs"]
mod support;

mod escape;
mod hostile;
mod processes;
mod users;

use libtest_mimic::{Arguments, Trial};

/// Why it cannot run, its name, and the test.
type Test<'a> = (&'a Option<String>, &'a str, fn());

fn trial(skip: &Option<String>, name: &str, test: fn()) -> Trial {
    let run = move || {
        test();
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(skip.is_some())
}

fn main() {
    let arguments = Arguments::from_args();
    let skip = support::cannot_mount();
    let namespace_skip = skip.clone().or_else(support::cannot_unshare);
    let root_skip = skip.clone().or_else(support::cannot_be_root);
    let helper_skip = root_skip.clone().or_else(support::cannot_use_helper);
    for reason in [&skip, &namespace_skip, &root_skip, &helper_skip].into_iter().flatten() {
        eprintln!("some security tests are ignored: {reason}");
    }
    let tests: [Test<'_>; 13] = [
        (&root_skip, "processes::each_keeps_only_the_rights_it_needs", processes::rights),
        (&namespace_skip, "processes::the_same_in_a_user_namespace", processes::in_a_namespace),
        (&helper_skip, "processes::memory_is_out_of_reach", processes::memory),
        (&root_skip, "users::backing_permissions_hold", users::backing_permissions_hold),
        (&root_skip, "users::control_answers_its_owner_only", users::control),
        (&root_skip, "users::squatters_are_not_believed", users::squatters),
        (&root_skip, "users::set_id_bits_go_when_others_write", users::set_id_bits),
        (&root_skip, "escape::nothing_outside_is_reached", escape::nothing_outside_is_reached),
        (&root_skip, "escape::create_opens_nobody_elses_file", escape::create),
        (&skip, "hostile::attributes_answer_as_on_a_plain_directory", hostile::attributes),
        (&skip, "hostile::the_control_socket_survives_anything", hostile::control),
        (&None, "hostile::command_lines_end_in_order", hostile::command_lines),
        (&None, "hostile::the_mount_helper_runs_nothing", hostile::mount_helper),
    ];
    let trials = tests.map(|(skip, name, test)| trial(skip, name, test));
    libtest_mimic::run(&arguments, trials.into()).exit();
}
