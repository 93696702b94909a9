//! The file that `steadfast init` writes.

/// A commented starter state file. It is valid as it is.
pub const STARTER: &str = include_str!("starter.yaml");
