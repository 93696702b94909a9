//! steadfast: a declarative reconciler for agents in containers.
//!
//! One pass is the whole story:
//!
//! ```text
//!  state file ──parse, validate, resolve──▶ Desired ─┐
//!  cache dir ─┐                                      ├─▶ plan() ──▶ Plan ──▶ act ──┐
//!  Lima ──────┼──observe (side by side)───▶ Observed ┘    (pure)        (idempotent) │
//!  Podman ────┘        ▲                                                             │
//!                      └────────── observe again: the plan must now be empty ◀───────┘
//! ```
//!
//! [`state`] turns the file into [`model::Desired`]; [`observe`] observes the world behind the three traits in
//! [`backend`]; [`plan`] compares them and decides; [`act`] does what was decided; [`reconcile`] repeats that until there
//! is nothing left to do. [`cli`] is the command line over it. `plan` and `model` know neither clock nor disk nor
//! network.

// Here and not in Cargo.toml: the test crates' `pub` is never reachable.
#![warn(unreachable_pub)]
// Whoever works on it reads the documents of what is private too.
#![allow(rustdoc::private_intra_doc_links)]

#[macro_use]
mod words;

pub mod act;
pub mod backend;
mod backoff;
mod brief;
#[cfg(feature = "fake")]
pub mod broken;
#[cfg(not(feature = "fake"))]
#[allow(unreachable_pub, reason = "only tests put faults in")]
mod broken;
pub mod cli;
pub mod control;
pub mod error;
mod files;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod handles;
mod inside;
pub mod model;
mod mutex;
pub mod observe;
mod overrides;
pub mod plan;
pub mod publish;
pub mod readiness;
pub mod reconcile;
pub mod rollouts;
mod service;
pub mod session;
mod sizes;
pub mod snapshot;
pub mod state;
pub mod status;
mod telemetry;
mod time;
pub mod trust;
mod visible;
mod watcher;
mod why;
pub mod workspace;
