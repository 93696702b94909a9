//! Podman, wherever the state file says that it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::hand_on::hand_on;
use super::{Ladder, Podman};
use crate::backend::{
    ByteStream, Chunks, ContainerExits, Engine, EngineError, EngineMachine, Events, Exec, ExecRequest, ImageFacts,
    LogLines, LogRequest, Look, Progress, Routing, TermSize,
};
use crate::model::{
    ContainerId, ContainerName, ContainerState, Create, Guest, ImageId, ImageRef, Images, MakeNetwork, MakeVolume,
    Ownership, Reach, SharedState, VmState,
};

/// Podman on this host or in a virtual machine.
#[derive(Debug)]
pub enum PodmanAt {
    /// On this host.
    Host(Box<Podman>),
    /// In a virtual machine.
    Guest(Ladder),
}

impl PodmanAt {
    /// The socket it is reached through now, when it is reached through one.
    pub fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Host(podman) => podman.socket().map(Path::to_owned),
            Self::Guest(ladder) => ladder.socket(),
        }
    }
}

/// Hands a call on.
macro_rules! at {
    ($self:ident, $call:ident($($arg:expr),*)) => {
        match $self {
            Self::Host(podman) => podman.$call($($arg),*).await,
            Self::Guest(ladder) => ladder.$call($($arg),*).await,
        }
    };
}

impl Routing for PodmanAt {
    fn locate(&self, vm: Option<&VmState>) {
        match self {
            Self::Host(podman) => podman.locate(vm),
            Self::Guest(ladder) => ladder.locate(vm),
        }
    }

    async fn look_ahead(&self, look: &Look, dir: &Path) -> Option<Guest> {
        at!(self, look_ahead(look, dir))
    }

    fn keep(&self) {
        match self {
            Self::Host(podman) => podman.keep(),
            Self::Guest(ladder) => ladder.keep(),
        }
    }

    async fn finish(&self) {
        at!(self, finish())
    }

    fn reach(&self) -> Reach {
        match self {
            Self::Host(podman) => podman.reach(),
            Self::Guest(ladder) => ladder.reach(),
        }
    }

    fn sees(&self, file: &Path) -> Option<PathBuf> {
        match self {
            Self::Host(podman) => podman.sees(file),
            Self::Guest(ladder) => ladder.sees(file),
        }
    }

    async fn load_seen(&self, file: &Path) -> Result<Vec<String>, EngineError> {
        at!(self, load_seen(file))
    }
}

impl Engine for PodmanAt {
    hand_on!(at);

    async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        at!(self, look(look))
    }

    async fn machine(&self) -> Result<EngineMachine, EngineError> {
        at!(self, machine())
    }

    async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        at!(self, exec_end(exec))
    }

    fn container_exits(&self, guest: &Guest) -> Option<ContainerExits> {
        match self {
            Self::Host(podman) => podman.container_exits(guest),
            Self::Guest(ladder) => ladder.container_exits(guest),
        }
    }
}
