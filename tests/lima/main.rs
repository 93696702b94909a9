//! The suite in a real VM. Built with `--features lima-tests`, run by the stage `lima` of `tests/run.sh` as a user whom
//! limactl accepts, one test after another:
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
mod instance;
mod places;
#[path = "../podman/refusals.rs"]
mod refusals;
#[path = "../podman/registry.rs"]
mod registry;
mod story;
#[path = "../support/mod.rs"]
mod support;
mod template;
mod world;

// In the order of their names, before the story takes the machine down.
conformance! {
    forwarded: crate::places::forwarded,
    shell: crate::places::shell,
}
