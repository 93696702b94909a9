//! Whole commands without Podman: what is typed, what comes out, and the exit code.

#[path = "cli/cache.rs"]
mod cache;
#[path = "cli/control.rs"]
mod control;
#[path = "cli/downloads.rs"]
mod downloads;
#[path = "cli/files.rs"]
mod files;
#[path = "cli/gitops.rs"]
mod gitops;
#[path = "cli/history.rs"]
mod history;
#[path = "cli/kept.rs"]
mod kept;
#[path = "cli/layers.rs"]
mod layers;
#[path = "cli/lima.rs"]
mod lima;
#[path = "cli/manifests.rs"]
mod manifests;
#[path = "cli/outputs.rs"]
mod outputs;
#[path = "cli/ownership.rs"]
mod ownership;
#[path = "cli/published.rs"]
mod published;
#[path = "cli/root.rs"]
mod root;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/secrets.rs"]
mod secrets;
#[path = "cache/server.rs"]
#[allow(dead_code)] // a server that other tests need more of
mod server;
#[path = "cli/service.rs"]
mod service;
#[path = "cli/signing.rs"]
mod signing;
#[path = "cli/sockets.rs"]
mod sockets;
#[path = "cli/state_files.rs"]
mod state_files;
mod support;
#[path = "cli/sync.rs"]
mod sync;
#[path = "cli/trust.rs"]
mod trust;
#[path = "cli/why.rs"]
mod why;
