//! Source trees brought into agents, and commits brought back, with a real Podman and the real git. Built with
//! `--features podman-tests`; see `tests/apply.rs` for what it is told by. The images have no git.

mod bench;
mod changes;
mod hostile;
mod pulls;
mod sources;
#[path = "../support/mod.rs"]
mod support;
mod users;
#[path = "../apply/world.rs"]
#[allow(dead_code)] // the other suites use the rest
mod world;
