//! The virtual machine that the engine runs in.

use std::future::Future;
use std::pin::Pin;

use futures_util::Stream;

use crate::model::{Boot, FailureKind, Forward, Ownership, VmMake, VmState};

/// Something happened to the machine. Only ever a hint to observe again.
pub type VmEvents = Pin<Box<dyn Stream<Item = ()> + Send>>;

/// Runs a virtual machine. Implemented by Lima. Each method asks for a state and accepts that it is already so.
pub trait Vm: Send + Sync {
    /// Looks at it. `None` when there is none of its name.
    fn look(&self) -> impl Future<Output = Result<Option<VmState>, VmError>> + Send;

    /// Takes over one that somebody else made: from now on it is this owner's.
    fn adopt(&self, owner: &Ownership) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Makes it, not started. Fine when it is there already.
    fn create(&self, make: &VmMake) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Checks that it could be made: nothing is changed.
    fn validate(&self, make: &VmMake) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Brings its settings to what is wanted, as far as a stopped machine's can be changed, starts it, and waits until it has
    /// booted and its probes have passed. One that did not get so far is stopped again.
    fn start(&self, how: Boot, make: &VmMake) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Stops it. Fine when it does not run.
    fn stop(&self, force: bool) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Deletes it with all that is in it. Fine when it is gone already.
    fn delete(&self) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Leads these ports of this host into it until it is next stopped.
    fn forward(&self, ports: &[Forward]) -> impl Future<Output = Result<(), VmError>> + Send;

    /// Whether somebody takes connections at this TCP port of this host, whatever the machine's configuration says.
    fn is_connectable(&self, port: &Forward) -> impl Future<Output = bool> + Send;

    /// What happens to it from now on, where that can be followed.
    fn events(&self) -> impl Future<Output = Result<Option<VmEvents>, VmError>> + Send;
}

/// A failure of the machine, or of what runs it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VmError {
    /// limactl is not there.
    #[error("there is no `{program}` in PATH")]
    Missing {
        /// What was looked for.
        program: String,
    },
    /// limactl does not run as root.
    #[error("Lima does not run as root, and this is root")]
    Root,
    /// limactl is older than what is needed.
    #[error("Lima {found} is too old: {needed} or later is needed")]
    TooOld {
        /// Its version.
        found: String,
        /// The oldest that will do.
        needed: &'static str,
    },
    /// limactl did not end in time.
    #[error("`{command}` did not end within {}", humantime::format_duration(*.limit))]
    TimedOut {
        /// Its arguments.
        command: String,
        /// How long it was waited for.
        limit: std::time::Duration,
    },
    /// limactl failed.
    #[error("`{command}` failed: {why}")]
    Failed {
        /// Its arguments.
        command: String,
        /// Its last words on standard error.
        why: String,
    },
    /// limactl said what cannot be read.
    #[error("the output of `{command}` cannot be read: {why}")]
    Unreadable {
        /// Its arguments.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// The instance's directory is not what Lima makes.
    #[error("`{}` is there and is not an instance of Lima's: it has no lima.yaml", dir.display())]
    NoInstance {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// It started, and a probe or a step of its provisioning failed.
    #[error("VM `{instance}` did not become ready, and was stopped again: {why}")]
    NotReady {
        /// Which.
        instance: String,
        /// What Lima says of it, and the end of the log of its provisioning.
        why: String,
    },
    /// Somebody else is about to change it, or it is in a state this build does not know.
    #[error("VM `{instance}` {phase}, and is left alone meanwhile")]
    Busy {
        /// Which.
        instance: String,
        /// What was seen.
        phase: String,
    },
    /// Whether it is there cannot be told.
    #[error("cannot inspect `{}`", path.display())]
    Unseen {
        /// The path.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        err: std::sync::Arc<std::io::Error>,
    },
    /// A file of its cannot be written.
    #[error("failed to write `{}`", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        err: std::sync::Arc<std::io::Error>,
    },
}

impl VmError {
    /// What kind of failure it is.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Missing { .. } => FailureKind::LimactlMissing,
            Self::Root => FailureKind::LimactlRoot,
            Self::TooOld { .. } => FailureKind::LimactlTooOld,
            Self::TimedOut { .. } => FailureKind::Timeout,
            Self::Failed { .. } => FailureKind::CommandFailed,
            Self::Unreadable { .. } => FailureKind::Unknown,
            Self::NoInstance { .. } => FailureKind::NoInstance,
            Self::NotReady { .. } => FailureKind::VmNotReady,
            Self::Busy { .. } => FailureKind::VmBusy,
            Self::Unseen { .. } | Self::Io { .. } => FailureKind::Io,
        }
    }

    /// Whether trying again later may help by itself.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Failed { .. } | Self::Busy { .. } | Self::Unseen { .. } | Self::Io { .. } => {
                true
            }
            Self::Missing { .. }
            | Self::Root
            | Self::TooOld { .. }
            | Self::Unreadable { .. }
            | Self::NoInstance { .. }
            | Self::NotReady { .. } => false,
        }
    }
}

/// Where there may be none, and the engine runs on this host.
impl<V: Vm> Vm for Option<V> {
    async fn look(&self) -> Result<Option<VmState>, VmError> {
        match self {
            Some(vm) => vm.look().await,
            None => Ok(None),
        }
    }

    async fn adopt(&self, owner: &Ownership) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.adopt(owner).await,
            None => Ok(()),
        }
    }

    async fn create(&self, make: &VmMake) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.create(make).await,
            None => Ok(()),
        }
    }

    async fn validate(&self, make: &VmMake) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.validate(make).await,
            None => Ok(()),
        }
    }

    async fn start(&self, how: Boot, make: &VmMake) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.start(how, make).await,
            None => Ok(()),
        }
    }

    async fn stop(&self, force: bool) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.stop(force).await,
            None => Ok(()),
        }
    }

    async fn delete(&self) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.delete().await,
            None => Ok(()),
        }
    }

    async fn forward(&self, ports: &[Forward]) -> Result<(), VmError> {
        match self {
            Some(vm) => vm.forward(ports).await,
            None => Ok(()),
        }
    }

    async fn is_connectable(&self, port: &Forward) -> bool {
        match self {
            Some(vm) => vm.is_connectable(port).await,
            None => false,
        }
    }

    async fn events(&self) -> Result<Option<VmEvents>, VmError> {
        match self {
            Some(vm) => vm.events().await,
            None => Ok(None),
        }
    }
}
