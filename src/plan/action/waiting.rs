//! What is wanted and not done yet, and what it waits on.

use std::fmt;

use super::Reason;
use crate::model::wanted::ManifestCause;
use crate::model::{
    AgentName, ArtifactKey, ContainerName, FailureKind, ImageId, ImageRef, InstanceName, Phase, VmPhase, Whose,
    WorkspaceName,
};
use crate::plan::ActionKind;

/// A step that is wanted and cannot be taken yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// For which agent.
    pub agent: Option<AgentName>,
    /// Kind of the step, as [`super::Action::kind`].
    pub kind: ActionKind,
    /// Its target, as [`super::Action::target`].
    pub target: String,
    /// Why it is wanted.
    pub reason: Reason,
    /// What it waits for.
    pub on: WaitingOn,
}

impl Waiting {
    /// Whether it stands for something that cannot be seen, rather than for a step that is known.
    pub fn hides(&self) -> bool {
        match self.on {
            WaitingOn::Sight { .. } | WaitingOn::Down { .. } => true,
            WaitingOn::Vm { .. } => self.kind.is_container(),
            _ => false,
        }
    }
}

/// What a step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaitingOn {
    /// A manifest that offers what is wanted.
    Manifest {
        /// Why there is none.
        cause: ManifestCause,
    },
    /// An artifact that another step fetches.
    Artifact {
        /// Which.
        key: ArtifactKey,
    },
    /// An image that another step brings.
    Image {
        /// Which.
        reference: ImageRef,
    },
    /// An image that nobody brings: `source: local`, and it is not there.
    LocalImage {
        /// Which.
        reference: ImageRef,
    },
    /// A name that somebody gave to another image than the one the manifest offers under it.
    ImageName {
        /// The name.
        reference: ImageRef,
        /// The image that has it.
        held_by: ImageId,
    },
    /// A container that another step removes or replaces.
    Removal {
        /// Its name.
        name: ContainerName,
    },
    /// A container of somebody else, or of another agent, that holds the name.
    Foreign {
        /// Its name.
        name: ContainerName,
        /// Whose it is; `None` for another agent's of ours.
        whose: Option<Whose>,
    },
    /// A container of another agent that holds the name and stays.
    OtherAgent {
        /// Its name.
        name: ContainerName,
        /// Whose it is; `None` where its label does not say.
        agent: Option<AgentName>,
        /// Whether that agent is in the state file.
        is_wanted: bool,
    },
    /// Podman finishing what it does to the container (stopping, removing).
    Transition {
        /// What was seen.
        phase: Phase,
    },
    /// The virtual machine, which another step brings up.
    Vm {
        /// Which.
        instance: InstanceName,
    },
    /// The virtual machine, which another step makes.
    Made {
        /// Which.
        instance: InstanceName,
    },
    /// The virtual machine, which runs, to boot and answer.
    Answer {
        /// Which.
        instance: InstanceName,
        /// Why nothing in it can be observed.
        why: String,
    },
    /// A virtual machine that somebody else made.
    ForeignVm {
        /// Which.
        instance: InstanceName,
        /// Whose it is, as the rest of a sentence about it.
        whose: String,
    },
    /// The end of a step that somebody has begun already.
    UnderWay {
        /// Who: `steadfast run` (pid 7, since …).
        by: String,
    },
    /// Something on this host that somebody has to change: a free port, a mount source.
    Precondition {
        /// What kind of error the step would end in.
        kind: FailureKind,
        /// That error.
        why: String,
    },
    /// Something else to be wanted: what is wanted failed before.
    Quarantine {
        /// The image that failed.
        image: String,
        /// When (RFC 3339).
        since: String,
        /// Of what.
        why: String,
    },
    /// The virtual machine, which does not run, and which nobody starts for the sake of this.
    Down {
        /// Which.
        instance: InstanceName,
        /// How it is.
        phase: VmPhase,
    },
    /// The agent in whose container it is to be.
    AgentReady {
        /// Which.
        agent: AgentName,
    },
    /// A network that another step makes.
    Network {
        /// Its name in the engine.
        name: String,
    },
    /// A volume that another step makes.
    Volume {
        /// Its name in the engine.
        name: String,
    },
    /// The workspace that it is to work in.
    Workspace {
        /// Of which agent.
        agent: AgentName,
        /// Its name.
        name: WorkspaceName,
    },
    /// A session of its name that somebody started by hand.
    AdHocSession {
        /// Which, as `AGENT/NAME`.
        session: String,
    },
    /// An observation that was not possible.
    Sight {
        /// Why.
        why: String,
    },
}

impl WaitingOn {
    /// The fixed word for it in JSON.
    pub fn word(&self) -> &'static str {
        match self {
            WaitingOn::Manifest { .. } => "manifest",
            WaitingOn::Artifact { .. } => "artifact",
            WaitingOn::Image { .. } | WaitingOn::LocalImage { .. } | WaitingOn::ImageName { .. } => "image",
            WaitingOn::Removal { .. }
            | WaitingOn::Foreign { .. }
            | WaitingOn::OtherAgent { .. }
            | WaitingOn::UnderWay { .. } => "removal",
            WaitingOn::Vm { .. } | WaitingOn::Made { .. } | WaitingOn::Answer { .. } | WaitingOn::ForeignVm { .. } => {
                "vm"
            }
            WaitingOn::AgentReady { .. } => "agent",
            WaitingOn::Network { .. } => "network",
            WaitingOn::Volume { .. } => "volume",
            WaitingOn::Workspace { .. } => "workspace",
            WaitingOn::AdHocSession { .. } => "session",
            WaitingOn::Precondition { .. } => "precondition",
            WaitingOn::Quarantine { .. } => "quarantine",
            WaitingOn::Transition { .. } | WaitingOn::Down { .. } | WaitingOn::Sight { .. } => "sight",
        }
    }

    /// What kind of failure it is that nothing ends the wait.
    pub fn failure(&self) -> FailureKind {
        match self {
            WaitingOn::Manifest { .. } => FailureKind::Manifest,
            WaitingOn::Image { .. } | WaitingOn::LocalImage { .. } => FailureKind::ImageMissing,
            WaitingOn::ImageName { .. }
            | WaitingOn::Removal { .. }
            | WaitingOn::Foreign { .. }
            | WaitingOn::OtherAgent { .. }
            | WaitingOn::AdHocSession { .. }
            | WaitingOn::UnderWay { .. } => FailureKind::Conflict,
            WaitingOn::Vm { .. } | WaitingOn::Made { .. } | WaitingOn::Answer { .. } | WaitingOn::ForeignVm { .. } => {
                FailureKind::Vm
            }
            WaitingOn::Precondition { kind, .. } => *kind,
            WaitingOn::Quarantine { .. } => FailureKind::Quarantined,
            WaitingOn::AgentReady { .. } => FailureKind::NotReady,
            WaitingOn::Workspace { .. } => FailureKind::Workspace,
            WaitingOn::Artifact { .. }
            | WaitingOn::Network { .. }
            | WaitingOn::Volume { .. }
            | WaitingOn::Transition { .. }
            | WaitingOn::Down { .. }
            | WaitingOn::Sight { .. } => FailureKind::Unknown,
        }
    }

    /// Whether no step of this plan, and no patience, will end the wait.
    pub fn is_blocked(&self) -> bool {
        match self {
            WaitingOn::Manifest { .. }
            | WaitingOn::LocalImage { .. }
            | WaitingOn::ImageName { .. }
            | WaitingOn::Foreign { .. }
            | WaitingOn::OtherAgent { .. }
            | WaitingOn::ForeignVm { .. }
            | WaitingOn::Precondition { .. }
            | WaitingOn::Quarantine { .. }
            | WaitingOn::AdHocSession { .. }
            | WaitingOn::Down { .. }
            | WaitingOn::Sight { .. } => true,
            WaitingOn::Artifact { .. }
            | WaitingOn::Image { .. }
            | WaitingOn::Removal { .. }
            | WaitingOn::UnderWay { .. }
            | WaitingOn::Vm { .. }
            | WaitingOn::Made { .. }
            | WaitingOn::Answer { .. }
            | WaitingOn::AgentReady { .. }
            | WaitingOn::Network { .. }
            | WaitingOn::Volume { .. }
            | WaitingOn::Workspace { .. }
            | WaitingOn::Transition { .. } => false,
        }
    }
}

/// Says that a name belongs to an image of somebody else.
pub(crate) fn name_taken(reference: &ImageRef, held_by: &ImageId) -> String {
    let id = held_by.short();
    format!("the tag `{reference}` points to a different image ({id}) than the manifest's, and somebody else set it")
}

impl fmt::Display for WaitingOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WaitingOn::Manifest { cause } => write!(f, "once a manifest offers it: {cause}"),
            WaitingOn::Artifact { key } => write!(f, "once `{key}` is fetched"),
            WaitingOn::Image { reference } => write!(f, "once image `{reference}` is there"),
            WaitingOn::LocalImage { reference } => {
                write!(f, "once somebody loads image `{reference}` (source: local)")
            }
            WaitingOn::ImageName { reference, held_by } => write!(f, "{}", name_taken(reference, held_by)),
            WaitingOn::Removal { name } => {
                write!(f, "once container `{name}` is removed, or releases its name or port")
            }
            WaitingOn::Foreign { name, whose } => {
                write!(f, "container `{name}` exists and {}", whose.as_ref().unwrap_or(&Whose::Somebody))
            }
            WaitingOn::OtherAgent { name, agent: Some(agent), is_wanted: true } => {
                write!(f, "container `{name}` belongs to agent `{agent}`, which is left as it is")
            }
            WaitingOn::OtherAgent { name, agent: Some(agent), is_wanted: false } => {
                write!(
                    f,
                    "container `{name}` belongs to agent `{agent}`, which is gone from the state file, and is kept"
                )
            }
            WaitingOn::OtherAgent { name, agent: None, .. } => {
                write!(f, "container `{name}` belongs to no agent of the state file, and is kept")
            }
            WaitingOn::Transition { phase } => write!(f, "once Podman is done: it {phase}"),
            WaitingOn::Vm { instance } => write!(f, "unknown until VM `{instance}` runs and answers"),
            WaitingOn::Made { instance } => write!(f, "once VM `{instance}` is made"),
            WaitingOn::Answer { instance, why } => write!(f, "once Podman in VM `{instance}` answers: {why}"),
            WaitingOn::ForeignVm { instance, whose } => write!(f, "VM `{instance}` exists and {whose}"),
            WaitingOn::UnderWay { by } => write!(f, "under way: {by} does it"),
            WaitingOn::Network { name } => write!(f, "once network `{name}` is there"),
            WaitingOn::Volume { name } => write!(f, "once volume `{name}` is there"),
            WaitingOn::AgentReady { agent } => write!(f, "once agent `{agent}` is ready"),
            WaitingOn::Workspace { agent, name } => write!(f, "once workspace `{agent}/{name}` is prepared"),
            WaitingOn::AdHocSession { session } => {
                write!(f, "session `{session}` was started by hand and runs")
            }
            WaitingOn::Precondition { why, .. } => f.write_str(why),
            WaitingOn::Quarantine { image, since, why } => {
                write!(f, "`{image}` is quarantined, since it failed at {since}: {why}")
            }
            WaitingOn::Down { instance, phase } => {
                write!(f, "unknown until it can be observed: VM `{instance}` {phase}")
            }
            WaitingOn::Sight { why } => write!(f, "unknown until it can be observed: {why}"),
        }
    }
}
