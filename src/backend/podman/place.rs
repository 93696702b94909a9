//! Podman, wherever the state file says that it is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::{Ladder, Podman};
use crate::backend::{
    ByteStream, Chunks, Deaths, Engine, EngineError, EngineMachine, Events, Exec, ExecRequest, ImageFacts, LogLines,
    LogRequest, Look, Progress,
};
use crate::model::{
    ContainerId, ContainerName, ContainerState, Create, Guest, ImageId, ImageRef, Images, Ownership, Reach, VmState,
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

impl Engine for PodmanAt {
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

    async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        at!(self, look(look))
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        at!(self, inspect(id))
    }

    async fn images(&self) -> Result<Images, EngineError> {
        at!(self, images())
    }

    async fn named(&self, name: &ContainerName) -> Result<Option<ContainerState>, EngineError> {
        at!(self, named(name))
    }

    async fn image(&self, reference: &ImageRef) -> Result<Option<ImageId>, EngineError> {
        at!(self, image(reference))
    }

    async fn has_agents(&self, image: &ImageId) -> Result<bool, EngineError> {
        at!(self, has_agents(image))
    }

    async fn room(&self) -> Result<Option<u64>, EngineError> {
        at!(self, room())
    }

    async fn image_facts(&self, image: &str) -> Result<Option<ImageFacts>, EngineError> {
        at!(self, image_facts(image))
    }

    async fn machine(&self) -> Result<EngineMachine, EngineError> {
        at!(self, machine())
    }

    async fn load(&self, tar: ByteStream) -> Result<Vec<String>, EngineError> {
        at!(self, load(tar))
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

    async fn pull(&self, reference: &ImageRef, progress: Arc<Progress>) -> Result<ImageId, EngineError> {
        at!(self, pull(reference, progress))
    }

    async fn tag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
        at!(self, tag(image, reference))
    }

    async fn remove_image(&self, image: &ImageId) -> Result<(), EngineError> {
        at!(self, remove_image(image))
    }

    async fn create(&self, create: &Create) -> Result<ContainerId, EngineError> {
        at!(self, create(create))
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        at!(self, start(id))
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        at!(self, unpause(id))
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        at!(self, stop(id, grace))
    }

    async fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<(), EngineError> {
        at!(self, rename(id, name))
    }

    async fn remove(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        at!(self, remove(id, grace))
    }

    async fn run_healthcheck(&self, id: &ContainerId) -> Result<(), EngineError> {
        at!(self, run_healthcheck(id))
    }

    async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Exec, EngineError> {
        at!(self, exec(id, request))
    }

    async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
        at!(self, exec_exit(exec))
    }

    async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        at!(self, exec_end(exec))
    }

    async fn logs(&self, id: &ContainerId, request: &LogRequest) -> Result<Chunks, EngineError> {
        at!(self, logs(id, request))
    }

    async fn log_lines(
        &self,
        id: &ContainerId,
        request: &LogRequest,
        since: Option<u64>,
    ) -> Result<LogLines, EngineError> {
        at!(self, log_lines(id, request, since))
    }

    async fn events(&self, owner: &Ownership) -> Result<Events, EngineError> {
        at!(self, events(owner))
    }

    async fn ping(&self) -> Result<(), EngineError> {
        at!(self, ping())
    }

    fn deaths(&self, guest: &Guest) -> Option<Deaths> {
        match self {
            Self::Host(podman) => podman.deaths(guest),
            Self::Guest(ladder) => ladder.deaths(guest),
        }
    }
}
