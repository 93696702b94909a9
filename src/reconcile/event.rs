//! What `run` tells while it runs. Each thing once, when it comes and when it goes.

use std::fmt;
use std::time::Duration;

use serde_json::json;

use crate::model::{AgentName, Reach, Route};
use crate::reconcile::journal::Journal;

/// Something that changed, beside the steps that are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Everything is as the state file says.
    Converged {
        /// How many agents.
        agents: usize,
    },
    /// An agent is not as wanted, and no step helps for now.
    Problem {
        /// Which; `None` when it is none in particular.
        agent: Option<AgentName>,
        /// Why, and what becomes of it.
        why: String,
        /// Why, alone: as the step that failed told it.
        cause: String,
    },
    /// What was in an agent's way is gone.
    Recovered {
        /// Which.
        agent: Option<AgentName>,
    },
    /// Podman cannot be reached.
    PodmanLost {
        /// Why.
        why: String,
    },
    /// Podman can be reached again.
    PodmanBack,
    /// Podman in the virtual machine is reached another way, or in none any more.
    VmReached {
        /// How it is now.
        now: Reach,
        /// The way before.
        before: Option<Route>,
    },
    /// The state file changed, and is gone by from now on.
    FileAccepted,
    /// The state file can be used again.
    FileRestored,
    /// The state file changed and cannot be used; the last good state goes on.
    FileRejected {
        /// Everything that is wrong with it.
        why: String,
    },
    /// The published manifest is not trusted. The last good one goes on, where there is one.
    ManifestRefused {
        /// Why.
        why: String,
        /// It was fetched and judged, so that something of it could have been used.
        was_fetched: bool,
    },
    /// The published manifest is trusted again.
    ManifestTrusted,
    /// A session has neither printed nor been sent anything for long, and its state file wants that to be told.
    SessionIdle {
        /// Of which agent.
        agent: AgentName,
        /// Which, as `AGENT/NAME`.
        session: String,
        /// For how long, at the least.
        after: Duration,
    },
    /// A successor failed by what it is made of, and is not tried again until something else is wanted.
    Quarantined {
        /// Of which agent.
        agent: AgentName,
        /// The image it was made from.
        image: String,
        /// Why it failed.
        why: String,
    },
    /// The machine slept, or its clock was set.
    Slept,
}

impl Event {
    /// The fixed word for it, as in the journal.
    pub fn word(&self) -> &'static str {
        match self {
            Event::Converged { .. } => "converged",
            Event::Problem { .. } => "trouble",
            Event::Recovered { .. } => "recovered",
            Event::PodmanLost { .. } => "podmanLost",
            Event::PodmanBack => "podmanBack",
            Event::VmReached { .. } => "vmReached",
            Event::FileAccepted | Event::FileRestored => "stateFileAccepted",
            Event::FileRejected { .. } => "stateFileRejected",
            Event::ManifestRefused { .. } => "manifestRefused",
            Event::ManifestTrusted => "manifestTrusted",
            Event::SessionIdle { .. } => "sessionIdle",
            Event::Quarantined { .. } => "quarantined",
            Event::Slept => "slept",
        }
    }

    /// Writes it down.
    pub(in crate::reconcile) fn write(&self, journal: &Journal) {
        let fields = match self {
            Event::Converged { agents } => json!({ "agents": agents }),
            Event::Problem { agent, why, cause } if cause == why => json!({ "agent": agent, "message": why }),
            Event::Problem { agent, why, cause } => json!({ "agent": agent, "message": why, "cause": cause }),
            Event::Recovered { agent } => json!({ "agent": agent }),
            Event::Quarantined { agent, image, why } => json!({ "agent": agent, "image": image, "message": why }),
            Event::SessionIdle { agent, session, after } => {
                json!({ "agent": agent, "session": session, "afterMs": u64::try_from(after.as_millis()).unwrap_or(u64::MAX) })
            }
            Event::PodmanLost { why } | Event::FileRejected { why } | Event::ManifestRefused { why, .. } => {
                json!({ "message": why })
            }
            Event::VmReached { now, before } => {
                let word = |route: Option<Route>| route.map(Route::word);
                json!({ "rung": word(now.route), "before": word(*before), "tries": now.tries() })
            }
            Event::PodmanBack | Event::FileAccepted | Event::FileRestored | Event::ManifestTrusted | Event::Slept => {
                json!({})
            }
        };
        journal.note(self.word(), fields);
    }

    /// Whether it goes to the journal alone: that the virtual machine is unreachable is told as what it means for Podman.
    pub(super) fn is_for_the_journal_alone(&self) -> bool {
        matches!(self, Event::VmReached { now: Reach { route: None, .. }, .. })
    }

    /// Whether it is bad.
    pub fn is_bad(&self) -> bool {
        match self {
            Event::Problem { .. }
            | Event::PodmanLost { .. }
            | Event::FileRejected { .. }
            | Event::Quarantined { .. }
            | Event::ManifestRefused { .. } => true,
            Event::Converged { .. }
            | Event::Recovered { .. }
            | Event::PodmanBack
            | Event::VmReached { .. }
            | Event::FileAccepted
            | Event::FileRestored
            | Event::ManifestTrusted
            | Event::SessionIdle { .. }
            | Event::Slept => false,
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Converged { agents: 1 } => f.write_str("converged: 1 agent is as the state file says"),
            Event::Converged { agents } => write!(f, "converged: {agents} agents are as the state file says"),
            Event::Problem { agent: Some(agent), why, .. } => write!(f, "agent `{agent}`: {why}"),
            Event::Problem { agent: None, why, .. } => f.write_str(why),
            Event::Recovered { agent: Some(agent) } => write!(f, "agent `{agent}`: recovered"),
            Event::Recovered { agent: None } => f.write_str("recovered"),
            Event::PodmanLost { why } => write!(f, "Podman cannot be reached: {why}"),
            Event::PodmanBack => f.write_str("Podman can be reached again"),
            Event::VmReached { now: Reach { route: Some(Route::Ssh), .. }, .. } => {
                f.write_str("Podman in the VM is reached by an ssh of our own, not by Lima's forward")
            }
            Event::VmReached { now: Reach { route: Some(Route::Shell), .. }, .. } => {
                f.write_str("Podman in the VM is reached by `limactl shell`")
            }
            Event::VmReached { now: Reach { route: Some(_), .. }, .. } => {
                f.write_str("Podman in the VM is reached through the socket that Lima forwards")
            }
            Event::VmReached { .. } => f.write_str("Podman in the VM is unreachable"),
            Event::FileRestored => f.write_str("the state file can be used again"),
            Event::FileAccepted => f.write_str("the state file changed"),
            Event::FileRejected { why } => {
                write!(f, "the state file cannot be used; the last good state goes on:\n{}", why.trim_end())
            }
            Event::ManifestRefused { why, was_fetched: true } => write!(f, "{why}; nothing of it is used"),
            Event::ManifestRefused { why, was_fetched: false } => f.write_str(why),
            Event::ManifestTrusted => f.write_str("the published manifest is trusted again"),
            Event::SessionIdle { session, after, .. } => {
                let after = humantime::format_duration(*after);
                write!(f, "session `{session}` is idle: nothing was printed or sent for {after}")
            }
            Event::Quarantined { agent, image, .. } => {
                write!(f, "agent `{agent}`: `{image}` is quarantined: not tried again until something else is desired")
            }
            Event::Slept => f.write_str("the machine slept, or its clock was set: observing everything again"),
        }
    }
}
