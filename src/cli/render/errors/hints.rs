//! The way out of an error: what to try, by what failed.

use std::io;

use super::trust;
use crate::act::ActError;
use crate::backend::{EngineError, EngineErrorKind, PullFault, PullRefusal, StoreError, VmError, WayOut};
use crate::model::wanted::ManifestCause;
use crate::model::{AgentName, FailureKind, ImageId, ImageRef, ManifestError, Whose};
use crate::plan::WaitingOn;
use crate::reconcile::Problem;
use crate::why::Failure;

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

pub(super) fn general_hint(problem: &Problem) -> Option<String> {
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
            WaitingOn::AdHocSession { session } => Some(format!(
                "end it (`steadfast session rm --force {session}`), or give the declared one another name"
            )),
            WaitingOn::LocalImage { .. } => {
                Some("build or load it (`podman load`, `podman build`), or choose `source: registry`".into())
            }
            WaitingOn::Quarantine { .. } => Some(QUARANTINED.into()),
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

pub(super) fn name_taken_hint(reference: &ImageRef, held_by: &ImageId) -> String {
    let id = held_by.short();
    format!(
        "`podman untag {id} {reference}` takes the name from that image, and --adopt moves it to the manifest's; either way \
         that image stays"
    )
}

/// What ends a quarantine.
pub(crate) const QUARANTINED: &str = "not tried again until the state file, the artifact or the spec changes; `steadfast history \
                                      AGENT` keeps its last log lines, `steadfast apply --retry-quarantined` tries it now";

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
        FailureKind::Session => {
            format!(
                "`steadfast session list {agent}` shows how its sessions are, `steadfast session logs` what they print"
            )
        }
        FailureKind::Workspace => format!("`steadfast workspace status {agent}` compares both sides"),
        FailureKind::NotReady => "it may just need longer: `steadfast status --watch` shows when it is ready".into(),
        FailureKind::Unhealthy => {
            format!("`steadfast logs {agent}` and `steadfast exec {agent} -- CMD` help to find out why")
        }
        FailureKind::RolledBack | FailureKind::RollBackFailed => {
            "the new one failed: fix what the error names, or go back to what ran before in the state file".into()
        }
        FailureKind::Network => "`podman network ls` shows those there are, and whose they are by their labels".into(),
        FailureKind::Volume => "`podman volume ls` shows those there are, and whose they are by their labels".into(),
        FailureKind::Quarantined => QUARANTINED.replace("AGENT", agent.as_str()),
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

pub(super) fn act_hint(err: &ActError) -> Option<String> {
    match err {
        ActError::Store(err) => store_hint(err),
        ActError::Vm(err) => vm_hint(err),
        ActError::Engine(err) => engine_hint(err),
        ActError::Inside(err) => inside_hint(err.kind).map(str::to_owned),
        ActError::SessionEnded { session, .. } => Some(format!("`steadfast session logs {session}` shows all it said")),
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
        ActError::Unhealthy { .. } | ActError::OutOfTime { .. } => {
            Some("`steadfast logs AGENT` and `steadfast exec AGENT -- CMD` help to find out why".into())
        }
        // Its log went with it, and `logs` would show the predecessor's.
        ActError::RolledBack { cause, .. }
            if matches!(
                **cause,
                ActError::EndedAtOnce { .. } | ActError::Unhealthy { .. } | ActError::OutOfTime { .. }
            ) =>
        {
            Some("the predecessor runs again; `steadfast history AGENT` keeps the successor's last lines".into())
        }
        ActError::RolledBack { cause, .. } | ActError::RollBackFailed { cause, .. } => act_hint(cause),
        ActError::Interrupted => None,
    }
}

fn inside_hint(kind: FailureKind) -> Option<&'static str> {
    match kind {
        FailureKind::Session => Some("nothing was started; `steadfast exec AGENT -- CMD` looks into the agent"),
        FailureKind::Workspace => {
            Some("what is in the agent stays as it is; `steadfast workspace status` compares both sides")
        }
        FailureKind::TransportUnavailable | FailureKind::Timeout => Some("`steadfast doctor` checks every layer"),
        _ => None,
    }
}

pub(super) fn store_hint(err: &StoreError) -> Option<String> {
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
pub(super) fn vm_hint(err: &VmError) -> Option<String> {
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
pub(super) fn pull_hint(fault: &PullFault) -> String {
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

pub(super) fn engine_hint(err: &EngineError) -> Option<String> {
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
