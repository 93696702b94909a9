//! Errors: the sentence, then the way out. The library stops after the first line; the hints are given here.

mod hints;
mod trust;

use hints::*;
pub(crate) use hints::{AGAIN, failure_hint, kind_hint, problem_hint, root_hint};
use std::process::ExitCode;

use super::said::{self, Level};
use crate::act::ActError;
use crate::backend::{EngineError, StoreError, VmError};
use crate::control::client::AskError;
use crate::control::files::told_text;
use crate::control::{RefusedKind, StateFiles};
use crate::error::Chain;
use crate::files;
use crate::model::wanted::ManifestCause;
use crate::model::{FailureKind, InstanceName, ManifestError};
use crate::observe::ManifestFault;
use crate::plan::WaitingOn;
use crate::reconcile::lock::{Holder, LockError};
use crate::reconcile::{Problem, Refusal};
use crate::state::{self, StateError};

/// What the process ends with. Scripts rely on these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done, or nothing to do.
    Done = 0,
    /// What is wanted could not be looked at or done.
    Error = 1,
    /// `plan --detailed-exitcode`: changes are pending.
    Pending = 2,
    /// Applied, not converged.
    NotConverged = 3,
    /// A replacement was rolled back.
    RolledBack = 4,
    /// Another process holds the lock.
    Locked = 5,
    /// Verification failed.
    Unverified = 6,
    /// Bad flags.
    Usage = 64,
    /// The state file or the manifest is invalid.
    Invalid = 65,
    /// `exec` itself failed.
    ExecFailed = 125,
    /// SIGINT.
    Interrupted = 130,
    /// SIGTERM.
    Terminated = 143,
}

impl ExitStatus {
    const ALL: [Self; 12] = [
        Self::Done,
        Self::Error,
        Self::Pending,
        Self::NotConverged,
        Self::RolledBack,
        Self::Locked,
        Self::Unverified,
        Self::Usage,
        Self::Invalid,
        Self::ExecFailed,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// What another process ended with, or would have.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| *status as u8 == code)
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// An error as it reaches the user.
#[derive(Debug)]
pub struct CliError {
    /// What the process ends with.
    pub status: ExitStatus,
    /// The sentence.
    pub message: String,
    /// What may help, one line each.
    pub hints: Vec<String>,
    /// What is wrong with the state file. The message is laid out already then, and wants no `error:` before it.
    pub state: Option<Box<StateError>>,
}

impl CliError {
    /// An error without hints.
    pub fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), hints: Vec::new(), state: None }
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The problems of a state file, with their places.
    pub fn state(err: &StateError, color: bool) -> Self {
        Self { state: Some(Box::new(err.clone())), ..Self::new(ExitStatus::Invalid, err.render(color)) }
    }

    /// A failure of the store.
    pub fn from_store(err: &StoreError) -> Self {
        let status = match err {
            StoreError::DigestMismatch { .. }
            | StoreError::SizeMismatch { .. }
            | StoreError::Untrusted { .. }
            | StoreError::Manifest { err: ManifestError::Pinned { .. }, .. } => ExitStatus::Unverified,
            StoreError::Accepted(err) if err.is_lost() => ExitStatus::Unverified,
            StoreError::Manifest { .. } => ExitStatus::Invalid,
            _ => ExitStatus::Error,
        };
        Self { hints: store_hint(err).into_iter().collect(), ..Self::new(status, Chain(err).to_string()) }
    }

    /// A failure of Podman.
    pub fn from_engine(err: &EngineError) -> Self {
        Self { hints: engine_hint(err).into_iter().collect(), ..Self::new(ExitStatus::Error, Chain(err).to_string()) }
    }

    /// A failure of limactl or of the machine.
    pub fn from_vm(err: &VmError) -> Self {
        Self { hints: vm_hint(err).into_iter().collect(), ..Self::new(ExitStatus::Error, Chain(err).to_string()) }
    }

    /// A virtual machine of somebody else. `whose` says so as the rest of a sentence.
    pub fn foreign(instance: &InstanceName, whose: &str) -> Self {
        Self::new(ExitStatus::Error, format!("VM `{instance}` {whose}"))
            .hint("`steadfast apply --adopt` takes it over; `limactl` works on it all the same")
    }

    /// A lock that was not had. `wanted` is the state file that was given.
    pub fn from_lock(err: &LockError, wanted: &StateFiles) -> Self {
        match err {
            LockError::Held { holder: Some(holder), .. }
                if holder.is_run() && holder.works_for(wanted) == Some(false) =>
            {
                Self::kept(holder, wanted)
            }
            LockError::Held { holder: Some(holder), .. } if holder.is_run() => {
                Self::new(ExitStatus::Locked, Chain(err).to_string())
                    .hint(format!("one is enough: `steadfast status` shows what it does; stop it first (`kill {}`) to start another", holder.pid))
            }
            LockError::Held { .. } => Self::new(ExitStatus::Locked, Chain(err).to_string())
                .hint("wait for it, or give --lock-timeout a longer time; the lock ends with its holder, there is nothing to clean up"),
            LockError::Io { err: cause, .. } if files::unfit(cause).is_some() => {
                Self::new(ExitStatus::Error, Chain(err).to_string())
            }
            LockError::Io { err: cause, .. } => {
                Self::new(ExitStatus::Error, Chain(err).to_string()).hint(root_hint(cause))
            }
        }
    }

    /// A state file that `run` keeps, so that nothing is done to it beside. `wanted` is the state file that was given.
    pub fn kept(holder: &Holder, wanted: &StateFiles) -> Self {
        let (who, pid) = (holder.to_string(), holder.pid);
        match &holder.file {
            Some(file) if holder.works_for(wanted) == Some(false) => {
                let file = told_text(file, &holder.layers);
                Self::new(ExitStatus::Locked, format!("{who} reconciles another state file of this name: `{file}`"))
                    .hint(
                        "give this one a `name` of its own; or stop that `run`, and take its place with `--take-over`",
                    )
            }
            _ => Self::new(
                ExitStatus::Locked,
                format!("{who} reconciles this state file, and would recreate what is removed"),
            )
            .hint(format!(
                "stop it first: `steadfast service status` tells whether it is a service; if not, `kill {pid}`"
            )),
        }
    }

    /// A virtual machine that `run` looks after.
    pub fn kept_vm(holder: &Holder) -> Self {
        let pid = holder.pid;
        Self::new(ExitStatus::Locked, format!("{holder} reconciles this state file, and manages its virtual machine"))
            .hint(format!(
                "stop it first: `steadfast service status` tells whether it is a service; if not, `kill {pid}`"
            ))
    }

    /// A `run` that was asked and did not answer.
    pub fn from_asking(holder: &Holder, err: &AskError) -> Self {
        let goes_on = "it reconciles by itself all the same; `steadfast status` shows how far it is";
        match err {
            AskError::NotThere { .. } | AskError::PathTooLong { .. } | AskError::OtherUser { .. } => Self::new(
                ExitStatus::Locked,
                format!("{holder} reconciles this state file and cannot be asked: {}", Chain(err)),
            )
            .hint(goes_on),
            AskError::Refused(refused) if refused.kind.known() == Some(RefusedKind::Stopping) => {
                Self::new(ExitStatus::Error, format!("{holder} is stopping; the outcome is unknown"))
                    .hint("`steadfast apply` does the rest once it is gone")
            }
            AskError::Closed => Self::new(ExitStatus::Error, format!("{holder} ended before it reported the outcome"))
                .hint("`steadfast apply` does the rest; the log of `run` tells why it ended"),
            AskError::Refused(_) | AskError::Garbled { .. } | AskError::Io(_) => {
                Self::new(ExitStatus::Error, format!("{holder} did not answer: {}", Chain(err))).hint(goes_on)
            }
        }
    }

    /// A convergence that was not begun.
    pub fn from_refusal(err: &Refusal) -> Self {
        Self::new(ExitStatus::Error, err.to_string())
            .hint("give --allow-empty if that is meant; `steadfast down` removes everything too")
    }
}

/// Writes an error to standard error.
pub(crate) fn print(err: &CliError, color: bool) {
    match &err.state {
        None => said::say(Level::Error, &err.message, &err.hints, color),
        // Laid out over many lines for people; one line per problem here.
        Some(state) if said::is_json() => said::say(Level::Error, &state.to_string(), &err.hints, color),
        Some(_) => {
            said::write(err.message.strip_suffix('\n').unwrap_or(&err.message));
            said::print_hints(&err.hints, color);
        }
    }
}

/// Writes a warning about the state file to standard error.
pub(crate) fn print_warning(warning: &state::Problem, color: bool) {
    match said::is_json() {
        true => said::say(Level::Warn, &warning.to_string(), &[], color),
        false => said::write(&warning.render_warning(color)),
    }
}

/// What the process ends with for a problem.
pub(crate) fn problem_status(problem: &Problem, manifest_fault: Option<&ManifestFault>) -> ExitStatus {
    match problem {
        Problem::Failed { error, .. } => match &**error {
            ActError::Store(err) => CliError::from_store(err).status,
            // This code says that the predecessor runs; where it does not come back, something is broken.
            ActError::RolledBack { .. } => ExitStatus::RolledBack,
            ActError::Unhealthy { .. } | ActError::OutOfTime { .. } | ActError::EndedAtOnce { .. } => {
                ExitStatus::NotConverged
            }
            _ => ExitStatus::Error,
        },
        Problem::NonConvergent { .. } | Problem::Unready { .. } => ExitStatus::NotConverged,
        Problem::Untrusted { .. } => ExitStatus::Unverified,
        Problem::Recurring {
            kind: FailureKind::NonConvergent | FailureKind::Unhealthy | FailureKind::CrashLoop,
            ..
        } => ExitStatus::NotConverged,
        Problem::Recurring { .. } => ExitStatus::Error,
        Problem::Blocked { waiting } => match &waiting.on {
            WaitingOn::Manifest { .. } if manifest_fault == Some(&ManifestFault::Invalid) => ExitStatus::Invalid,
            WaitingOn::Manifest { cause: ManifestCause::Pinned { .. } } => ExitStatus::Unverified,
            // What it was to replace runs.
            WaitingOn::Quarantine { .. } => ExitStatus::RolledBack,
            _ => ExitStatus::Error,
        },
    }
}

#[cfg(test)]
mod tests;
