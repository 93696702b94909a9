//! The planner and the loop on a fake world: stories with one ending each, and properties over generated worlds.
//!
//! Time is tokio's paused clock, so that waiting costs nothing.

mod background;
mod containers;
mod passes;
mod plans;
mod properties;
mod schedules;
mod vm;
mod worlds;
