//! What tells steps apart, and which of them are never in flight together.

use std::fmt;

use super::{Step, Waiting};
use crate::model::AgentName;

words! {
    /// What kind of step it is. The words are those of the JSON.
    pub enum ActionKind {
        /// Write the published manifest into the cache.
        SyncManifest = "syncManifest",
        /// Fetch an artifact into the cache.
        FetchArtifact = "fetchArtifact",
        /// Create the virtual machine.
        CreateVm = "createVm",
        /// Start, restart or repair the virtual machine.
        StartVm = "startVm",
        /// Delete the virtual machine and create it anew.
        RecreateVm = "recreateVm",
        /// Take over a virtual machine that somebody else made.
        AdoptVm = "adoptVm",
        /// Stop the virtual machine.
        StopVm = "stopVm",
        /// Delete the virtual machine.
        DeleteVm = "deleteVm",
        /// Forward further ports into the virtual machine.
        ForwardPorts = "forwardPorts",
        /// Load an image from an artifact, or tag one that is loaded.
        LoadImage = "loadImage",
        /// Pull an image from its registry.
        PullImage = "pullImage",
        /// Make a network.
        CreateNetwork = "createNetwork",
        /// Make a volume.
        CreateVolume = "createVolume",
        /// Remove a network.
        RemoveNetwork = "removeNetwork",
        /// Remove a volume.
        RemoveVolume = "removeVolume",
        /// What nobody knows, since Podman cannot be observed. There is no such action; it only ever waits.
        ObserveContainer = "observeContainer",
        /// Create a container.
        CreateContainer = "createContainer",
        /// Start, unpause or restart a container.
        StartContainer = "startContainer",
        /// Stop a container.
        StopContainer = "stopContainer",
        /// Replace a container.
        ReplaceContainer = "replaceContainer",
        /// Rename a container.
        RenameContainer = "renameContainer",
        /// Remove a container.
        RemoveContainer = "removeContainer",
        /// Bring a workspace into an agent.
        PrepareWorkspace = "prepareWorkspace",
        /// Start a session.
        StartSession = "startSession",
        /// Stop a session.
        StopSession = "stopSession",
        /// Remove an artifact from the cache.
        PruneArtifact = "pruneArtifact",
        /// Remove an image from Podman.
        PruneImage = "pruneImage",
    }
}

impl ActionKind {
    /// The step in words, before its target.
    pub const fn verb(self) -> &'static str {
        match self {
            Self::SyncManifest => "write manifest",
            Self::FetchArtifact => "fetch",
            Self::CreateVm => "create VM",
            Self::StartVm => "start VM",
            Self::RecreateVm => "recreate VM",
            Self::AdoptVm => "take over VM",
            Self::StopVm => "stop VM",
            Self::DeleteVm => "delete VM",
            Self::ForwardPorts => "forward",
            Self::LoadImage => "load image",
            Self::PullImage => "pull image",
            Self::CreateNetwork => "create network",
            Self::CreateVolume => "create volume",
            Self::RemoveNetwork => "remove network",
            Self::RemoveVolume => "remove volume",
            Self::ObserveContainer => "observe container",
            Self::CreateContainer => "create container",
            Self::StartContainer => "start container",
            Self::StopContainer => "stop container",
            Self::ReplaceContainer => "replace container",
            Self::RenameContainer => "rename container to",
            Self::RemoveContainer => "remove container",
            Self::PrepareWorkspace => "prepare workspace",
            Self::StartSession => "start session",
            Self::StopSession => "stop session",
            Self::PruneArtifact => "prune artifact",
            Self::PruneImage => "prune image",
        }
    }

    /// Whether it is about a container.
    pub const fn is_container(self) -> bool {
        match self {
            Self::ObserveContainer
            | Self::CreateContainer
            | Self::StartContainer
            | Self::StopContainer
            | Self::ReplaceContainer
            | Self::RenameContainer
            | Self::RemoveContainer => true,
            Self::SyncManifest
            | Self::FetchArtifact
            | Self::LoadImage
            | Self::PullImage
            | Self::CreateNetwork
            | Self::CreateVolume
            | Self::RemoveNetwork
            | Self::RemoveVolume
            | Self::PrepareWorkspace
            | Self::StartSession
            | Self::StopSession
            | Self::PruneArtifact
            | Self::PruneImage => false,
            vm => !vm.is_vm(),
        }
    }

    /// Whether it is about something inside of a container.
    pub const fn is_inside(self) -> bool {
        matches!(self, Self::PrepareWorkspace | Self::StartSession | Self::StopSession)
    }

    /// Whether it is about the virtual machine.
    pub const fn is_vm(self) -> bool {
        matches!(
            self,
            Self::CreateVm
                | Self::StartVm
                | Self::RecreateVm
                | Self::AdoptVm
                | Self::StopVm
                | Self::DeleteVm
                | Self::ForwardPorts
        )
    }
}

/// What a step is remembered by: what is done about one container is one thing, whichever step it takes, and so for a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey {
    /// `None`: whatever is done about the container.
    kind: Option<ActionKind>,
    target: String,
}

impl StepKey {
    /// That of a step of this kind on this target.
    pub fn new(kind: ActionKind, target: impl Into<String>) -> Self {
        let kind = if kind == ActionKind::StopSession { ActionKind::StartSession } else { kind };
        Self { kind: (!kind.is_container()).then_some(kind), target: target.into() }
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.map_or("container", ActionKind::as_str), self.target)
    }
}

/// Steps in one lane are never in flight together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// All that is done about the containers of one agent: a replacement has three names under way, and nobody else may touch any
    /// of them meanwhile.
    Agent(AgentName),
    /// All that is done about the virtual machine.
    Vm,
    /// One step.
    Step(StepKey),
}

impl Lane {
    /// Whether what is in it fetches an artifact.
    pub fn is_fetch(&self) -> bool {
        matches!(self, Self::Step(StepKey { kind: Some(ActionKind::FetchArtifact), .. }))
    }
}

impl Step {
    /// What it is remembered by.
    pub fn key(&self) -> StepKey {
        StepKey::new(self.action.kind(), self.action.target())
    }

    /// Of one inside of a container, the lane of that container: while a step in that is in flight, none inside begins. The other
    /// way round nobody waits.
    pub fn container_lane(&self) -> Option<Lane> {
        let agent = self.agent.as_ref().filter(|_| self.action.kind().is_inside());
        agent.map(|agent| Lane::Agent(agent.clone()))
    }

    /// Its lane.
    pub fn lane(&self) -> Lane {
        match (&self.agent, self.action.kind()) {
            (Some(agent), kind) if kind.is_container() => Lane::Agent(agent.clone()),
            (_, kind) if kind.is_vm() => Lane::Vm,
            _ => Lane::Step(self.key()),
        }
    }
}

impl Waiting {
    /// What its step is remembered by.
    pub fn key(&self) -> StepKey {
        StepKey::new(self.kind, self.target.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ArtifactKey, ContainerName, InstanceName};
    use crate::plan::{Action, Reason, WaitingOn};

    fn step(agent: Option<&str>, action: Action) -> Step {
        Step { agent: agent.map(|agent| agent.parse().unwrap()), action, reason: Reason::Asked }
    }

    fn stop(name: &str) -> Action {
        Action::StopContainer { id: "1".parse().unwrap(), name: ContainerName::new(name).unwrap() }
    }

    fn remove(name: &str) -> Action {
        Action::RemoveContainer { id: "1".parse().unwrap(), name: ContainerName::new(name).unwrap() }
    }

    #[test]
    fn whatever_is_done_about_one_container_is_remembered_as_one_thing() {
        let stop_one = step(Some("a"), stop("demo-a"));
        assert_eq!(stop_one.key(), step(None, remove("demo-a")).key());
        assert_ne!(stop_one.key(), step(Some("a"), stop("demo-b")).key());
        let unseen = Waiting {
            agent: None,
            kind: ActionKind::ObserveContainer,
            target: "demo-a".to_owned(),
            reason: Reason::NotSeen,
            on: WaitingOn::Sight { why: "no".to_owned() },
        };
        assert_eq!(stop_one.key(), unseen.key());
        let named_alike = StepKey::new(ActionKind::PruneImage, "demo-a");
        assert!(named_alike != unseen.key() && named_alike != StepKey::new(ActionKind::PullImage, "demo-a"));
        assert_eq!(named_alike.to_string(), "pruneImage demo-a");
    }

    #[test]
    fn an_agents_containers_and_the_machine_have_a_lane_each_and_other_steps_one_of_their_own() {
        let agent = Lane::Agent("a".parse().unwrap());
        assert_eq!(step(Some("a"), stop("demo-a")).lane(), agent);
        assert_eq!(step(Some("a"), remove("demo-a.prev")).lane(), agent, "under whichever name");
        assert_eq!(step(None, remove("demo-x")).lane(), Lane::Step(StepKey::new(ActionKind::StopContainer, "demo-x")));
        let instance = InstanceName::new("dev").unwrap();
        let machine = |action| assert_eq!(step(None, action).lane(), Lane::Vm);
        machine(Action::StopVm { instance: instance.clone(), force: false });
        machine(Action::DeleteVm { instance });
        machine(Action::ForwardPorts { instance: InstanceName::new("dev").unwrap(), ports: Vec::new() });
        let key = ArtifactKey::new("vm/images/a.tar.gz").unwrap();
        let prune = step(Some("a"), Action::PruneArtifact { key, bytes: 1 }).lane();
        assert!(!prune.is_fetch() && prune != agent);
        assert!(Lane::Step(StepKey::new(ActionKind::FetchArtifact, "vm/images/a.tar.gz")).is_fetch());
    }
}
