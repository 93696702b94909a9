//! Why an action is planned, in a sentence.

use std::fmt;

use crate::model::{ContainerName, FieldChange, Phase, SessionPhase, VmPhase};

/// Why a step is planned. A fact about what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The artifact is not in the cache.
    NotCached,
    /// Its file has other bytes than the manifest promises.
    WrongBytes,
    /// The cache has no manifest yet.
    ManifestMissing,
    /// The published manifest is another one.
    ManifestChanged,
    /// There is no such virtual machine.
    VmMissing,
    /// The virtual machine does not run, or only half of it does.
    VmDown(VmPhase),
    /// The virtual machine runs, and Podman in it has answered in no way for as long as it may.
    VmSilent,
    /// The virtual machine was made from another template.
    TemplateChanged,
    /// A published port does not lead into the virtual machine.
    NotForwarded,
    /// The engine has no image of this name.
    ImageMissing,
    /// The image is there, and nothing has its name.
    ImageUntagged,
    /// It is not known which image the tarball holds.
    ImageUnknown,
    /// There is no such network or volume.
    SharedMissing,
    /// The network or volume is somebody else's.
    SharedForeign,
    /// There is no such container.
    ContainerMissing,
    /// It could not be looked at.
    NotSeen,
    /// It should run and does not.
    NotRunning(Phase),
    /// Its health check failed as often as its retries allow.
    Unhealthy,
    /// It ends again and again, and Podman restarts it each time: it rests until it may be tried again.
    CrashLoop,
    /// It runs and should not.
    WantedStopped,
    /// These fields differ.
    Changed(Vec<FieldChange>),
    /// Its spec label cannot be read.
    SpecUnreadable,
    /// It belongs to nobody, and was given to us.
    Adopted,
    /// The agent is gone from the state file.
    Orphaned,
    /// The agent is to be absent.
    WantedAbsent,
    /// A replacement that did not finish left it.
    Leftover,
    /// A replacement that did not finish has not proved it yet.
    Unproved,
    /// Somebody is replacing it right now.
    BeingReplaced,
    /// It has another name than it should.
    Misnamed {
        /// The name it has.
        from: ContainerName,
    },
    /// It has the name that another agent takes over, which has the one that this agent takes.
    NameSwap {
        /// The name it has.
        from: ContainerName,
    },
    /// What it was to replace is as wanted again.
    TakenBack,
    /// It holds a host port that another agent takes over, which gives up one that this agent takes.
    PortSwap,
    /// There is no such session, or only what is left of an ad-hoc one.
    SessionMissing,
    /// The session is not as it should be: it ended, or was lost.
    SessionEnded(SessionPhase),
    /// The session is not in the state file any more.
    SessionUndeclared,
    /// The workspace is not in this container.
    WorkspaceMissing,
    /// The source of the workspace is another than what was put, by digests of both.
    SourceChanged {
        /// As it was put.
        from: String,
        /// As it is.
        to: String,
    },
    /// Whether the source of the workspace changed cannot be told.
    SourceUnreadable,
    /// The state file is being taken down.
    TakenDown,
    /// Somebody asked for it.
    Asked,
    /// Newer versions are in use and as many older ones kept as the state file says.
    Superseded,
}

impl Reason {
    /// The differing fields, where that is the reason.
    pub fn changes(&self) -> &[FieldChange] {
        match self {
            Reason::Changed(changes) => changes,
            _ => &[],
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Reason::NotCached => "not in the cache",
            Reason::WrongBytes => "the cached file has other bytes than the manifest promises",
            Reason::ManifestMissing => "the cache has no manifest",
            Reason::ManifestChanged => "the published manifest changed",
            Reason::VmMissing => "there is no such VM",
            Reason::VmDown(phase) => return write!(f, "it {phase}"),
            Reason::VmSilent => "it runs, and Podman in it does not answer",
            Reason::TemplateChanged => "its template changed",
            Reason::NotForwarded => "the port is not forwarded into the VM yet",
            Reason::ImageMissing => "the image is not there",
            Reason::ImageUntagged => "the image has lost its tag",
            Reason::ImageUnknown => "it is not known yet which image the tarball holds",
            Reason::SharedMissing | Reason::ContainerMissing => "it does not exist",
            Reason::SharedForeign => "it is somebody else's",
            Reason::NotSeen => "it cannot be observed",
            Reason::NotRunning(phase) => return write!(f, "it {phase}"),
            Reason::Unhealthy => "it is unhealthy",
            Reason::CrashLoop => "it is in a crash loop, and backs off",
            Reason::WantedStopped => "its desired state is stopped",
            Reason::Changed(changes) => {
                for (at, change) in changes.iter().enumerate() {
                    let comma = if at == 0 { "" } else { ", " };
                    write!(f, "{comma}{}", change.field)?;
                }
                return f.write_str(" changed");
            }
            Reason::SpecUnreadable => "its spec label cannot be read",
            Reason::Adopted => "it is adopted from its owner",
            Reason::Orphaned => "its agent is not in the state file any more",
            Reason::WantedAbsent => "its desired state is absent",
            Reason::Leftover => "an interrupted replacement left it",
            Reason::Unproved => "an interrupted replacement has not verified it yet",
            Reason::BeingReplaced => "it is being replaced",
            Reason::Misnamed { from } => return write!(f, "it is named `{from}`"),
            Reason::NameSwap { from } => return write!(f, "another agent takes over its name `{from}`"),
            Reason::TakenBack => "what it was to replace is as desired again",
            Reason::PortSwap => "another agent takes over its host port",
            Reason::SessionMissing => "it does not run",
            Reason::SessionEnded(phase) => return write!(f, "it {phase}"),
            Reason::SessionUndeclared => "it is not in the state file any more",
            Reason::WorkspaceMissing => "it is not in the container",
            Reason::SourceChanged { .. } => "its source changed",
            Reason::SourceUnreadable => "whether its source changed cannot be told",
            Reason::Asked => "as asked",
            Reason::TakenDown => "the state file is taken down",
            Reason::Superseded => "newer versions are in use",
        };
        f.write_str(text)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Created => f.write_str("was never started"),
            Phase::Running => f.write_str("is running"),
            Phase::Paused => f.write_str("is paused"),
            Phase::Stopping => f.write_str("is stopping"),
            Phase::Exited { code } => write!(f, "exited with code {code}"),
            Phase::Removing => f.write_str("is being removed"),
            Phase::Other(word) => write!(f, "is `{word}`"),
        }
    }
}
