//! The conformance suite against a real Podman, over both transports. Built with `--features podman-tests`.
//!
//! * `STEADFAST_TEST_PODMAN_SOCKET`: the API socket of a Podman that tests may fill (required).
//! * `STEADFAST_TEST_PODMAN_ENV`: a file of `NAME=value` lines, the environment in which the `podman` command line is that
//!   same Podman. When not set, the environment as it is.
//! * `STEADFAST_TEST_REGISTRY`: address of a plain-http registry, `127.0.0.1:5097` when not set. That Podman's
//!   `registries.conf` must call it insecure. When nobody listens there, `docker-registry` is started.
//!
//! What an engine must do stands in `podman/`, in functions over any [`steadfast::backend::Engine`]; here they are run, one
//! test each and transport. The command line is reached through a stand-in for `limactl` that runs what it is given here.

#[macro_use]
#[path = "podman/suite.rs"]
mod suite;

#[path = "podman/bench.rs"]
mod bench;
#[path = "podman/both.rs"]
mod both;
#[path = "podman/commands.rs"]
mod commands;
#[path = "podman/containers.rs"]
mod containers;
#[path = "podman/images.rs"]
mod images;
#[path = "podman/limactl.rs"]
mod limactl;
#[path = "podman/refusals.rs"]
mod refusals;
#[path = "podman/registry.rs"]
mod registry;
mod support;

use bench::Place;
use steadfast::backend::podman::Podman;

fn through_api() -> Place<Podman> {
    let socket = support::podman_socket();
    let engine = Podman::connect(Some(&socket), |_| None).expect("a client for the test's Podman");
    Place { engine, api: true, local: true, socket, keep: Box::new(()) }
}

fn through_shell() -> Place<Podman> {
    let stand_in = limactl::StandIn::new();
    let engine = Podman::Shell(stand_in.shell());
    Place { engine, api: false, local: true, socket: support::podman_socket(), keep: Box::new(stand_in.directory) }
}

conformance! {
    api: crate::through_api,
    shell: crate::through_shell,
}
