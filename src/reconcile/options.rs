//! How a convergence is to go about it, and who hears of it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::act::{ActError, Done, Patience};
use crate::backend::Progress;
use crate::model::{AgentName, Name};
use crate::plan::{Policy, Step};
use crate::rollouts::RolloutRecord;

/// How a convergence is to go about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Container steps at once. Default 4.
    pub parallel: usize,
    /// Downloads at once. Default 4.
    pub downloads: usize,
    /// Maximum time it may take. Default 10 min.
    pub timeout: Duration,
    /// Wait for health, and observe once more what was started.
    pub wait: bool,
    /// How patient single steps are.
    pub patience: Patience,
    /// What is allowed.
    pub policy: Policy,
    /// Where it is remembered what failed, and what has proved itself.
    pub rollouts: Arc<RolloutRecord>,
    /// What failed before is tried again, although nothing else is wanted.
    pub retry_quarantined: bool,
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
            rollouts: Arc::default(),
            retry_quarantined: false,
        }
    }
}

/// Agents that time alone may make ready.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Awaited {
    /// Their health check has not passed yet.
    pub health: Vec<AgentName>,
    /// They were restarted a moment ago, and are to show that they stay up.
    pub steadiness: Vec<AgentName>,
    /// For how long they are to stay up.
    pub steady: Duration,
}

impl Awaited {
    /// Whether nobody is waited for.
    pub fn is_empty(&self) -> bool {
        self.health.is_empty() && self.steadiness.is_empty()
    }
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |agents: &[AgentName]| agents.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ");
        let mut parts = Vec::new();
        if !self.health.is_empty() {
            parts.push(format!("for health: {}", named(&self.health)));
        }
        if !self.steadiness.is_empty() {
            let steady = humantime::format_duration(Duration::from_secs(self.steady.as_secs()));
            parts.push(format!("until it has stayed up for {steady}: {}", named(&self.steadiness)));
        }
        write!(f, "waiting {}", parts.join("; "))
    }
}

/// Hears of each step as it happens. What is drawn on a terminal is drawn from this.
pub trait Reporter: Send + Sync {
    /// A step begins; `progress` follows its bytes, where it moves any.
    fn started(&self, step: &Step, progress: &Arc<Progress>);
    /// A step ended.
    fn finished(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration);
    /// Nothing is left to do but to wait for these agents. Of none: the wait is over.
    fn awaiting(&self, agents: &Awaited);
    /// Something else changed. Only `run` reports events.
    fn on_event(&self, _event: &super::run::Event) {}
}

/// A reporter that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn started(&self, _: &Step, _: &Arc<Progress>) {}
    fn finished(&self, _: &Step, _: Result<&Done, &ActError>, _: Duration) {}
    fn awaiting(&self, _: &Awaited) {}
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
