//! What decides, without the loop: the planner on values, and act and observe one call at a time on a fake world.
//!
//! A scene is what is wanted beside what was observed. Each row of a table is a whole plan, so that it also says that
//! nothing else was planned.

mod acts;
mod artifacts;
mod containers;
mod ideal;
mod images;
mod inside;
mod leftovers;
mod names;
mod observes;
mod pairs;
mod properties;
mod quarantine;
mod removal;
mod scene;
mod shared;
mod vm;
#[path = "../support/wishes.rs"]
mod wishes;
