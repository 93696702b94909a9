//! Whole commands against a real Podman. Built with `--features podman-tests`.
//!
//! * `STEADFAST_TEST_PODMAN_SOCKET`: the API socket of a Podman that tests may fill (required).
//! * `STEADFAST_TEST_REGISTRY`, `STEADFAST_TEST_LOGIN_REGISTRY`: see `tests/podman.rs`.
//!
//! Each test has a sandbox, a name and an image of its own, and clears up after itself; they may run side by side.

#[path = "apply/agents.rs"]
mod agents;
#[path = "apply/brought.rs"]
mod brought;
#[path = "apply/containers.rs"]
mod containers;
#[path = "apply/converge.rs"]
mod converge;
#[path = "apply/declared.rs"]
mod declared;
#[path = "apply/disks.rs"]
mod disks;
#[path = "apply/failures.rs"]
mod failures;
#[path = "apply/generated.rs"]
mod generated;
#[path = "apply/hidden.rs"]
mod hidden;
#[path = "apply/images.rs"]
mod images;
#[path = "apply/interrupted.rs"]
mod interrupted;
#[path = "background/keeper.rs"]
#[allow(dead_code)] // made for `run`, which other tests ask more of
mod keeper;
#[path = "apply/kept.rs"]
mod kept;
#[path = "apply/killed.rs"]
mod killed;
#[path = "apply/layers.rs"]
mod layers;
#[path = "apply/locks.rs"]
mod locks;
#[path = "apply/lossy.rs"]
mod lossy;
#[path = "apply/memory.rs"]
mod memory;
#[path = "apply/ownership.rs"]
mod ownership;
#[path = "background/proxy.rs"]
#[allow(dead_code)] // ways to disturb Podman that other tests need more of
mod proxy;
#[path = "apply/published.rs"]
mod published;
#[path = "apply/registry.rs"]
mod registry;
#[path = "apply/requests.rs"]
mod requests;
#[path = "apply/rollouts.rs"]
mod rollouts;
#[path = "apply/secrets.rs"]
mod secrets;
#[path = "cache/server.rs"]
#[allow(dead_code)] // a server that other tests need more of
mod server;
#[path = "apply/sessions.rs"]
mod sessions;
#[path = "apply/settings.rs"]
mod settings;
mod support;
#[path = "apply/terminal.rs"]
mod terminal;
#[path = "apply/world.rs"]
mod world;
