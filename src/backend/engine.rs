//! The engine that runs containers.

mod error;

pub use error::{EngineError, PullFault, PullRefusal, WayOut};
use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncWrite;

use super::{ByteStream, Progress};
use crate::model::{
    ContainerId, ContainerName, ContainerState, Create, FailureKind, Guest, HostKey, ImageId, ImageRef, Images,
    MakeNetwork, MakeVolume, Ownership, Reach, SharedState, VmState,
};

/// What an observation of the engine is to find.
#[derive(Debug, Clone)]
pub struct Look {
    /// Whose containers.
    pub owner: Ownership,
    /// Names that are wanted: a foreign container that has one is found too.
    pub names: BTreeSet<ContainerName>,
    /// Those of `names` whose health verdict is wanted while they run.
    pub health: BTreeSet<ContainerName>,
    /// Containers whose label was hashed with another key than this are inspected for their live values.
    pub key: HostKey,
}

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// Its operating system in Go's word, e.g. `linux`; empty where it does not say.
    pub os: String,
    /// Its architecture in Go's word, e.g. `arm64`; empty where it does not say.
    pub arch: String,
    /// Where it declares volumes.
    pub volumes: BTreeSet<String>,
}

/// What an engine's machine can run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineMachine {
    /// Its operating system in Go's word.
    pub os: String,
    /// Its architecture in Go's word.
    pub arch: String,
    /// Further architectures that it runs by emulation. `None` where that cannot be told.
    pub emulates: Option<BTreeSet<String>>,
}

/// A command to run in a container.
#[derive(Clone, Default)]
pub struct ExecRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// `NAME=value` on top of the container's own environment.
    pub env: Vec<String>,
    /// Working directory; `None` for the container's own.
    pub workdir: Option<String>,
    /// Whether standard input will be sent.
    pub stdin: bool,
    /// A terminal of this size for it. Then all that it prints is standard output.
    pub tty: Option<TermSize>,
    /// Who runs it, as `podman exec --user` takes it; `None` for the container's own user.
    pub user: Option<String>,
}

/// The size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TermSize {
    /// Characters to a line.
    pub cols: u16,
    /// Lines.
    pub rows: u16,
}

impl Default for TermSize {
    /// What a terminal has when nobody says.
    fn default() -> Self {
        Self { cols: 80, rows: 24 }
    }
}

/// Arguments and values may be secrets: only the program and the variables' names are shown.
impl fmt::Debug for ExecRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.env.iter().map(|variable| variable.split('=').next().unwrap_or_default());
        f.debug_struct("ExecRequest")
            .field("program", &self.command.first())
            .field("env", &names.collect::<Vec<_>>())
            .field("workdir", &self.workdir)
            .field("stdin", &self.stdin)
            .field("tty", &self.tty)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// A command that runs in a container.
pub struct Exec {
    /// For [`Engine::exec_exit`].
    pub id: String,
    /// What it prints, until it ends.
    pub output: Chunks,
    /// Its standard input, when asked for. Shutting it down is end of file, unless it is a terminal: there a key is.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A piece of output with the stream it came from. Bytes, not text: it may end inside a character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chunk {
    /// From standard output.
    Stdout(Bytes),
    /// From standard error.
    Stderr(Bytes),
}

/// Output as it comes. Ends with what makes it, or after its first error.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, EngineError>> + Send>>;

/// A line of a log, or a part of one when it ended without a line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// From standard error, not from standard output.
    pub is_stderr: bool,
    /// When it was written, where that is told.
    pub time: Option<SystemTime>,
    /// Its bytes, with the line end.
    pub bytes: Bytes,
}

/// Lines as they come. Ends with the container, or after its first error.
pub type LogLines = Pin<Box<dyn Stream<Item = Result<LogLine, EngineError>> + Send>>;

/// Events as they come. Ends with the connection, or after its first error.
pub type Events = Pin<Box<dyn Stream<Item = Result<EngineEvent, EngineError>> + Send>>;

/// Ids of containers whose process ended, as it happens. Hints, like events, and never complete.
pub type ContainerExits = Pin<Box<dyn Stream<Item = ContainerId> + Send>>;

/// Which log lines.
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    /// Follow: print new lines as they come, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
}

/// What happened in the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// A container was started.
    Started,
    /// The process of a container ended.
    Died,
    /// What changes nothing of what is observed: a command in a container, a health check, a volume that is mounted.
    Quiet,
    /// Anything else, by the engine's word.
    Other(String),
}

/// Something happened in the engine. Only a hint to observe again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// What happened.
    pub kind: EventKind,
    /// The container's name, when it is about one.
    pub container: Option<String>,
    /// The code its process exited with, when that is what happened.
    pub exit_code: Option<i32>,
}

/// The way to an engine in a virtual machine: where it leads, how it is kept, what is faster along it. One on this host needs
/// none of it, and does with what stands here.
pub trait Routing: Send + Sync {
    /// Says how the virtual machine was found that the engine runs in. Every later call goes there; with `None` (there is none,
    /// or it is somebody else's) each fails.
    fn locate(&self, _vm: Option<&VmState>) {}

    /// Looks before it is known how the virtual machine is, whose directory on this host this is: while one is asked, the other
    /// can be. `None` where that is not worth while or led to nothing. What it found counts once [`Routing::locate`] was called
    /// and [`Routing::reach`] tells a way.
    fn look_ahead(&self, _look: &Look, _dir: &Path) -> impl Future<Output = Option<Guest>> + Send {
        async { None }
    }

    /// From now on, what a call finds lost on the ways into a virtual machine and goes around is brought back beside all else.
    /// For who keeps the machine: looking alone changes nothing.
    fn keep(&self) {}

    /// Waits for what is being repaired beside, on the ways into a virtual machine. For who ends after this.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// How the engine is reached now.
    fn reach(&self) -> Reach {
        Reach::default()
    }

    /// Where the engine's machine sees a file of this host, when it is faster for it to read that file than to be sent it.
    fn sees(&self, _file: &Path) -> Option<PathBuf> {
        None
    }

    /// Loads a docker-archive, compressed or not, that the engine's machine sees there. Yields what [`Engine::load`] does.
    fn load_seen(&self, file: &Path) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send {
        let why = format!("`{}` is not seen where the engine runs", file.display());
        async { Err(EngineError::new(EngineErrorKind::NotFound, why)) }
    }
}

/// Runs containers. Implemented by Podman over its socket.
pub trait Engine: Routing {
    /// Lists the owner's containers, foreign ones with a wanted name, and the images.
    fn look(&self, look: &Look) -> impl Future<Output = Result<Guest, EngineError>> + Send;

    /// Inspects one container: restarts and health verdict included. `None` when there is none.
    fn inspect(&self, id: &ContainerId) -> impl Future<Output = Result<Option<ContainerState>, EngineError>> + Send;

    /// The images, and nothing else: as [`Engine::look`] finds them.
    fn images(&self) -> impl Future<Output = Result<Images, EngineError>> + Send;

    /// Inspects the container of this name, as [`Engine::inspect`] does.
    fn named(&self, name: &ContainerName) -> impl Future<Output = Result<Option<ContainerState>, EngineError>> + Send;

    /// The id of the image with this name; `None` when there is none.
    fn image(&self, reference: &ImageRef) -> impl Future<Output = Result<Option<ImageId>, EngineError>> + Send;

    /// Whether a container of any state file's is made from this image.
    fn has_agents(&self, image: &ImageId) -> impl Future<Output = Result<bool, EngineError>> + Send;

    /// What an image says of itself, by its name or id; `None` when there is none.
    fn image_facts(&self, image: &str) -> impl Future<Output = Result<Option<ImageFacts>, EngineError>> + Send;

    /// How many bytes are free where the engine keeps its images; `None` where it does not tell.
    fn room(&self) -> impl Future<Output = Result<Option<u64>, EngineError>> + Send;

    /// What the engine's machine can run.
    fn machine(&self) -> impl Future<Output = Result<EngineMachine, EngineError>> + Send;

    /// Loads a plain (decompressed) docker-archive. Yields the names it carried, or `sha256:<id>` where it carried none.
    fn load(&self, tar: ByteStream) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send;

    /// Pulls an image from its registry.
    fn pull(
        &self,
        reference: &ImageRef,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Result<ImageId, EngineError>> + Send;

    /// Gives an image another name.
    fn tag(&self, image: &ImageId, reference: &ImageRef) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Removes an image, with all its names, unless a container uses it (`conflict`). Fine when it is gone already.
    fn remove_image(&self, image: &ImageId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Creates a container, not started.
    fn create(&self, create: &Create) -> impl Future<Output = Result<ContainerId, EngineError>> + Send;

    /// Starts it. Fine when it runs already.
    fn start(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Unfreezes it. Fine when it is not frozen.
    fn unpause(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Stops it: its stop signal, then KILL after `grace`. One that is frozen is unfrozen first. Fine when it does not run.
    /// Many may be stopped at once: it is waiting, not work.
    fn stop(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Gives it another name.
    fn rename(&self, id: &ContainerId, name: &ContainerName) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Removes it, stopping it first within `grace`. Fine when it is gone already.
    fn remove(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// The volumes and networks that there are, whoever made them.
    fn shared(&self) -> impl Future<Output = Result<SharedState, EngineError>> + Send;

    /// Creates a network. Fine when there is one of that name.
    fn create_network(&self, make: &MakeNetwork) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Creates a volume. Fine when there is one of that name.
    fn create_volume(&self, make: &MakeVolume) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Removes a network, unless a container is on it. Fine when it is gone already.
    fn remove_network(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Removes a volume with what is in it, unless a container mounts it. Fine when it is gone already.
    fn remove_volume(&self, name: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Runs its health check once, now. The verdict is in the next observation.
    fn run_healthcheck(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Starts a command in it.
    fn exec(&self, id: &ContainerId, request: &ExecRequest) -> impl Future<Output = Result<Exec, EngineError>> + Send;

    /// Gives the terminal of a command another size. Fails while the command is only about to begin, and once it has ended.
    fn exec_resize(&self, exec: &str, size: TermSize) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// The exit code of a command that has ended.
    fn exec_exit(&self, exec: &str) -> impl Future<Output = Result<i32, EngineError>> + Send;

    /// Ends a command with all that it started and left in the background, by TERM and then KILL. Fine when it has ended.
    fn exec_end(&self, exec: &str) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Extracts a plain tar archive below a directory of it, which is there. What stands in the place of a file is replaced.
    /// Users and groups are those of the archive, in the container's own numbers.
    fn put(
        &self,
        id: &ContainerId,
        directory: &str,
        tar: ByteStream,
    ) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Its log.
    fn logs(&self, id: &ContainerId, request: &LogRequest) -> impl Future<Output = Result<Chunks, EngineError>> + Send;

    /// Its log line by line, with the moment each was written. `since` leaves out what is older, in seconds since 1970; Podman
    /// 4.3 tells moments in whole seconds through its API.
    fn log_lines(
        &self,
        id: &ContainerId,
        request: &LogRequest,
        since: Option<u64>,
    ) -> impl Future<Output = Result<LogLines, EngineError>> + Send;

    /// What happens from now on to the owner's containers and to images, copies of the one and of the other among them.
    /// Malformed events are left out.
    fn events(&self, owner: &Ownership) -> impl Future<Output = Result<Events, EngineError>> + Send;

    /// Asks whether it is there at all. The cheapest request it has.
    fn ping(&self) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Where there is a faster word of ends than [`Engine::events`], follows it. `guest` is the latest observation: one container
    /// that runs is needed to find out.
    fn container_exits(&self, guest: &Guest) -> Option<ContainerExits>;
}

words! {
    /// What kind of failure an engine reported.
    pub enum EngineErrorKind {
        /// No such container, image or exec session.
        NotFound = "notFound",
        /// The name, port or object is taken or in use.
        Conflict = "conflict",
        /// No answer within the deadline.
        Timeout = "timeout",
        /// Not allowed.
        PermissionDenied = "permissionDenied",
        /// The engine cannot be reached, or went away in the middle.
        TransportUnavailable = "transportUnavailable",
        /// The engine refused (API).
        ApiError = "apiError",
        /// The engine refused (command line).
        CommandFailed = "commandFailed",
        /// An answer that makes no sense to this build.
        Unknown = "unknown",
    }
}

impl From<EngineErrorKind> for FailureKind {
    fn from(kind: EngineErrorKind) -> Self {
        match kind {
            EngineErrorKind::NotFound => Self::NotFound,
            EngineErrorKind::Conflict => Self::Conflict,
            EngineErrorKind::Timeout => Self::Timeout,
            EngineErrorKind::PermissionDenied => Self::PermissionDenied,
            EngineErrorKind::TransportUnavailable => Self::TransportUnavailable,
            EngineErrorKind::ApiError => Self::ApiError,
            EngineErrorKind::CommandFailed => Self::CommandFailed,
            EngineErrorKind::Unknown => Self::Unknown,
        }
    }
}

impl EngineErrorKind {
    /// Whether trying again later may help by itself.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Timeout | Self::TransportUnavailable)
    }
}

#[cfg(test)]
mod tests;
