//! What is inside of an agent's container: its sessions and workspaces, as they were found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::canonical::CanonicalSession;
use super::ids::{ContainerId, SessionName};
use super::observed::Seen;
use super::session::Dirty;

/// What is inside of the container of an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Inside {
    /// Which container was looked into.
    pub container: ContainerId,
    /// All sessions in it, ad-hoc ones too. Never absent: there may be none.
    pub sessions: Seen<BTreeMap<SessionName, SessionState>>,
    /// The workspaces of the agent that are remembered, by their target.
    pub workspaces: BTreeMap<String, WorkspaceState>,
}

/// A session.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionState {
    /// Of this one start of it: never the same twice.
    pub id: String,
    /// Who started it.
    pub origin: SessionOrigin,
    /// Where it stands in its life.
    pub phase: SessionPhase,
    /// The process of its command in the container, while it runs.
    pub pid: Option<i32>,
    /// When that process started, in the kernel's ticks since boot: with `pid` it tells the process.
    pub pid_started: Option<u64>,
    /// When its command was last started.
    pub started_at: Option<SystemTime>,
    /// How often its keeper has started the command again.
    pub restarts: u32,
    /// For how long it has neither printed nor been sent anything, while it runs.
    pub idle: Option<Duration>,
    /// Whether it sleeps with all input read; `None` where that cannot be seen.
    pub waits_for_input: Option<bool>,
}

/// Who started a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionOrigin {
    /// Somebody did, by hand.
    AdHoc,
    /// A state file declares it: as this. `None` where what its keeper holds cannot be read.
    Declared(Option<CanonicalSession>),
}

/// Where a session stands in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionPhase {
    /// Its command runs.
    Running,
    /// Its command ended, and its keeper starts it again later.
    BackingOff {
        /// How it ended.
        exit: SessionExit,
        /// When it is started again.
        until: Option<SystemTime>,
    },
    /// Its command ended, and its keeper does not start it again.
    Exited {
        /// How it ended.
        exit: SessionExit,
        /// Who ended it.
        by: EndedBy,
    },
    /// Its keeper is gone without a word: it was killed, or the container was started anew.
    Lost,
    /// It could not be asked.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Who ended the command of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndedBy {
    /// Itself, or whatever sent it a signal.
    Itself,
    /// Somebody who asked for it: `session stop`.
    Request,
    /// Its keeper, since it was idle for too long.
    Idleness,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionExit {
    /// Its exit code, where it exited by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel ended it for want of memory.
    pub oom_killed: bool,
}

impl SessionExit {
    /// Whether it ended well.
    pub fn is_success(self) -> bool {
        self.code == Some(0)
    }
}

impl fmt::Display for SessionExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            _ if self.oom_killed => f.write_str("was killed for want of memory"),
            (Some(code), _) => write!(f, "exited with code {code}"),
            (None, Some(signal)) => write!(f, "was killed by signal {signal}"),
            (None, None) => f.write_str("ended"),
        }
    }
}

impl fmt::Display for SessionPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionPhase::Running => f.write_str("is running"),
            SessionPhase::BackingOff { exit, .. } => write!(f, "{exit}, and is backing off"),
            SessionPhase::Exited { by: EndedBy::Idleness, .. } => f.write_str("was stopped since it was idle"),
            SessionPhase::Exited { by: EndedBy::Request, .. } => f.write_str("was stopped by request"),
            SessionPhase::Exited { exit, by: EndedBy::Itself } => exit.fmt(f),
            SessionPhase::Lost => f.write_str("was lost: its keeper was killed, or its container was started anew"),
            SessionPhase::Unknown { why } => write!(f, "cannot be observed: {why}"),
        }
    }
}

/// A workspace, as it was last prepared, and its source now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceState {
    /// The container that it was put into.
    pub container: ContainerId,
    /// The directory of this machine that it came from.
    pub source: PathBuf,
    /// Whether the agent's user may not write to it.
    pub read_only: bool,
    /// What became of what was not committed.
    pub dirty: Dirty,
    /// What went in although it is ignored.
    pub include: Vec<PathBuf>,
    /// The name of the branch that its commits come back as.
    pub name: String,
    /// The commit that was put.
    pub commit: Option<String>,
    /// When it was last prepared with something new.
    pub prepared_at: Option<SystemTime>,
    /// Paths of the source that have something newer than the guest, whose own change is kept.
    pub kept: usize,
    /// A digest of the source as it was put: names, kinds, modes, stamps and commits. Empty where that was not told to an end.
    pub prepared: String,
    /// The same of the source now, or why it cannot be read. `None` where nobody looked.
    pub now: Option<Result<String, String>>,
}
