//! The conformance suite against a real Podman, over both transports. Built with `--features podman-tests`.
//!
//! * `STEADFAST_TEST_PODMAN_SOCKET`: the API socket of a Podman that tests may fill (required).
//! * `STEADFAST_TEST_PODMAN_ENV`: a file of `NAME=value` lines, the environment in which the `podman` command line is that
//!   same Podman. When not set, the environment as it is.
//! * `STEADFAST_TEST_REGISTRY`: address of a plain-http registry, `127.0.0.1:5097` when not set. That Podman's
//!   `registries.conf` must call it insecure. When nobody listens there, `docker-registry` is started.
//! * `STEADFAST_TEST_LOGIN_REGISTRY`: a second such address, `127.0.0.1:5098` when not set, where nobody listens: registries
//!   that want a login are started there.
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
#[path = "podman/inside.rs"]
mod inside;
#[path = "podman/limactl.rs"]
mod limactl;
#[path = "podman/refusals.rs"]
mod refusals;
#[path = "podman/registry.rs"]
mod registry;
#[path = "podman/sessions.rs"]
mod sessions;
#[path = "podman/settings.rs"]
mod settings;
#[path = "podman/shared.rs"]
mod shared;
mod support;

use bench::Place;
use steadfast::backend::podman::{Logins, Podman};

fn through_api() -> Place<Podman> {
    let socket = support::podman_socket();
    let vars = |name: &str| (name == "REGISTRY_AUTH_FILE").then(|| login_file().display().to_string());
    let engine = Podman::connect(Some(&socket), vars).expect("a client for the test's Podman");
    Place { engine, api: true, local: true, socket, keep: Box::new(()) }
}

/// The logins of whoever tests, for a registry that wants one.
fn logins() -> Logins {
    Logins::of(|name| (name == "REGISTRY_AUTH_FILE").then(|| login_file().display().to_string()))
}

fn login_file() -> &'static std::path::Path {
    static FILE: std::sync::OnceLock<tempfile::NamedTempFile> = std::sync::OnceLock::new();
    let file = || {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let text = support::registry::login(&support::registry::address());
        std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
        file
    };
    FILE.get_or_init(file).path()
}

fn through_shell() -> Place<Podman> {
    let stand_in = limactl::StandIn::new();
    let engine = Podman::Shell(stand_in.shell().with_logins(logins()));
    Place { engine, api: false, local: true, socket: support::podman_socket(), keep: Box::new(stand_in.directory) }
}

conformance! {
    api: crate::through_api,
    shell: crate::through_shell,
}
