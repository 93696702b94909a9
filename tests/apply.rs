//! Whole commands against a real Podman. Built with `--features podman-tests`.
//!
//! * `STEADFAST_TEST_PODMAN_SOCKET`: the API socket of a Podman that tests may fill (required).
//! * `STEADFAST_TEST_REGISTRY`: see `tests/podman.rs`.
//!
//! Each test has a sandbox, a name and an image of its own, and clears up after itself; they may run side by side.

#[path = "apply/converge.rs"]
mod converge;
#[path = "apply/failures.rs"]
mod failures;
#[path = "apply/memory.rs"]
mod memory;
#[path = "apply/published.rs"]
mod published;
mod support;
#[path = "apply/world.rs"]
mod world;
