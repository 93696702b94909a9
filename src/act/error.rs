//! What an action can fail of, and what the loop does next.

use crate::backend::{EngineError, EngineErrorKind, InsideError, PullFault, StoreError, VmError};
use crate::model::{FailureKind, ImageId, ImageRef, SessionExit};

/// Why an action failed.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// The cache or the network.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The virtual machine.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Podman.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// What is inside of a container.
    #[error(transparent)]
    Inside(#[from] InsideError),
    /// The command of a session ended badly as soon as it was started.
    #[error("session `{session}` {exit} as soon as it was started{}", tail(log))]
    SessionEnded {
        /// Which, as `AGENT/NAME`.
        session: String,
        /// How it ended.
        exit: SessionExit,
        /// Its last log lines.
        log: String,
    },
    /// A bind mount's source is not there.
    #[error("mount source `{path}` of container `{container}` does not exist")]
    MountSource {
        /// The missing path.
        path: String,
        /// Whose mount.
        container: String,
    },
    /// A host port is taken by somebody else.
    #[error("host port {port} that container `{container}` publishes is taken")]
    PortTaken {
        /// As `address:port/protocol`.
        port: String,
        /// Who wants it.
        container: String,
    },
    /// The name that an image is to have means another one, and somebody else gave it.
    #[error("{}", crate::plan::action::name_taken(reference, held_by))]
    ImageNameTaken {
        /// The name.
        reference: ImageRef,
        /// The image that has it.
        held_by: ImageId,
    },
    /// An image has no room where Podman keeps its images.
    #[error("image `{image}` unpacks to more than {} MiB, and Podman has room for {} MiB", unpacked >> 20, room >> 20)]
    NoRoom {
        /// The name it is loaded for.
        image: ImageRef,
        /// How many bytes there are at least.
        unpacked: u64,
        /// How many are free.
        room: u64,
    },
    /// The image is built for another machine than the engine's.
    #[error(
        "image `{image}` of container `{container}` is built for {built_for}, and Podman's machine is {machine} and does not \
         emulate it"
    )]
    Architecture {
        /// Whose image.
        container: String,
        /// Which.
        image: ImageRef,
        /// Operating system and architecture of the image, e.g. `linux/arm64`.
        built_for: String,
        /// Those of Podman's machine.
        machine: String,
    },
    /// A container ended as soon as it was started.
    #[error("container `{container}` {how}{}", tail(log))]
    EndedAtOnce {
        /// Which.
        container: String,
        /// How it ended.
        how: Ending,
        /// Its last log lines.
        log: String,
    },
    /// A health check said no.
    #[error("container `{container}` is not healthy: {why}{}", tail(log))]
    Unhealthy {
        /// Which.
        container: String,
        /// What the check said.
        why: String,
        /// Its last log lines.
        log: String,
    },
    /// The time was up before a container had proved itself. That says nothing against it.
    #[error("container `{container}` is not healthy: {why}{}", tail(log))]
    OutOfTime {
        /// Which.
        container: String,
        /// What it had not shown by then.
        why: String,
        /// Its last log lines.
        log: String,
    },
    /// A successor failed, and its predecessor is back.
    #[error("container `{container}` was rolled back: its successor failed")]
    RolledBack {
        /// Which.
        container: String,
        /// Whether it was not even started: what failed says nothing against it.
        untried: bool,
        /// Why the successor failed.
        #[source]
        cause: Box<ActError>,
    },
    /// A successor failed, and its predecessor did not come back either.
    #[error("container `{container}` could not be rolled back ({why}) after its successor failed")]
    RollBackFailed {
        /// Which.
        container: String,
        /// Why the predecessor did not come back.
        why: String,
        /// Why the successor failed.
        #[source]
        cause: Box<ActError>,
    },
    /// The user asked to stop before it was done.
    #[error("interrupted")]
    Interrupted,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this exit code, and stayed so.
    Exited(i32),
    /// With this exit code, after so many seconds.
    ExitedAfter(i32, u64),
    /// Again and again: Podman restarts it each time.
    Restarts,
    /// It cannot be told.
    Gone,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exited(code) | Ending::ExitedAfter(code, 0) => write!(f, "ended at once with exit code {code}"),
            Ending::ExitedAfter(code, seconds) => write!(f, "ended with exit code {code} after {seconds} s"),
            Ending::Restarts => f.write_str("is in a crash loop: Podman restarts it each time it exits"),
            Ending::Gone => f.write_str("disappeared as soon as it was started"),
        }
    }
}

/// What stands before a log at the end of a failure.
pub(super) const LOG_FOLLOWS: &str = "; its last log lines:";

pub(crate) fn tail(log: &str) -> String {
    if log.is_empty() {
        return String::new();
    }
    let lines: Vec<_> = log.lines().map(|line| format!("  | {line}")).collect();
    format!("{LOG_FOLLOWS}\n{}", lines.join("\n"))
}

/// A failure in one line: without the log that stands at its end.
pub(crate) fn in_one_line(failure: &str) -> &str {
    failure.lines().next().unwrap_or_default().trim_end_matches(LOG_FOLLOWS)
}

/// What the loop should do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Try again after a while.
    Retry,
    /// Only somebody who changes something can help.
    NeedsUser,
}

impl ActError {
    /// What the loop should do next.
    pub fn disposition(&self) -> Disposition {
        let retry = match self {
            ActError::Store(err) => err.is_retryable(),
            ActError::Vm(err) => err.is_retryable(),
            ActError::Engine(err) => err.kind.is_retryable() || err.kind == EngineErrorKind::NotFound,
            ActError::Inside(err) => err.is_retryable,
            ActError::SessionEnded { .. }
            | ActError::MountSource { .. }
            | ActError::PortTaken { .. }
            | ActError::ImageNameTaken { .. }
            | ActError::NoRoom { .. }
            | ActError::Architecture { .. }
            | ActError::EndedAtOnce { .. }
            | ActError::Unhealthy { .. }
            | ActError::OutOfTime { .. }
            | ActError::Interrupted => false,
            // A successor that only Podman's hiccup kept from its place deserves another try.
            ActError::RolledBack { cause, .. } | ActError::RollBackFailed { cause, .. } => {
                return cause.disposition();
            }
        };
        if retry { Disposition::Retry } else { Disposition::NeedsUser }
    }

    /// Whether it speaks against the container that failed, rather than against what it found or who disturbed it.
    pub fn speaks_against_it(&self) -> bool {
        match self {
            ActError::EndedAtOnce { .. } | ActError::Unhealthy { .. } => true,
            // Podman refuses to start it.
            ActError::Engine(err) => matches!(err.kind, EngineErrorKind::ApiError | EngineErrorKind::CommandFailed),
            _ => false,
        }
    }

    /// What a registry is to blame for, where that is why.
    pub fn pull(&self) -> Option<&PullFault> {
        match self {
            ActError::Engine(err) => err.pull.as_deref(),
            _ => None,
        }
    }

    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            ActError::Store(err) => err.kind(),
            ActError::Vm(err) => err.kind(),
            ActError::Engine(err) => err.kind.into(),
            ActError::Inside(err) => err.kind,
            ActError::SessionEnded { .. } => FailureKind::Session,
            ActError::MountSource { .. } => FailureKind::MountSource,
            ActError::PortTaken { .. } | ActError::ImageNameTaken { .. } => FailureKind::Conflict,
            ActError::NoRoom { .. } => FailureKind::NoSpace,
            ActError::Architecture { .. } => FailureKind::Architecture,
            ActError::EndedAtOnce { .. } => FailureKind::EndedAtOnce,
            ActError::Unhealthy { .. } | ActError::OutOfTime { .. } => FailureKind::Unhealthy,
            ActError::RolledBack { .. } => FailureKind::RolledBack,
            ActError::RollBackFailed { .. } => FailureKind::RollBackFailed,
            ActError::Interrupted => FailureKind::Interrupted,
        }
    }
}
