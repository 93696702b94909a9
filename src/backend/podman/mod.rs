//! Podman, behind [`Engine`]: one type for every way to reach it.
//!
//! [`Podman`] picks the transport and hands every call on. What a call means on the wire stands in `api`, what it means on the
//! command line in `shell`; how Podman's answers are read stands in `wire`. Nothing here decides what should run.

mod address;
mod answer;
mod api;
mod auth;
mod emulation;
mod ending;
mod error;
mod exec;
mod exits;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
mod image;
mod ladder;
mod life;
mod logs;
mod look;
mod place;
mod publish;
mod recent;
mod secrets;
mod shell;
mod spec;
mod ssh;
mod stop;
pub mod stream;
#[cfg(test)]
mod tests;
mod throwaway;
mod typed;
mod upload;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ByteStream, Chunks, Deaths, Engine, EngineError, EngineMachine, Events, Exec, ExecRequest, ImageFacts, LogLines,
    LogRequest, Look, Progress,
};
use crate::model::{ContainerId, ContainerName, ContainerState, Create, Guest, ImageId, ImageRef, Images, Ownership};

pub use address::Machine;
pub use api::Api;
pub use auth::Logins;
pub use emulation::here as emulated_here;
pub use error::is_of_plain_http;
pub use ladder::Ladder;
pub use place::PodmanAt;
pub use publish::BuildImage;
pub use shell::Shell;
pub use throwaway::{PushTo, Throwaway, ThrowawayError};

/// Podman, by whichever way it is reached.
#[derive(Debug)]
pub enum Podman {
    /// Through its API socket.
    Api(Api),
    /// Through its command line in a Lima instance.
    Shell(Shell),
}

impl Podman {
    /// Finds Podman's API socket and prepares a client for it. Nothing is sent yet.
    ///
    /// The socket is `socket`, else `$CONTAINER_HOST`, else `$DOCKER_HOST` (`unix://` only), else the first that exists
    /// of `$XDG_RUNTIME_DIR/podman/podman.sock`, `/run/user/<uid>/podman/podman.sock` and `/run/podman/podman.sock`
    /// (for root the last comes first). `vars` looks up environment variables; they also say where the logins for pulls stand.
    ///
    /// # Errors
    /// `transportUnavailable` when there is no socket; the sentence names the places tried and how to start one. Also
    /// for an address that is not a unix socket, such as `ssh://…`.
    pub fn connect(socket: Option<&Path>, vars: impl Fn(&str) -> Option<String>) -> Result<Self, EngineError> {
        let socket = address::find(socket, &vars)?;
        Api::new(&socket, Machine::of_local_socket()).map(|api| Self::Api(api.with_logins(Logins::of(vars))))
    }

    /// As [`Podman::connect`], for whoever waits for Podman: a socket that is not there yet is taken for one that will be.
    ///
    /// # Errors
    /// For an address that is not a unix socket, such as `ssh://…`.
    pub fn expect(socket: Option<&Path>, vars: impl Fn(&str) -> Option<String>) -> Result<Self, EngineError> {
        let socket = address::expected(socket, &vars)?;
        Api::new(&socket, Machine::of_local_socket()).map(|api| Self::Api(api.with_logins(Logins::of(vars))))
    }

    /// How it is reached: `api` or `shell`.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Api(_) => "api",
            Self::Shell(_) => "shell",
        }
    }

    /// The path of the socket it is reached through, when it is.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Self::Api(api) => Some(api.socket()),
            Self::Shell(_) => None,
        }
    }
}

/// The same call to whichever it is.
macro_rules! through {
    ($this:expr, $podman:ident => $call:expr) => {
        match $this {
            Self::Api($podman) => $call,
            Self::Shell($podman) => $call,
        }
    };
}

impl Engine for Podman {
    async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        through!(self, podman => podman.look(look).await)
    }

    async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
        through!(self, podman => podman.inspect(id).await)
    }

    async fn images(&self) -> Result<Images, EngineError> {
        through!(self, podman => podman.images().await)
    }

    async fn named(&self, name: &ContainerName) -> Result<Option<ContainerState>, EngineError> {
        through!(self, podman => podman.named(name).await)
    }

    async fn image(&self, reference: &ImageRef) -> Result<Option<ImageId>, EngineError> {
        through!(self, podman => podman.image(reference).await)
    }

    async fn has_agents(&self, image: &ImageId) -> Result<bool, EngineError> {
        through!(self, podman => podman.has_agents(image).await)
    }

    async fn room(&self) -> Result<Option<u64>, EngineError> {
        through!(self, podman => podman.room().await)
    }

    async fn image_facts(&self, image: &str) -> Result<Option<ImageFacts>, EngineError> {
        through!(self, podman => podman.image_facts(image).await)
    }

    async fn machine(&self) -> Result<EngineMachine, EngineError> {
        through!(self, podman => podman.machine().await)
    }

    async fn load(&self, tar: ByteStream) -> Result<Vec<String>, EngineError> {
        through!(self, podman => podman.load(tar).await)
    }

    async fn pull(&self, reference: &ImageRef, progress: Arc<Progress>) -> Result<ImageId, EngineError> {
        through!(self, podman => podman.pull(reference, progress).await)
    }

    async fn tag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
        through!(self, podman => podman.tag(image, reference).await)
    }

    async fn remove_image(&self, image: &ImageId) -> Result<(), EngineError> {
        through!(self, podman => podman.remove_image(image).await)
    }

    async fn create(&self, create: &Create) -> Result<ContainerId, EngineError> {
        through!(self, podman => podman.create(create).await)
    }

    async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
        through!(self, podman => podman.start(id).await)
    }

    async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
        through!(self, podman => podman.unpause(id).await)
    }

    async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        through!(self, podman => podman.stop(id, grace).await)
    }

    async fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<(), EngineError> {
        through!(self, podman => podman.rename(id, name).await)
    }

    async fn remove(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
        through!(self, podman => podman.remove(id, grace).await)
    }

    async fn run_healthcheck(&self, id: &ContainerId) -> Result<(), EngineError> {
        through!(self, podman => podman.run_healthcheck(id).await)
    }

    async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Exec, EngineError> {
        through!(self, podman => podman.exec(id, request).await)
    }

    async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
        through!(self, podman => podman.exec_exit(exec).await)
    }

    async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        through!(self, podman => podman.exec_end(exec).await)
    }

    async fn logs(&self, id: &ContainerId, request: &LogRequest) -> Result<Chunks, EngineError> {
        through!(self, podman => podman.logs(id, request).await)
    }

    async fn log_lines(
        &self,
        id: &ContainerId,
        request: &LogRequest,
        since: Option<u64>,
    ) -> Result<LogLines, EngineError> {
        through!(self, podman => podman.log_lines(id, request, since).await)
    }

    async fn events(&self, owner: &Ownership) -> Result<Events, EngineError> {
        through!(self, podman => podman.events(owner).await)
    }

    async fn ping(&self) -> Result<(), EngineError> {
        through!(self, podman => podman.ping().await)
    }

    fn deaths(&self, guest: &Guest) -> Option<Deaths> {
        through!(self, podman => podman.deaths(guest))
    }
}
