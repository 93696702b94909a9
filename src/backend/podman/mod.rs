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
mod hand_on;
mod http;
mod image;
mod ladder;
mod lifecycle;
mod logs;
mod look;
mod place;
mod publish;
mod recent;
mod shared;
mod shell;
mod spec;
mod ssh;
mod stop;
pub(crate) mod stream;
#[cfg(test)]
mod tests;
mod throwaway;
mod typed;
mod upload;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use self::hand_on::hand_on;
use super::{
    ByteStream, Chunks, ContainerExits, Engine, EngineError, EngineMachine, Events, Exec, ExecRequest, ImageFacts,
    LogLines, LogRequest, Look, Progress, Routing, TermSize,
};
use crate::model::{
    ContainerId, ContainerName, ContainerState, Create, Guest, ImageId, ImageRef, Images, MakeNetwork, MakeVolume,
    Ownership, SharedState,
};

pub use address::Machine;
pub use api::Api;
pub use auth::Logins;
pub use emulation::here as emulated_here;
pub use error::{ExecRefusal, is_of_plain_http};
pub(crate) use error::{is_of_a_container_down, is_of_a_layer_gone, is_of_a_read_only_root};
pub use ladder::Ladder;
pub use place::PodmanAt;
pub use publish::BuildImage;
pub use shell::Shell;
pub use throwaway::{PushTo, Throwaway, ThrowawayError};
#[cfg(feature = "fake")]
pub(crate) use wire::event_kind;

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
    ($self:ident, $call:ident($($arg:expr),*)) => {
        match $self {
            Self::Api(podman) => podman.$call($($arg),*).await,
            Self::Shell(podman) => podman.$call($($arg),*).await,
        }
    };
}

impl Routing for Podman {}

impl Engine for Podman {
    hand_on!(through);

    async fn look(&self, look: &Look) -> Result<Guest, EngineError> {
        through!(self, look(look))
    }

    async fn machine(&self) -> Result<EngineMachine, EngineError> {
        through!(self, machine())
    }

    async fn exec_end(&self, exec: &str) -> Result<(), EngineError> {
        through!(self, exec_end(exec))
    }

    fn container_exits(&self, guest: &Guest) -> Option<ContainerExits> {
        match self {
            Self::Api(podman) => podman.container_exits(guest),
            Self::Shell(podman) => podman.container_exits(guest),
        }
    }
}
