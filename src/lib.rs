//! steadfast: a declarative reconciler for agents in containers.

pub mod backend;
pub mod error;
pub mod model;
pub mod plan;
