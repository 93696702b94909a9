//! The outside world behind three traits: a [`Vm`] in which containers may run, an [`Engine`] that runs them, and a [`Store`]
//! that holds artifacts.
//!
//! Nothing here decides anything. Each method asks for a state and accepts that it is already so.

pub mod cache;
mod command;
#[doc(hidden)]
pub mod fake;
pub mod http;
pub mod lima;
pub mod limactl;
pub mod podman;
mod process;
mod ssh;
mod vm;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::io::AsyncWrite;

pub use vm::{Vm, VmError, VmEvents};

use crate::model::{
    Artifact, ArtifactKey, CachedArtifact, ContainerId, ContainerName, ContainerSpec, ContainerState, Create, Guest,
    HostKey, ImageId, ImageRef, Location, Manifest, ManifestError, Name, Reach, Sha256Digest, VmState,
};

/// Everything a pass looks at and acts on.
#[derive(Debug)]
pub struct World<V, E, S> {
    /// The virtual machine that the engine runs in; `Option::None` where it runs on this host.
    pub vm: V,
    /// Runs containers.
    pub engine: E,
    /// Holds artifacts.
    pub store: S,
}

/// A stream of bytes that may break off with an error.
pub type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// How far a transfer has come. Written by the one who moves the bytes, read by whoever draws a bar.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// A transfer of `total` bytes (0: not known) that has not begun.
    pub fn new(total: u64) -> Arc<Self> {
        Arc::new(Self { done: AtomicU64::new(0), total: AtomicU64::new(total) })
    }

    /// Says that `bytes` have been moved in all.
    pub fn set(&self, bytes: u64) {
        self.done.store(bytes, Ordering::Relaxed);
    }

    /// Says that `bytes` more have been moved.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many bytes there are.
    pub fn set_total(&self, bytes: u64) {
        self.total.store(bytes, Ordering::Relaxed);
    }

    /// Bytes moved so far, and bytes in all (0: not known).
    pub fn get(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}

// ---------------------------------------------------------------------------------------------------------- engine

/// What a look at the engine is to find.
#[derive(Debug, Clone)]
pub struct Look {
    /// Whose containers.
    pub owner: Name,
    /// Names that are wanted: a stranger who holds one is found too.
    pub names: BTreeSet<ContainerName>,
    /// Those of `names` whose health verdict is wanted while they run.
    pub health: BTreeSet<ContainerName>,
    /// Containers whose label was hashed with another key than this are inspected for their live values.
    pub key: HostKey,
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
            .finish_non_exhaustive()
    }
}

/// A command that runs in a container.
pub struct Exec {
    /// For [`Engine::exec_exit`].
    pub id: String,
    /// What it prints, until it ends.
    pub output: Chunks,
    /// Its standard input, when asked for. Shutting it down is end of file.
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

/// Events as they come. Ends with the connection, or after its first error.
pub type Events = Pin<Box<dyn Stream<Item = Result<EngineEvent, EngineError>> + Send>>;

/// Ids of containers whose process ended, as it happens. Hints, like events, and never complete.
pub type Deaths = Pin<Box<dyn Stream<Item = ContainerId> + Send>>;

/// Which log lines.
#[derive(Debug, Clone, Default)]
pub struct LogRequest {
    /// Go on as new lines come, until the container ends.
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
}

/// Something happened in the engine. Only a hint to look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEvent {
    /// What happened, in the engine's word (`die`, `start`, `remove`, …).
    pub action: String,
    /// The container's name, when it is about one.
    pub container: Option<String>,
    /// The code its process exited with, when that is what happened.
    pub exit_code: Option<i32>,
}

/// Runs containers. Implemented by Podman over its socket.
pub trait Engine: Send + Sync {
    /// Says how the virtual machine was found that the engine runs in. Every later call goes there.
    fn locate(&self, _vm: &VmState) {}

    /// Looks before it is known how the virtual machine is, whose directory on this host this is: while one is asked, the other
    /// can be. `None` where that is not worth while or led to nothing. What it found counts once [`Engine::locate`] was called
    /// and [`Engine::reach`] tells a way.
    fn look_ahead(&self, _look: &Look, _dir: &Path) -> impl Future<Output = Option<Guest>> + Send {
        async { None }
    }

    /// Waits for what is being mended beside, on the ways into a virtual machine. For who ends after this.
    fn finish(&self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// How the engine in a virtual machine is reached. Nothing for one on this host.
    fn reach(&self) -> Reach {
        Reach::default()
    }

    /// Looks at the owner's containers, at strangers with a wanted name, and at the images.
    fn look(&self, look: &Look) -> impl Future<Output = Result<Guest, EngineError>> + Send;

    /// Looks closely at one container: restarts and health verdict included. `None` when there is none.
    fn inspect(&self, id: &ContainerId) -> impl Future<Output = Result<Option<ContainerState>, EngineError>> + Send;

    /// The id of the image with this name; `None` when there is none.
    fn image(&self, reference: &ImageRef) -> impl Future<Output = Result<Option<ImageId>, EngineError>> + Send;

    /// Loads a plain (decompressed) docker-archive. Yields the names it carried, or `sha256:<id>` where it carried none.
    fn load(&self, tar: ByteStream) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send;

    /// Where the engine's machine sees a file of this host, when it is faster for it to read that file than to be sent it.
    fn sees(&self, _file: &Path) -> Option<PathBuf> {
        None
    }

    /// Loads a docker-archive, compressed or not, that the engine's machine sees there. Yields what [`Engine::load`] does.
    fn load_seen(&self, file: &Path) -> impl Future<Output = Result<Vec<String>, EngineError>> + Send {
        let why = format!("`{}` is not seen where the engine runs", file.display());
        async { Err(EngineError::new(EngineErrorKind::NotFound, why)) }
    }

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

    /// Stops it: its stop signal, then KILL after `grace`. Fine when it does not run.
    fn stop(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Gives it another name.
    fn rename(&self, id: &ContainerId, name: &ContainerName) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Removes it, stopping it first within `grace`. Fine when it is gone already.
    fn remove(&self, id: &ContainerId, grace: Duration) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Runs its health check once, now. The verdict is in the next look.
    fn run_healthcheck(&self, id: &ContainerId) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Starts a command in it.
    fn exec(&self, id: &ContainerId, request: &ExecRequest) -> impl Future<Output = Result<Exec, EngineError>> + Send;

    /// The exit code of a command that has ended.
    fn exec_exit(&self, exec: &str) -> impl Future<Output = Result<i32, EngineError>> + Send;

    /// Its log.
    fn logs(&self, id: &ContainerId, request: &LogRequest) -> impl Future<Output = Result<Chunks, EngineError>> + Send;

    /// What happens from now on to the owner's containers and to images. Malformed events are left out.
    fn events(&self, owner: &Name) -> impl Future<Output = Result<Events, EngineError>> + Send;

    /// Asks whether it is there at all. The cheapest request it has.
    fn ping(&self) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Where there is a faster word of ends than [`Engine::events`], follows it. `guest` is the latest look: one container
    /// that runs is needed to find out.
    fn deaths(&self, guest: &Guest) -> Option<Deaths>;
}

/// What kind of failure an engine reported. Fixed words, for scripts and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineErrorKind {
    /// No such container, image or exec session.
    NotFound,
    /// The name, port or object is taken or in use.
    Conflict,
    /// No answer within the deadline.
    Timeout,
    /// Not allowed.
    PermissionDenied,
    /// The engine cannot be reached, or went away in the middle.
    TransportUnavailable,
    /// The engine refused (API).
    ApiError,
    /// The engine refused (command line).
    CommandFailed,
    /// An answer that makes no sense to this build.
    Unknown,
}

impl EngineErrorKind {
    /// The word for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "notFound",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
            Self::PermissionDenied => "permissionDenied",
            Self::TransportUnavailable => "transportUnavailable",
            Self::ApiError => "apiError",
            Self::CommandFailed => "commandFailed",
            Self::Unknown => "unknown",
        }
    }

    /// Whether trying again later may help by itself.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Timeout | Self::TransportUnavailable)
    }
}

/// A failure of the engine.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct EngineError {
    /// What kind.
    pub kind: EngineErrorKind,
    /// A sentence: what was tried, on what, and what came back. No cause is repeated elsewhere.
    pub message: String,
    /// The request (`POST /containers/create`) or command line.
    pub command: Option<String>,
    /// HTTP status.
    pub status: Option<u16>,
    /// Exit code of a command.
    pub exit_code: Option<i32>,
    /// The answer's body, cut to 4 KiB.
    pub body: Option<String>,
    /// What the command printed on standard error, cut to 4 KiB.
    pub stderr: Option<String>,
}

impl EngineError {
    /// The same error with a container called by its name: people do not know ids.
    #[must_use]
    pub fn naming(mut self, id: &ContainerId, name: &ContainerName) -> Self {
        self.message = self.message.replace(id.as_str(), name.as_str());
        self
    }

    /// The same error without the values that must not be shown. Podman repeats what it was given when it refuses it.
    #[must_use]
    pub fn hiding(mut self, spec: &ContainerSpec) -> Self {
        self.message = spec.scrub(&self.message);
        for kept in [&mut self.body, &mut self.stderr] {
            *kept = kept.take().map(|kept| spec.scrub(&kept));
        }
        self
    }

    /// An error with no details beyond its sentence.
    pub fn new(kind: EngineErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), command: None, status: None, exit_code: None, body: None, stderr: None }
    }
}

// ----------------------------------------------------------------------------------------------------------- store

/// Holds artifacts and the manifest. Implemented by the cache directory.
pub trait Store: Send + Sync {
    /// The manifest at its published place (conditional GET where there is an earlier copy).
    fn published(&self, at: &Location) -> impl Future<Output = Result<Manifest, StoreError>> + Send;

    /// The last good manifest of this place. `None` when there is none, or what is there cannot be read as one.
    fn local(&self, at: Option<&Location>) -> impl Future<Output = Result<Option<Manifest>, StoreError>> + Send;

    /// Every artifact file, with what the index proves of it. Costs a `stat` each.
    fn list(&self) -> impl Future<Output = Result<BTreeMap<ArtifactKey, CachedArtifact>, StoreError>> + Send;

    /// Hashes a file the index does not prove, and remembers the result. `None` when it is gone.
    fn prove(&self, key: &ArtifactKey) -> impl Future<Output = Result<Option<Sha256Digest>, StoreError>> + Send;

    /// Brings an artifact into the cache: nothing to do when its bytes are there already; otherwise resumed, verified,
    /// synced and renamed. A wrong file in its place is moved aside first. `progress` counts bytes of the artifact.
    /// Yields whether bytes had to be fetched.
    fn fetch(
        &self,
        artifact: &Artifact,
        from: &Location,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Writes the manifest that came from this place into the cache, atomically.
    fn commit_manifest(
        &self,
        manifest: &Manifest,
        at: Option<&Location>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The file on this host that holds an artifact, where one does.
    fn file(&self, _key: &ArtifactKey) -> Option<PathBuf> {
        None
    }

    /// Opens an artifact as a plain tar: decompressed (gzip, zstd or not at all, told by its first bytes) while it is
    /// read. `progress` counts compressed bytes.
    fn open(
        &self,
        key: &ArtifactKey,
        progress: Arc<Progress>,
    ) -> impl Future<Output = Result<ByteStream, StoreError>> + Send;

    /// Remembers which image the artifact with this digest yields.
    fn remember_image(
        &self,
        digest: Sha256Digest,
        image: &ImageId,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Removes an artifact file. Fine when it is gone already; never one that is being written or read.
    fn remove(&self, key: &ArtifactKey) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The manifest could not be had.
    #[error("manifest fetch failed: {at} ({cause})")]
    ManifestFetch {
        /// Where, fit for showing.
        at: String,
        /// HTTP status or cause.
        cause: String,
        /// Whether trying again later may help by itself.
        retryable: bool,
    },
    /// The manifest was had and is not usable.
    #[error("{at}: {err}")]
    Manifest {
        /// Where, fit for showing.
        at: String,
        /// What is wrong with it.
        err: ManifestError,
    },
    /// An artifact could not be had.
    #[error("download failed: {at} ({cause})")]
    Download {
        /// Where, fit for showing.
        at: String,
        /// HTTP status or cause.
        cause: String,
        /// Whether trying again later may help by itself.
        retryable: bool,
    },
    /// The bytes are not the promised ones.
    #[error("sha256 mismatch for {what}: expected {expected}, got {got}")]
    DigestMismatch {
        /// Path or key.
        what: String,
        /// As the manifest says.
        expected: Sha256Digest,
        /// As hashed.
        got: Sha256Digest,
    },
    /// The length is not the promised one.
    #[error("size mismatch for {what}: expected {expected} bytes, got {}", match got { Some(got) => got.to_string(), None => "more".to_owned() })]
    SizeMismatch {
        /// Path or key.
        what: String,
        /// As the manifest says.
        expected: u64,
        /// As offered. `None` when more came than was promised, and was not waited for.
        got: Option<u64>,
    },
    /// Not enough room.
    #[error("not enough space in {}: {need} bytes needed, {free} free", path.display())]
    NoSpace {
        /// The file system's directory.
        path: PathBuf,
        /// Bytes needed.
        need: u64,
        /// Bytes free.
        free: u64,
    },
    /// The tarball cannot be decompressed.
    #[error("artifact `{key}` is damaged: {why}")]
    Damaged {
        /// The artifact.
        key: ArtifactKey,
        /// What the decompressor says.
        why: String,
    },
    /// A path below the cache leads elsewhere.
    #[error("refusing `{}`: it leaves the cache through a symbolic link", path.display())]
    Escapes {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("failed to {what} `{}`", path.display())]
    Io {
        /// What was tried, as a verb: "read", "write", "rename".
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why.
        #[source]
        err: std::io::Error,
    },
}

impl StoreError {
    /// Whether trying again later may help by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ManifestFetch { retryable, .. } | Self::Download { retryable, .. } => *retryable,
            Self::Io { .. } => true,
            Self::Manifest { .. }
            | Self::DigestMismatch { .. }
            | Self::SizeMismatch { .. }
            | Self::NoSpace { .. }
            | Self::Damaged { .. }
            | Self::Escapes { .. } => false,
        }
    }

    /// The word for it in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ManifestFetch { .. } => "manifestFetch",
            Self::Manifest { err: ManifestError::Pinned { .. }, .. } => "digestMismatch",
            Self::Manifest { .. } => "manifestInvalid",
            Self::Download { .. } => "download",
            Self::DigestMismatch { .. } => "digestMismatch",
            Self::SizeMismatch { .. } => "sizeMismatch",
            Self::NoSpace { .. } => "noSpace",
            Self::Damaged { .. } => "damaged",
            Self::Escapes { .. } => "escapes",
            Self::Io { .. } => "io",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_request_prints_without_values() {
        let request = ExecRequest {
            command: vec!["login".into(), "--token=canary".into()],
            env: vec!["TOKEN=canary".into()],
            ..ExecRequest::default()
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("login") && shown.contains("TOKEN") && !shown.contains("canary"), "{shown}");
    }
}
