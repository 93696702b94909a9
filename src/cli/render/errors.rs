//! Errors: the sentence, then the way out. The library stops after the first line; the hints are given here.

mod trust;

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::said::{self, Level};
use crate::act::ActError;
use crate::backend::{EngineError, EngineErrorKind, PullFault, PullRefusal, StoreError, VmError, WayOut};
use crate::control::client::AskError;
use crate::control::{RefusedKind, is_same_file};
use crate::error::Chain;
use crate::files;
use crate::model::wanted::ManifestCause;
use crate::model::{AgentName, FailureKind, ImageId, ImageRef, InstanceName, ManifestError, Whose};
use crate::observe::ManifestFault;
use crate::plan::WaitingOn;
use crate::reconcile::lock::{Holder, LockError};
use crate::reconcile::{Problem, Refusal};
use crate::state::{self, StateError};
use crate::why::Failure;

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
    pub fn from_lock(err: &LockError, wanted: &Path) -> Self {
        match err {
            LockError::Held { holder: Some(holder), .. }
                if holder.is_run() && holder.file.as_ref().is_some_and(|file| !is_same_file(file, wanted)) =>
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
    pub fn kept(holder: &Holder, wanted: &Path) -> Self {
        let (who, pid) = (holder.to_string(), holder.pid);
        match &holder.file {
            Some(file) if !is_same_file(file, wanted) => {
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
pub(crate) fn print_warning(warning: &state::Problem, file: &str, color: bool) {
    match said::is_json() {
        true => said::say(Level::Warn, &warning.to_string(), &[], color),
        false => said::write(&warning.render_warning(file, color)),
    }
}

/// What the process ends with for a problem.
pub(crate) fn problem_status(problem: &Problem, manifest_fault: Option<&ManifestFault>) -> ExitStatus {
    match problem {
        Problem::Failed { error, .. } => match &**error {
            ActError::Store(err) => CliError::from_store(err).status,
            // This code says that the predecessor runs; where it does not come back, something is broken.
            ActError::RolledBack { .. } => ExitStatus::RolledBack,
            ActError::Unhealthy { .. } | ActError::EndedAtOnce { .. } => ExitStatus::NotConverged,
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
            _ => ExitStatus::Error,
        },
    }
}

/// What may help when something cannot be written below the root directory.
pub(crate) fn root_hint(err: &io::Error) -> &'static str {
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "there is no space left: `steadfast cache gc` frees what nothing needs; --root chooses another place"
        }
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            "the root must be a directory: name one with --root, or `root` in the state file"
        }
        _ => "the root directory must be writable: see --root and `root` in the state file",
    }
}

/// What may help against a problem.
pub(crate) fn problem_hint(problem: &Problem) -> Option<String> {
    let hint = general_hint(problem)?;
    Some(match problem.agent() {
        Some(agent) => hint.replace("AGENT", agent.as_str()),
        None => hint,
    })
}

fn general_hint(problem: &Problem) -> Option<String> {
    match problem {
        Problem::Failed { error, .. } => act_hint(error),
        Problem::Recurring { kind: FailureKind::NonConvergent, .. } | Problem::NonConvergent { .. } => Some(
            "something else changes it back, or Podman does not do what it says; `steadfast plan` shows the difference"
                .into(),
        ),
        Problem::Untrusted { cause, .. } => trust::hint(cause),
        Problem::Unready { agent, container, .. } => kind_hint(problem.kind(), agent, Some(container)),
        Problem::Recurring { .. } => Some("`steadfast logs AGENT` shows all it said".into()),
        Problem::Blocked { waiting } => match &waiting.on {
            WaitingOn::Foreign { whose: Some(Whose::Root { id, .. }), .. } => Some(format!(
                "give one of the two state files another `name`, or give --adopt to replace it; if it was made below this \
                 root, whose `state/id` was lost, write {id} into that file"
            )),
            WaitingOn::Foreign { name, .. } => Some(format!(
                "remove or rename it (`podman rename {name} …`), choose another `container.name`, or give --adopt to replace it"
            )),
            WaitingOn::OtherAgent { is_wanted: true, .. } => {
                Some("plan for that agent too: it is suspended, or not among those that were named".into())
            }
            WaitingOn::OtherAgent { name, is_wanted: false, .. } => Some(format!(
                "without --no-prune, and with no agents named, it is removed; or rename it (`podman rename {name} …`)"
            )),
            WaitingOn::ForeignVm { .. } => Some(
                "name another `instance` in the state file, or take this one over with --adopt: it is kept as it is"
                    .into(),
            ),
            WaitingOn::ImageName { reference, held_by } => Some(name_taken_hint(reference, held_by)),
            WaitingOn::LocalImage { .. } => {
                Some("build or load it (`podman load`, `podman build`), or choose `source: registry`".into())
            }
            // It says by itself what to write.
            WaitingOn::Manifest { cause: ManifestCause::NotConfigured { .. } } => None,
            WaitingOn::Manifest { .. } => Some(
                "`steadfast doctor` checks the manifest; $STEADFAST_MANIFEST_URL and `manifest.url` name it".into(),
            ),
            WaitingOn::Down { .. } => {
                Some("`steadfast vm start` starts it; `steadfast down --vm` deletes it with all that is in it".into())
            }
            WaitingOn::Precondition { kind, .. } => kind_hint(*kind, waiting.agent.as_ref()?, None),
            WaitingOn::Sight { .. } => Some("`steadfast doctor` checks every layer".into()),
            _ => None,
        },
    }
}

fn name_taken_hint(reference: &ImageRef, held_by: &ImageId) -> String {
    let id = held_by.short();
    format!(
        "`podman untag {id} {reference}` takes the name from that image, and --adopt moves it to the manifest's; either way \
         that image stays"
    )
}

/// What follows once the cause of a failure is repaired.
pub(crate) const AGAIN: &str = "`steadfast apply` tries again, and fails again otherwise";

/// What may help against a failure that the journal tells of.
pub(crate) fn failure_hint(failure: &Failure, agent: &AgentName, container: Option<&str>) -> Option<String> {
    failure
        .kind
        .known()
        .and_then(|kind| kind_hint(kind, agent, container))
        .or_else(|| failure.pull.as_ref().map(pull_hint))
}

/// What may help against an error of which only the kind is known, and the name of the agent's container, where it has one.
pub(crate) fn kind_hint(kind: FailureKind, agent: &AgentName, container: Option<&str>) -> Option<String> {
    Some(match kind {
        // With `restart: no` it stays so, whatever is applied.
        FailureKind::Failed => {
            let remove = container.map_or("remove its container".to_owned(), |name| format!("`podman rm {name}`"));
            format!("`steadfast logs {agent}` shows all it said; to run it again: {remove}, then `steadfast apply`")
        }
        FailureKind::EndedAtOnce | FailureKind::CrashLoop => format!("`steadfast logs {agent}` shows all it said"),
        FailureKind::NotReady => "it may just need longer: `steadfast status --watch` shows when it is ready".into(),
        FailureKind::Unhealthy => {
            format!("`steadfast logs {agent}` and `steadfast exec {agent} -- CMD` help to find out why")
        }
        FailureKind::RolledBack | FailureKind::RollBackFailed => {
            "the new one failed: fix what the error names, or go back to what ran before in the state file".into()
        }
        FailureKind::MountSource => {
            "create it first: Podman would make an empty directory owned by root in its place".into()
        }
        FailureKind::Conflict => {
            "somebody else holds what it needs: `ss -ltnp` shows who listens on a port, `podman ps -a` who has a name"
                .into()
        }
        FailureKind::Architecture => {
            "take an image that is built for Podman's machine, or install emulation on it".into()
        }
        FailureKind::NonConvergent => "something else changes it back, or Podman does not do what it says".into(),
        FailureKind::NoSpace => "`steadfast cache gc` frees what nothing needs".into(),
        FailureKind::ManifestFetch
        | FailureKind::ManifestInvalid
        | FailureKind::Manifest
        | FailureKind::Download
        | FailureKind::DigestMismatch
        | FailureKind::SizeMismatch => "`steadfast doctor` checks the manifest and the cache".into(),
        FailureKind::TransportUnavailable | FailureKind::Timeout | FailureKind::PermissionDenied => {
            "`steadfast doctor` checks every layer".into()
        }
        _ => return None,
    })
}

fn act_hint(err: &ActError) -> Option<String> {
    match err {
        ActError::Store(err) => store_hint(err),
        ActError::Vm(err) => vm_hint(err),
        ActError::Engine(err) => engine_hint(err),
        ActError::MountSource { .. } => {
            Some("create it first: Podman would make an empty directory owned by root in its place".into())
        }
        ActError::PortTaken { .. } => {
            Some("`ss -ltnp` shows who listens; choose another host port, or stop that process".into())
        }
        ActError::ImageNameTaken { reference, held_by } => Some(name_taken_hint(reference, held_by)),
        ActError::NoRoom { .. } => Some(
            "`podman system df` on Podman's machine shows what takes its space, and `podman image prune` frees what nobody uses"
                .into(),
        ),
        ActError::Architecture { .. } => Some(
            "take an image that is built for that machine, or install emulation on it (on Debian: `qemu-user-static`)"
                .into(),
        ),
        ActError::EndedAtOnce { .. } => Some("`steadfast logs AGENT` shows all it said".into()),
        ActError::Unhealthy { .. } => {
            Some("`steadfast logs AGENT` and `steadfast exec AGENT -- CMD` help to find out why".into())
        }
        // Its log went with it, and `logs` would show the predecessor's.
        ActError::RolledBack { cause, .. }
            if matches!(**cause, ActError::EndedAtOnce { .. } | ActError::Unhealthy { .. }) =>
        {
            Some("the predecessor runs again; `steadfast history AGENT` keeps the successor's last lines".into())
        }
        ActError::RolledBack { cause, .. } | ActError::RollBackFailed { cause, .. } => act_hint(cause),
        ActError::Interrupted => None,
    }
}

fn store_hint(err: &StoreError) -> Option<String> {
    let hint = match err {
        StoreError::ManifestFetch { .. } => "is the URL right, and the network up? `steadfast doctor` checks it",
        StoreError::Manifest {
            err: ManifestError::NoAgent { .. } | ManifestError::OtherVersion { .. } | ManifestError::NoArch { .. },
            ..
        } => "ask for what the manifest offers, or have the missing tarball published; nothing was changed",
        StoreError::Manifest { err: ManifestError::Pinned { .. }, .. } => {
            "pin what the manifest offers once you trust it, or have the pinned tarball published; nothing was changed"
        }
        StoreError::Manifest { .. } => "the publisher must fix it; nothing was changed",
        StoreError::Untrusted { err, .. } => trust::judged(err),
        StoreError::Accepted(err) => return trust::hint(&err.into()),
        StoreError::Download { .. } if err.is_retryable() => "what has arrived is kept, and resumed next time",
        StoreError::Download { .. } => {
            "the manifest names a tarball that cannot be fetched from there: is its upload complete, and the manifest's URL right?"
        }
        StoreError::DigestMismatch { .. } => {
            "the manifest or the upload is wrong, or somebody changes bytes on the way; nothing of it is used"
        }
        StoreError::SizeMismatch { .. } => "the manifest or the upload is wrong; nothing of it is used",
        StoreError::NoSpace { .. } => "`steadfast cache gc` frees what nothing needs; --root chooses another place",
        StoreError::Damaged { .. } => {
            "its digest matches, so the published tarball itself is broken: it must be published anew"
        }
        StoreError::OtherImage { .. } => {
            "the publisher must build the tarball from the image the manifest names; an `image` in the state file must be the \
             manifest's"
        }
        StoreError::Escapes { .. } => "the cache must be a plain directory tree; remove the link",
        StoreError::Io { .. } => return None,
    };
    Some(hint.to_owned())
}

/// What may help when limactl or the machine fails.
fn vm_hint(err: &VmError) -> Option<String> {
    let hint = match err {
        VmError::Missing { .. } => {
            "install Lima: `brew install lima` on macOS and Linux, or see https://lima-vm.io/docs/installation/"
        }
        VmError::Root => "run steadfast as the user whose virtual machine it is",
        VmError::TooOld { .. } => "upgrade Lima, for example with `brew upgrade lima`",
        VmError::TimedOut { .. } => {
            "`limactl list` in a terminal shows whether Lima itself responds; see also `steadfast doctor`"
        }
        VmError::Failed { .. } => {
            "`steadfast doctor` checks every layer; Lima's own log is in `<LIMA_HOME>/<instance>/ha.stderr.log`"
        }
        VmError::Unreadable { .. } => "this Lima may be newer than this steadfast: `limactl --version` tells",
        VmError::NoInstance { .. } => {
            "if nothing in that directory is needed, move it away; Lima refuses to work beside it"
        }
        VmError::NotReady { .. } => "fix what its boot log names, in the template or on the network, and apply again",
        VmError::Busy { .. } => "wait until Lima is done with it: `limactl list` shows how it is",
        VmError::Unseen { .. } => "Lima's home must be readable for whoever runs steadfast",
        VmError::Io { .. } => return None,
    };
    Some(hint.to_owned())
}

/// What may help when an image could not be pulled.
fn pull_hint(fault: &PullFault) -> String {
    match fault.why {
        PullRefusal::LoginWanted => format!(
            "`podman login {}` here, where steadfast runs; the next try finds the login, and passes it on",
            fault.registry
        ),
        PullRefusal::NoSuchImage => {
            "its registry has no such image: are `image` and `version` right, and is it pushed?".to_owned()
        }
        PullRefusal::Unreachable => {
            "its registry does not answer Podman: is the name in `image` right, and the network up?".to_owned()
        }
    }
}

fn engine_hint(err: &EngineError) -> Option<String> {
    if let Some(fault) = &err.pull {
        return Some(pull_hint(fault));
    }
    let hint = match err.kind {
        _ if err.way_out == WayOut::InLayers => "`steadfast doctor` checks every layer",
        _ if err.way_out == WayOut::InSentence => return None,
        EngineErrorKind::TransportUnavailable => {
            "is Podman's service running? `systemctl --user start podman.socket`, or `podman system service --time=0`"
        }
        EngineErrorKind::Timeout => "Podman's service may hang: `podman ps` in a terminal shows whether it answers",
        EngineErrorKind::PermissionDenied => "the socket belongs to another user: see `runtime.podman.socket`",
        _ => return None,
    };
    Some(hint.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Arch, Sha256Digest, VmPhase};
    use crate::plan::{ActionKind, Reason, Waiting};

    #[test]
    fn the_way_out_follows_from_what_failed_and_not_from_its_sentence() {
        let failed = |why| EngineError {
            pull: Some(Box::new(PullFault { registry: "reg.example:5000".to_owned(), why })),
            ..EngineError::new(EngineErrorKind::ApiError, "reworded")
        };
        let hint = |err: &EngineError| engine_hint(err).unwrap_or_default();
        let login = hint(&failed(PullRefusal::LoginWanted));
        assert!(login.starts_with("`podman login reg.example:5000` here"), "{login}");
        assert!(hint(&failed(PullRefusal::NoSuchImage)).starts_with("its registry has no such image"));
        assert!(hint(&failed(PullRefusal::Unreachable)).starts_with("its registry does not answer"));
        let lost = |way_out, message: &str| {
            let kind = EngineErrorKind::TransportUnavailable;
            hint(&EngineError { way_out, ..EngineError::new(kind, message) })
        };
        assert_eq!(lost(WayOut::InLayers, "reworded"), "`steadfast doctor` checks every layer");
        assert_eq!(lost(WayOut::InSentence, "reworded"), "");
        let by_kind = lost(WayOut::ByKind, "a log of VM `dev` speaks of podman system service");
        assert!(by_kind.starts_with("is Podman's service running?"), "{by_kind}");
    }

    #[test]
    fn the_exit_code_and_the_hint_of_a_manifest_follow_from_why_there_is_none() {
        let of = |cause| {
            let agent: AgentName = "a".parse().unwrap();
            let waiting = Waiting {
                agent: Some(agent),
                kind: ActionKind::FetchArtifact,
                target: "a".to_owned(),
                reason: Reason::NotCached,
                on: WaitingOn::Manifest { cause },
            };
            let problem = Problem::Blocked { waiting };
            (problem_status(&problem, None), problem_hint(&problem).is_some())
        };
        let (agent, arch) = ("a".parse::<AgentName>().unwrap(), Arch::X64);
        let digest = |digit: &str| Sha256Digest::parse(&digit.repeat(64)).unwrap();
        let pinned = ManifestCause::Pinned { agent, arch, offered: digest("0"), pinned: digest("1") };
        assert_eq!(of(pinned), (ExitStatus::Unverified, true));
        let why = || "somebody pins a note here: no manifest is configured, which its image is to come from".to_owned();
        assert_eq!(of(ManifestCause::NotOffered { why: why() }), (ExitStatus::Error, true));
        assert_eq!(of(ManifestCause::Unseen { why: why() }), (ExitStatus::Error, true));
        assert_eq!(of(ManifestCause::NotConfigured { help: "reworded".to_owned() }), (ExitStatus::Error, false));
    }

    #[test]
    fn what_a_machine_that_is_down_keeps_is_taken_down_once_it_runs_or_with_it() {
        let waiting = Waiting {
            agent: None,
            kind: ActionKind::RemoveContainer,
            target: "containers".to_owned(),
            reason: Reason::TakenDown,
            on: WaitingOn::Down { instance: InstanceName::new("dev").unwrap(), phase: VmPhase::Stopped },
        };
        let on = waiting.on.clone();
        assert_eq!((on.word(), on.is_blocked(), waiting.hides()), ("sight", true, true));
        let problem = Problem::Blocked { waiting: waiting.clone() };
        assert!(problem_hint(&problem).unwrap().contains("`steadfast down --vm`"));
        assert!(problem.is_unseen() && problem.to_string().starts_with("VM `dev` "));
        let on = WaitingOn::Sight { why: "VM `dev` is mentioned".to_owned() };
        let problem = Problem::Blocked { waiting: Waiting { on, ..waiting } };
        assert_eq!(problem_hint(&problem).unwrap(), "`steadfast doctor` checks every layer");
    }

    #[test]
    fn what_cannot_be_written_comes_with_what_would_help() {
        let hint = |kind: io::ErrorKind| root_hint(&kind.into());
        assert!(hint(io::ErrorKind::StorageFull).contains("cache gc"));
        assert!(hint(io::ErrorKind::NotADirectory).contains("must be a directory"));
        assert!(hint(io::ErrorKind::ReadOnlyFilesystem).contains("must be writable"));
    }

    #[test]
    fn another_run_of_the_name_is_not_to_be_seen_from_this_file() {
        let holder = |file: &str| {
            let line = format!(r#"{{"pid":7,"command":"run","since":"2026-04-24T00:00:00Z","file":"{file}"}}"#);
            serde_json::from_str::<Holder>(&line).unwrap()
        };
        let hints = |file: &str| {
            let held = LockError::Held { path: "/l".into(), holder: Some(holder(file)) };
            CliError::from_lock(&held, Path::new("/srv/a.yaml")).hints.join("; ")
        };
        assert!(hints("/srv/a.yaml").contains("steadfast status"), "{}", hints("/srv/a.yaml"));
        assert!(!hints("/srv/b.yaml").contains("steadfast status"), "{}", hints("/srv/b.yaml"));
    }

    #[test]
    fn what_fails_on_the_way_into_a_vm_does_not_send_people_to_this_hosts_podman() {
        let unreachable = |way_out| {
            let kind = EngineErrorKind::TransportUnavailable;
            act_hint(&ActError::Engine(EngineError { way_out, ..EngineError::new(kind, "it does not answer") }))
        };
        assert!(unreachable(WayOut::ByKind).unwrap().contains("podman.socket"));
        assert_eq!(unreachable(WayOut::InLayers).unwrap(), "`steadfast doctor` checks every layer");
    }
}
