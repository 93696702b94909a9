//! steadfast killed at single system calls, refused single system calls, and served by an HTTP server and a Podman that lie.
//! Built with `--features podman-tests`; see `tests/apply.rs` for the variables it goes by.
//!
//! Each kind of work (`stage.rs`) is recorded once undisturbed: its system calls, its requests, and what is there afterwards. Then
//! it is done again and again, each time with one thing that goes wrong, drawn by a seed. Whatever that is, it must end by itself,
//! without a panic and within 64 MiB; what it says must be true, and an error must be one that a person can act on; what served
//! must serve; and the next undisturbed run must leave what an undisturbed run leaves: the same containers, the same files.
//!
//! * `STEADFAST_FAULTS_POINTS`: how many faults of each test. A sample where nothing is said.
//! * `STEADFAST_FAULTS_SEED`: what they are drawn by. 1 where nothing is said.
//! * `STEADFAST_FAULTS_ONLY`: the name of a stage, to do it alone.

#[path = "../cache/server.rs"]
#[allow(dead_code)] // a server that other tests need more of
mod server;
#[path = "../support/mod.rs"]
mod support;
#[path = "../apply/world.rs"]
#[allow(dead_code)] // made for `apply`, which needs more of it
mod world;

mod errors;
mod kills;
mod lies;
mod outputs;
mod podman;
mod stage;
mod sweep;
mod trace;
