//! How a convergence is to go about it, and who hears of it.

use std::sync::Arc;
use std::time::Duration;

use crate::act::{ActError, Done, Patience};
use crate::backend::Progress;
use crate::model::{AgentName, Name};
use crate::plan::{Policy, Step};

/// How a convergence is to go about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Container steps at once. Default 4.
    pub parallel: usize,
    /// Downloads at once. Default 4.
    pub downloads: usize,
    /// The longest it may take. Default 10 min.
    pub timeout: Duration,
    /// Wait for health, and look once more at what was started.
    pub wait: bool,
    /// How patient single steps are.
    pub patience: Patience,
    /// What is allowed.
    pub policy: Policy,
    /// A state file without agents may remove those that are there.
    pub allow_empty: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            parallel: 4,
            downloads: 4,
            timeout: Duration::from_secs(600),
            wait: true,
            patience: Patience::default(),
            policy: Policy::default(),
            allow_empty: false,
        }
    }
}

/// Hears of each step as it happens. What is drawn on a terminal is drawn from this.
pub trait Reporter: Send + Sync {
    /// A step begins; `progress` follows its bytes, where it moves any.
    fn started(&self, step: &Step, progress: &Arc<Progress>);
    /// A step ended.
    fn finished(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration);
    /// Nothing is left to do but to wait for these agents' health checks. Of none: the wait is over.
    fn awaiting_health(&self, agents: &[AgentName]);
    /// Something else changed. Only `run` has news.
    fn news(&self, _news: &super::run::News) {}
}

/// A reporter that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn started(&self, _: &Step, _: &Arc<Progress>) {}
    fn finished(&self, _: &Step, _: Result<&Done, &ActError>, _: Duration) {}
    fn awaiting_health(&self, _: &[AgentName]) {}
}

/// Why nothing was begun.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The state file has no agents, and some are there.
    #[error("the state file has no agents, and {} of `{name}` would be removed", containers(*count))]
    Empty {
        /// Whose.
        name: Name,
        /// How many containers.
        count: usize,
    },
}

fn containers(count: usize) -> String {
    if count == 1 { "1 container".to_owned() } else { format!("{count} containers") }
}
