//! What `run` tells while it runs. Each thing once, when it comes and when it goes.

use std::fmt;

use serde_json::json;

use crate::model::{AgentName, Reach, Rung};
use crate::reconcile::journal::Journal;

/// Something that changed, beside the steps that are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// Everything is as the state file says.
    Converged {
        /// How many agents.
        agents: usize,
    },
    /// An agent is not as wanted, and no step helps for now.
    Trouble {
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
        before: Option<Rung>,
    },
    /// The state file changed, and is gone by from now on.
    FileAccepted,
    /// The state file can be used again.
    FileMended,
    /// The state file changed and cannot be used; the last good state goes on.
    FileRejected {
        /// Everything that is wrong with it.
        why: String,
    },
    /// The published manifest is not trusted. The last good one goes on, where there is one.
    ManifestRefused {
        /// Why.
        why: String,
        /// It was had and judged, so that something of it could have been used.
        was_had: bool,
    },
    /// The published manifest is trusted again.
    ManifestTrusted,
    /// The machine slept, or its clock was set.
    Slept,
}

impl News {
    /// The fixed word for it, as in the journal.
    pub fn word(&self) -> &'static str {
        match self {
            News::Converged { .. } => "converged",
            News::Trouble { .. } => "trouble",
            News::Recovered { .. } => "recovered",
            News::PodmanLost { .. } => "podmanLost",
            News::PodmanBack => "podmanBack",
            News::VmReached { .. } => "vmReached",
            News::FileAccepted | News::FileMended => "stateFileAccepted",
            News::FileRejected { .. } => "stateFileRejected",
            News::ManifestRefused { .. } => "manifestRefused",
            News::ManifestTrusted => "manifestTrusted",
            News::Slept => "slept",
        }
    }

    /// Writes it down.
    pub(in crate::reconcile) fn write(&self, journal: &Journal) {
        let fields = match self {
            News::Converged { agents } => json!({ "agents": agents }),
            News::Trouble { agent, why, cause } if cause == why => json!({ "agent": agent, "message": why }),
            News::Trouble { agent, why, cause } => json!({ "agent": agent, "message": why, "cause": cause }),
            News::Recovered { agent } => json!({ "agent": agent }),
            News::PodmanLost { why } | News::FileRejected { why } | News::ManifestRefused { why, .. } => {
                json!({ "message": why })
            }
            News::VmReached { now, before } => {
                let word = |rung: Option<Rung>| rung.map(Rung::word);
                json!({ "rung": word(now.rung), "before": word(*before), "tries": now.tries() })
            }
            News::PodmanBack | News::FileAccepted | News::FileMended | News::ManifestTrusted | News::Slept => json!({}),
        };
        journal.note(self.word(), fields);
    }

    /// Whether it goes to the journal alone: that the virtual machine is unreachable is told as what it means for Podman.
    pub(super) fn is_for_the_journal_alone(&self) -> bool {
        matches!(self, News::VmReached { now: Reach { rung: None, .. }, .. })
    }

    /// Whether it is bad.
    pub fn is_bad(&self) -> bool {
        match self {
            News::Trouble { .. }
            | News::PodmanLost { .. }
            | News::FileRejected { .. }
            | News::ManifestRefused { .. } => true,
            News::Converged { .. }
            | News::Recovered { .. }
            | News::PodmanBack
            | News::VmReached { .. }
            | News::FileAccepted
            | News::FileMended
            | News::ManifestTrusted
            | News::Slept => false,
        }
    }
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            News::Converged { agents: 1 } => f.write_str("converged: 1 agent is as the state file says"),
            News::Converged { agents } => write!(f, "converged: {agents} agents are as the state file says"),
            News::Trouble { agent: Some(agent), why, .. } => write!(f, "agent `{agent}`: {why}"),
            News::Trouble { agent: None, why, .. } => f.write_str(why),
            News::Recovered { agent: Some(agent) } => write!(f, "agent `{agent}`: recovered"),
            News::Recovered { agent: None } => f.write_str("recovered"),
            News::PodmanLost { why } => write!(f, "Podman cannot be reached: {why}"),
            News::PodmanBack => f.write_str("Podman can be reached again"),
            News::VmReached { now: Reach { rung: Some(Rung::Ssh), .. }, .. } => {
                f.write_str("Podman in the VM is reached by an ssh of our own, not by Lima's forward")
            }
            News::VmReached { now: Reach { rung: Some(Rung::Shell), .. }, .. } => {
                f.write_str("Podman in the VM is reached by `limactl shell`")
            }
            News::VmReached { now: Reach { rung: Some(_), .. }, .. } => {
                f.write_str("Podman in the VM is reached through the socket that Lima forwards")
            }
            News::VmReached { .. } => f.write_str("Podman in the VM is unreachable"),
            News::FileMended => f.write_str("the state file can be used again"),
            News::FileAccepted => f.write_str("the state file changed"),
            News::FileRejected { why } => {
                write!(f, "the state file cannot be used; the last good state goes on:\n{}", why.trim_end())
            }
            News::ManifestRefused { why, was_had: true } => write!(f, "{why}; nothing of it is used"),
            News::ManifestRefused { why, was_had: false } => f.write_str(why),
            News::ManifestTrusted => f.write_str("the published manifest is trusted again"),
            News::Slept => f.write_str("the machine slept, or its clock was set: looking at everything anew"),
        }
    }
}
