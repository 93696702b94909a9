//! The suite in a real VM. Built with `--features lima-tests`, run by the stage `lima` of `tests/run.sh` as a user whom
//! limactl accepts. Two at a time may, but for `all`: some of its tests remove an image that the others share.
//!
//! * `STEADFAST_TEST_LIMACTL`: the limactl to call.
//! * `STEADFAST_TEST_LIMA_HOME`: a `LIMA_HOME` with a short path, in which tests may make instances.
//! * `STEADFAST_TEST_LIMA_TEMPLATE`: `template/agents-vm.yaml` with an image that boots here.
//! * `STEADFAST_TEST_BIN`: the `steadfast` under test.

#[macro_use]
#[path = "../podman/suite.rs"]
mod suite;

#[path = "../podman/bench.rs"]
mod bench;
#[path = "../podman/commands.rs"]
mod commands;
#[path = "../podman/containers.rs"]
mod containers;
#[path = "../podman/images.rs"]
mod images;
#[path = "../podman/inside.rs"]
mod inside;
mod instance;
mod places;
#[path = "../podman/refusals.rs"]
mod refusals;
#[path = "../podman/registry.rs"]
mod registry;
#[path = "../podman/sessions.rs"]
mod sessions;
#[path = "../podman/settings.rs"]
mod settings;
#[path = "../podman/shared.rs"]
mod shared;
mod story;
#[path = "../support/mod.rs"]
mod support;
mod template;
mod unready;
mod world;

// Begun in the order of their names: the story waits for all that need the machine, and takes it down; `unready` boots one of its
// own beside it.

/// The whole suite. `tests/run.sh` leaves it out where the guest is emulated and each call costs seconds, unless it is asked
/// for (`tests/run.sh lima-all`): every one of these runs over the same code in `tests/podman.rs`.
mod all {
    conformance! {
        forwarded: crate::places::forwarded,
        shell: crate::places::shell,
    }
}

/// What a forwarded socket and a machine of its own can get wrong.
mod forwarded {
    tests! {
        crate::places::forwarded;
        containers:
            every_field_reaches_the_container,
            a_look_finds_ours_and_the_foreign_one_with_a_wanted_name,
            the_life_of_a_container,
            events_are_the_owners;
        commands:
            a_commands_streams_and_code_are_kept_apart,
            standard_input_is_half_closed,
            much_output_arrives_whole,
            a_followed_log_ends_with_its_container;
    }
}

/// What ssh and a real limactl can get wrong.
mod shell {
    tests! {
        crate::places::shell;
        containers:
            the_life_of_a_container,
            events_are_the_owners;
        commands:
            a_commands_streams_and_code_are_kept_apart,
            standard_input_is_half_closed,
            a_followed_log_ends_with_its_container;
        images:
            compressed_archives_load_once_decompressed;
        refusals:
            secrets_stay_out_of_errors;
    }
}
