//! `steadfast publish` against a real Podman. Built with `--features podman-tests`; see `tests/podman.rs` for what it wants.

#[path = "../cache/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../apply/world.rs"]
#[allow(dead_code)]
mod world;

#[path = "../support/gateway.rs"]
mod gateway;

mod airgap;
mod registries;
mod smoke;
mod story;
mod tarballs;
