//! What can be done, why, and what the rest waits for. Each says itself in one sentence.

use std::fmt;
use std::time::SystemTime;

use super::ActionKind;
use crate::model::wanted::ManifestCause;
use crate::model::{
    AgentName, Artifact, ArtifactKey, Boot, ContainerId, ContainerName, ContainerSpec, Create, FailureKind,
    FieldChange, Forward, ImageId, ImageRef, InstanceName, Location, Manifest, ManifestSource, Ownership, Phase,
    PortRange, VmMake, VmPhase, Whose,
};

/// One idempotent step. It carries all it needs; execution makes no choices.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write the published manifest into the cache, now that its artifacts are there.
    SyncManifest {
        /// What to write.
        manifest: Box<Manifest>,
        /// Where it is published, and who must have signed it.
        from: Option<ManifestSource>,
    },
    /// Bring an artifact into the cache.
    FetchArtifact {
        /// What.
        artifact: Artifact,
        /// Where it is published.
        from: Location,
        /// How many of its bytes will travel: those that are not here, in another artifact or from an earlier try.
        transfer: u64,
    },
    /// Make the virtual machine.
    CreateVm {
        /// What to make.
        make: Box<VmMake>,
    },
    /// Bring the virtual machine (back) to life.
    StartVm {
        /// What it should be: what a stopped machine's settings can be brought to is.
        make: Box<VmMake>,
        /// How.
        how: Boot,
    },
    /// Delete the virtual machine with all that is in it, and recreate it.
    RecreateVm {
        /// What to make.
        make: Box<VmMake>,
    },
    /// Take over a virtual machine that somebody else made.
    AdoptVm {
        /// Which.
        instance: InstanceName,
        /// Whose it is from now on.
        owner: Ownership,
    },
    /// Stop the virtual machine. Never planned: only a person asks for it.
    StopVm {
        /// Which.
        instance: InstanceName,
        /// Do not wait for it to stop by itself.
        force: bool,
    },
    /// Stop the virtual machine and delete it with all that is in it.
    DeleteVm {
        /// Which.
        instance: InstanceName,
    },
    /// Lead further ports of this host into the virtual machine.
    ForwardPorts {
        /// Which machine.
        instance: InstanceName,
        /// Which ports.
        ports: Vec<Forward>,
    },
    /// Load an artifact into the engine, and see that the image carries its name.
    LoadImage {
        /// The tarball.
        artifact: Artifact,
        /// The name the image must have.
        reference: ImageRef,
        /// The image is in the engine already and lacks only the name.
        tag: Option<ImageId>,
        /// The image that has the name now, where that is ours to move on. From any other it is not taken.
        supersedes: Option<ImageId>,
        /// The image that has the name now and keeps it, since another state file gave it.
        leaves: Option<ImageId>,
    },
    /// Pull an image from its registry.
    PullImage {
        /// Which.
        reference: ImageRef,
    },
    /// Create a container where there is none.
    CreateContainer {
        /// What to create.
        create: Create,
        /// Whether it is to run.
        start: bool,
    },
    /// Bring a container that exists (back) to life.
    StartContainer {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: ContainerName,
        /// How.
        how: StartMode,
        /// What ran before it, kept by an interrupted replacement: it comes back should this one not stay up or not
        /// become healthy, and is dropped once it does.
        previous: Option<ContainerId>,
        /// What it was made from.
        spec: Box<ContainerSpec>,
        /// When it was last started.
        last_start: Option<SystemTime>,
        /// For one that was never started: what it is made from anew should it turn out that it never can be.
        remake: Option<Box<Create>>,
    },
    /// Stop a container and keep it.
    StopContainer {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: ContainerName,
    },
    /// Put a successor in a container's place, in the order that never leaves nothing.
    ReplaceContainer {
        /// The successor, under its final name.
        create: Create,
        /// Whether it is to run.
        start: bool,
        /// What it takes the place of.
        old: ContainerId,
        /// The name that one has now.
        old_name: ContainerName,
        /// Whether that one runs now.
        old_runs: bool,
        /// The ports that one publishes, and releases.
        old_ports: Vec<PortRange>,
        /// The successor, where an interrupted replacement has made it already.
        successor: Option<ContainerId>,
        /// What the successor is called until it takes the name.
        next: ContainerName,
        /// What the predecessor is called until it is dropped.
        aside: ContainerName,
    },
    /// Give a container its name. It goes on running.
    RenameContainer {
        /// Which.
        id: ContainerId,
        /// The name it has now.
        from: ContainerName,
        /// The name it gets.
        name: ContainerName,
    },
    /// Stop and remove a container.
    RemoveContainer {
        /// Which.
        id: ContainerId,
        /// Its name.
        name: ContainerName,
    },
    /// Remove an artifact that nothing needs any more.
    PruneArtifact {
        /// Which.
        key: ArtifactKey,
        /// Its length in bytes.
        bytes: u64,
    },
    /// Remove an image that was loaded, and that nothing needs any more.
    PruneImage {
        /// Which.
        image: ImageId,
        /// The name it was loaded for.
        reference: ImageRef,
        /// Whether it has that name still.
        tagged: bool,
        /// Its length in bytes.
        bytes: u64,
    },
}

/// How a container is brought to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// It does not run: it is started.
    Start,
    /// It is frozen: it is unfrozen.
    Unpause,
    /// It runs and is unhealthy: checked once more, and stopped and started unless it has recovered.
    Restart,
}

impl Action {
    /// What kind of step it is.
    pub fn kind(&self) -> ActionKind {
        match self {
            Action::SyncManifest { .. } => ActionKind::SyncManifest,
            Action::FetchArtifact { .. } => ActionKind::FetchArtifact,
            Action::CreateVm { .. } => ActionKind::CreateVm,
            Action::StartVm { .. } => ActionKind::StartVm,
            Action::RecreateVm { .. } => ActionKind::RecreateVm,
            Action::AdoptVm { .. } => ActionKind::AdoptVm,
            Action::StopVm { .. } => ActionKind::StopVm,
            Action::DeleteVm { .. } => ActionKind::DeleteVm,
            Action::ForwardPorts { .. } => ActionKind::ForwardPorts,
            Action::LoadImage { .. } => ActionKind::LoadImage,
            Action::PullImage { .. } => ActionKind::PullImage,
            Action::CreateContainer { .. } => ActionKind::CreateContainer,
            Action::StartContainer { .. } => ActionKind::StartContainer,
            Action::StopContainer { .. } => ActionKind::StopContainer,
            Action::ReplaceContainer { .. } => ActionKind::ReplaceContainer,
            Action::RenameContainer { .. } => ActionKind::RenameContainer,
            Action::RemoveContainer { .. } => ActionKind::RemoveContainer,
            Action::PruneArtifact { .. } => ActionKind::PruneArtifact,
            Action::PruneImage { .. } => ActionKind::PruneImage,
        }
    }

    /// What it acts on: a key, an image reference, a container name, an instance, or ports.
    pub fn target(&self) -> String {
        match self {
            Action::SyncManifest { .. } => "vm/manifest.json".to_owned(),
            Action::FetchArtifact { artifact, .. } => artifact.key.to_string(),
            Action::PruneArtifact { key, .. } => key.to_string(),
            Action::CreateVm { make } | Action::StartVm { make, .. } | Action::RecreateVm { make } => {
                make.spec.instance.to_string()
            }
            Action::AdoptVm { instance, .. } | Action::StopVm { instance, .. } | Action::DeleteVm { instance } => {
                instance.to_string()
            }
            Action::ForwardPorts { ports, .. } => ports.iter().map(Forward::to_string).collect::<Vec<_>>().join(", "),
            Action::LoadImage { reference, .. }
            | Action::PullImage { reference }
            | Action::PruneImage { reference, tagged: true, .. } => reference.to_string(),
            Action::PruneImage { image, .. } => image.short().to_owned(),
            Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } => create.name.to_string(),
            Action::StartContainer { name, .. }
            | Action::StopContainer { name, .. }
            | Action::RenameContainer { name, .. }
            | Action::RemoveContainer { name, .. } => name.to_string(),
        }
    }

    /// What it moves, or frees.
    pub fn moved(&self) -> Option<Moved> {
        let bytes = self.bytes()?;
        Some(Moved { bytes, transfer: self.transfer().filter(|transfer| *transfer < bytes) })
    }

    /// Bytes that will travel for it.
    pub fn transfer(&self) -> Option<u64> {
        match self {
            Action::FetchArtifact { transfer, .. } => Some(*transfer),
            _ => None,
        }
    }

    /// Bytes of what is fetched by it, or that become free.
    pub fn bytes(&self) -> Option<u64> {
        match self {
            Action::FetchArtifact { artifact, .. } => Some(artifact.size_bytes),
            Action::PruneArtifact { bytes, .. } | Action::PruneImage { bytes, .. } => Some(*bytes),
            _ => None,
        }
    }
}

/// What an action moves, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Of all of it.
    pub bytes: u64,
    /// Those that will travel, where that is less.
    pub transfer: Option<u64>,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self {
            Action::LoadImage { tag: Some(_), .. } => "tag image",
            Action::StartVm { how: Boot::Restart, .. } => "restart VM",
            Action::StartContainer { how: StartMode::Unpause, .. } => "unpause container",
            Action::StartContainer { how: StartMode::Restart, .. } => "restart container",
            _ => self.kind().verb(),
        };
        write!(f, "{verb} `{}`", self.target())
    }
}

/// Why a step is planned. A fact about what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The artifact is not in the cache.
    NotCached,
    /// Its file has other bytes than the manifest promises.
    WrongBytes,
    /// The cache has no manifest yet.
    ManifestMissing,
    /// The published manifest is another one.
    ManifestChanged,
    /// There is no such virtual machine.
    VmMissing,
    /// The virtual machine does not run, or only half of it does.
    VmDown(VmPhase),
    /// The virtual machine runs, and Podman in it has answered in no way for as long as it may.
    VmSilent,
    /// The virtual machine was made from another template.
    TemplateChanged,
    /// A published port does not lead into the virtual machine.
    NotForwarded,
    /// The engine has no image of this name.
    ImageMissing,
    /// The image is there, and nothing has its name.
    ImageUntagged,
    /// It is not known which image the tarball holds.
    ImageUnknown,
    /// There is no such container.
    ContainerMissing,
    /// It could not be looked at.
    NotSeen,
    /// It should run and does not.
    NotRunning(Phase),
    /// Its health check failed as often as its retries allow.
    Unhealthy,
    /// It ends again and again, and Podman restarts it each time: it rests until it may be tried again.
    CrashLoop,
    /// It runs and should not.
    WantedStopped,
    /// These fields differ.
    Changed(Vec<FieldChange>),
    /// Its spec label cannot be read.
    SpecUnreadable,
    /// It belongs to nobody, and was given to us.
    Adopted,
    /// The agent is gone from the state file.
    Orphaned,
    /// The agent is to be absent.
    WantedAbsent,
    /// A replacement that did not finish left it.
    Leftover,
    /// A replacement that did not finish has not proved it yet.
    Unproved,
    /// Somebody is replacing it right now.
    BeingReplaced,
    /// It has another name than it should.
    Misnamed {
        /// The name it has.
        from: ContainerName,
    },
    /// It has the name that another agent takes over, which has the one that this agent takes.
    NameSwap {
        /// The name it has.
        from: ContainerName,
    },
    /// What it was to replace is as wanted again.
    TakenBack,
    /// It holds a host port that another agent takes over, which gives up one that this agent takes.
    PortSwap,
    /// The state file is being taken down.
    TakenDown,
    /// Somebody asked for it.
    Asked,
    /// Newer versions are in use and as many older ones kept as the state file says.
    Superseded,
}

impl Reason {
    /// The differing fields, where that is the reason.
    pub fn changes(&self) -> &[FieldChange] {
        match self {
            Reason::Changed(changes) => changes,
            _ => &[],
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Reason::NotCached => "not in the cache",
            Reason::WrongBytes => "the cached file has other bytes than the manifest promises",
            Reason::ManifestMissing => "the cache has no manifest",
            Reason::ManifestChanged => "the published manifest changed",
            Reason::VmMissing => "there is no such VM",
            Reason::VmDown(phase) => return write!(f, "it {phase}"),
            Reason::VmSilent => "it runs, and Podman in it does not answer",
            Reason::TemplateChanged => "its template changed",
            Reason::NotForwarded => "the port is not forwarded into the VM yet",
            Reason::ImageMissing => "the image is not there",
            Reason::ImageUntagged => "the image has lost its tag",
            Reason::ImageUnknown => "it is not known yet which image the tarball holds",
            Reason::ContainerMissing => "it does not exist",
            Reason::NotSeen => "it cannot be observed",
            Reason::NotRunning(phase) => return write!(f, "it {phase}"),
            Reason::Unhealthy => "it is unhealthy",
            Reason::CrashLoop => "it is in a crash loop, and backs off",
            Reason::WantedStopped => "its desired state is stopped",
            Reason::Changed(changes) => {
                for (at, change) in changes.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", change.field)?;
                }
                return f.write_str(" changed");
            }
            Reason::SpecUnreadable => "its spec label cannot be read",
            Reason::Adopted => "it is adopted from its owner",
            Reason::Orphaned => "its agent is not in the state file any more",
            Reason::WantedAbsent => "its desired state is absent",
            Reason::Leftover => "an interrupted replacement left it",
            Reason::Unproved => "an interrupted replacement has not verified it yet",
            Reason::BeingReplaced => "it is being replaced",
            Reason::Misnamed { from } => return write!(f, "it is named `{from}`"),
            Reason::NameSwap { from } => return write!(f, "another agent takes over its name `{from}`"),
            Reason::TakenBack => "what it was to replace is as desired again",
            Reason::PortSwap => "another agent takes over its host port",
            Reason::Asked => "as asked",
            Reason::TakenDown => "the state file is taken down",
            Reason::Superseded => "newer versions are in use",
        };
        f.write_str(text)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Created => f.write_str("was never started"),
            Phase::Running => f.write_str("is running"),
            Phase::Paused => f.write_str("is paused"),
            Phase::Stopping => f.write_str("is stopping"),
            Phase::Exited { code } => write!(f, "exited with code {code}"),
            Phase::Removing => f.write_str("is being removed"),
            Phase::Other(word) => write!(f, "is `{word}`"),
        }
    }
}

/// A step that can be taken now, whatever becomes of the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// For which agent.
    pub agent: Option<AgentName>,
    /// What is done.
    pub action: Action,
    /// Why.
    pub reason: Reason,
}

/// A step that is wanted and cannot be taken yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// For which agent.
    pub agent: Option<AgentName>,
    /// Kind of the step, as [`Action::kind`].
    pub kind: ActionKind,
    /// Its target, as [`Action::target`].
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
    /// The virtual machine, which does not run, and which nobody starts for the sake of this.
    Down {
        /// Which.
        instance: InstanceName,
        /// How it is.
        phase: VmPhase,
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
            WaitingOn::Precondition { .. } => "precondition",
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
            | WaitingOn::UnderWay { .. } => FailureKind::Conflict,
            WaitingOn::Vm { .. } | WaitingOn::Made { .. } | WaitingOn::Answer { .. } | WaitingOn::ForeignVm { .. } => {
                FailureKind::Vm
            }
            WaitingOn::Precondition { kind, .. } => *kind,
            WaitingOn::Artifact { .. }
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
            | WaitingOn::Down { .. }
            | WaitingOn::Sight { .. } => true,
            WaitingOn::Artifact { .. }
            | WaitingOn::Image { .. }
            | WaitingOn::Removal { .. }
            | WaitingOn::UnderWay { .. }
            | WaitingOn::Vm { .. }
            | WaitingOn::Made { .. }
            | WaitingOn::Answer { .. }
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
            WaitingOn::Precondition { why, .. } => f.write_str(why),
            WaitingOn::Down { instance, phase } => {
                write!(f, "unknown until it can be observed: VM `{instance}` {phase}")
            }
            WaitingOn::Sight { why } => write!(f, "unknown until it can be observed: {why}"),
        }
    }
}
