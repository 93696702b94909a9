//! `steadfast run` as a process, with a real Podman. Built with `--features podman-tests`; see `tests/apply.rs` for the
//! variables it goes by.
//!
//! The shared Podman is never disturbed: tests that restart, kill or stop the service do so to one of their own on the same
//! storage, and one that answers badly is a proxy before it.

#[path = "background/disks.rs"]
mod disks;
#[path = "background/drift.rs"]
mod drift;
#[path = "background/edits.rs"]
mod edits;
#[path = "background/ends.rs"]
mod ends;
#[path = "background/images.rs"]
mod images;
#[path = "background/keeper.rs"]
mod keeper;
#[path = "background/others.rs"]
mod others;
#[path = "background/proxy.rs"]
mod proxy;
#[path = "background/secrets.rs"]
mod secrets;
#[path = "background/service.rs"]
mod service;
#[path = "background/signals.rs"]
mod signals;
mod support;
#[path = "background/systemd.rs"]
mod systemd;
#[path = "background/trust.rs"]
mod trust;
#[path = "apply/world.rs"]
#[allow(dead_code)] // made for `apply`, which needs more of it
mod world;
