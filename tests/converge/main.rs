//! The loop on a fake world (the planner alone is tested in `tests/plan`): stories with one ending each, and properties over generated worlds.
//!
//! Time is tokio's paused clock, so that waiting costs nothing.

mod background;
mod containers;
mod inside;
mod passes;
mod plans;
mod properties;
#[path = "../support/background.rs"]
#[allow(dead_code, reason = "tests/simulate uses the rest")]
mod runs;
mod vm;
#[path = "../support/wishes.rs"]
mod wishes;
mod worlds;
