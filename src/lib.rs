//! steadfast: a declarative reconciler for agents in containers.

pub mod act;
pub mod backend;
pub mod error;
pub mod handles;
pub mod model;
pub mod observe;
pub mod plan;
pub mod reconcile;
pub mod state;
