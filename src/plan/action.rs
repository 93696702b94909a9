//! What can be done, why, and what the rest waits for. Each says itself in one sentence.

mod reason;
mod waiting;

pub use reason::Reason;
use std::fmt;
use std::time::SystemTime;
pub(crate) use waiting::name_taken;
pub use waiting::{Waiting, WaitingOn};

use super::ActionKind;
use crate::backend::{InAgent, SessionStart};
use crate::model::{
    AgentName, Artifact, ArtifactKey, Boot, ContainerId, ContainerName, ContainerSpec, Create, Forward, ImageId,
    ImageRef, InstanceName, Location, MakeNetwork, MakeVolume, Manifest, ManifestSource, Ownership, PortRange, Rollout,
    SessionName, VmMake, WorkspaceName, WorkspaceSpec,
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
    /// Make a network that agents are on.
    CreateNetwork {
        /// What to make.
        make: Box<MakeNetwork>,
    },
    /// Make a volume that agents mount.
    CreateVolume {
        /// What to make.
        make: Box<MakeVolume>,
    },
    /// Remove a network. Never planned: only a person asks for it.
    RemoveNetwork {
        /// Its name in the engine.
        name: String,
    },
    /// Remove a volume with what is in it. Never planned: only a person asks for it.
    RemoveVolume {
        /// Its name in the engine.
        name: String,
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
        /// What it has to show before its predecessor goes.
        rollout: Rollout,
        /// For one with a predecessor: what it is made from, and what is remembered should it fail.
        tried: Option<Box<Create>>,
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
        /// In which order, and what the successor has to show.
        rollout: Rollout,
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
    /// Bring a workspace into an agent, or what of it is new. What the guest changed is kept.
    PrepareWorkspace {
        /// Into which agent.
        at: InAgent,
        /// Its name.
        name: WorkspaceName,
        /// What it is to be.
        spec: Box<WorkspaceSpec>,
    },
    /// Start a session in an agent, in the place of what is there under its name.
    StartSession {
        /// In which agent.
        at: InAgent,
        /// What to start.
        start: Box<SessionStart>,
    },
    /// Stop a session, and remove what is left of it.
    StopSession {
        /// In which agent.
        at: InAgent,
        /// Its name.
        name: SessionName,
        /// Of this one start of it.
        id: String,
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
            Action::CreateNetwork { .. } => ActionKind::CreateNetwork,
            Action::CreateVolume { .. } => ActionKind::CreateVolume,
            Action::RemoveNetwork { .. } => ActionKind::RemoveNetwork,
            Action::RemoveVolume { .. } => ActionKind::RemoveVolume,
            Action::CreateContainer { .. } => ActionKind::CreateContainer,
            Action::StartContainer { .. } => ActionKind::StartContainer,
            Action::StopContainer { .. } => ActionKind::StopContainer,
            Action::ReplaceContainer { .. } => ActionKind::ReplaceContainer,
            Action::RenameContainer { .. } => ActionKind::RenameContainer,
            Action::RemoveContainer { .. } => ActionKind::RemoveContainer,
            Action::PrepareWorkspace { .. } => ActionKind::PrepareWorkspace,
            Action::StartSession { .. } => ActionKind::StartSession,
            Action::StopSession { .. } => ActionKind::StopSession,
            Action::PruneArtifact { .. } => ActionKind::PruneArtifact,
            Action::PruneImage { .. } => ActionKind::PruneImage,
        }
    }

    /// What it acts on: a key, an image reference, a container name, an instance, ports, or `AGENT/NAME`.
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
            Action::CreateNetwork { make } => make.name.clone(),
            Action::CreateVolume { make } => make.name.clone(),
            Action::RemoveNetwork { name } | Action::RemoveVolume { name } => name.clone(),
            Action::CreateContainer { create, .. } | Action::ReplaceContainer { create, .. } => create.name.to_string(),
            Action::StartContainer { name, .. }
            | Action::StopContainer { name, .. }
            | Action::RenameContainer { name, .. }
            | Action::RemoveContainer { name, .. } => name.to_string(),
            Action::PrepareWorkspace { at, name, .. } => format!("{}/{name}", at.agent),
            Action::StartSession { at, start } => format!("{}/{}", at.agent, start.name),
            Action::StopSession { at, name, .. } => format!("{}/{name}", at.agent),
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
            Action::StartSession { start, .. } if start.replaces.is_some() => "restart session",
            _ => self.kind().verb(),
        };
        write!(f, "{verb} `{}`", self.target())
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
