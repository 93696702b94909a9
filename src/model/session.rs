//! Sessions and workspaces as the state file declares them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::redact::Secrets;
use super::text::Text;

words! {
    /// What becomes of a session's standard input.
    pub enum SessionStdin {
        /// A pipe that can be sent to. The default.
        Pipe = "pipe",
        /// There is none.
        Closed = "closed",
    }
}

words! {
    /// When the command of a session that ended is started again.
    pub enum SessionRestart {
        /// Never.
        No = "no",
        /// When it ended with another code than 0, or by a signal. The default.
        OnFailure = "on-failure",
        /// Always.
        Always = "always",
    }
}

words! {
    /// What is done about a session that is idle: it has neither printed nor been sent anything.
    pub enum IdleAction {
        /// It is told, and goes on.
        Notify = "notify",
        /// It is stopped, and stays so.
        Stop = "stop",
    }
}

/// When a session counts as idle, and what is done then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionIdle {
    /// After so long.
    pub after: Duration,
    /// What is done.
    pub action: IdleAction,
}

/// A session that an agent is to have, resolved.
///
/// As of [`super::ContainerSpec`], whoever makes something of each field takes it apart without `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// Program and arguments. Never empty.
    pub command: Vec<Text>,
    /// Where it runs: an absolute path in the container. `None` for the container's own working directory.
    pub cwd: Option<Text>,
    /// Variables on top of the container's own.
    pub env: BTreeMap<String, Text>,
    /// Its standard input.
    pub stdin: SessionStdin,
    /// Whether it runs in a terminal.
    pub tty: bool,
    /// Programs that must be on its PATH before it is started.
    pub requires: Vec<String>,
    /// When it is started again.
    pub restart: SessionRestart,
    /// Whom it runs as; `None` for the container's user.
    pub user: Option<String>,
    /// How large its log may be, in bytes. Default [`SessionSpec::LOG`].
    pub log_max: u64,
    /// When it counts as idle.
    pub idle: Option<SessionIdle>,
}

impl SessionSpec {
    /// How large a session's log may be unless something else is said, in bytes: 8 MiB.
    pub const LOG: u64 = 8 << 20;

    /// The values in it that must never be shown.
    pub fn secrets(&self) -> Secrets {
        let texts = self.command.iter().chain(&self.cwd).chain(self.env.values());
        Secrets::new(texts.filter(|text| text.is_sensitive()).map(Text::expose))
    }
}

/// What becomes of what is not committed in the source of a workspace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dirty {
    /// It goes in.
    #[default]
    Include,
    /// Nothing goes in.
    Refuse,
    /// The commit goes in.
    Ignore,
}

impl Dirty {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Dirty::Include => "include",
            Dirty::Refuse => "refuse",
            Dirty::Ignore => "ignore",
        }
    }
}

/// A source tree of this machine that is to be in an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkspaceSpec {
    /// The directory of this machine: absolute.
    pub source: PathBuf,
    /// Where it goes in the container: absolute, without a slash at its end.
    pub target: String,
    /// Whether the agent's user may not write to it.
    pub read_only: bool,
    /// What becomes of what is not committed.
    pub dirty: Dirty,
    /// Ignored files and directories of the source that go in all the same, relative to it.
    pub include: Vec<PathBuf>,
}

impl WorkspaceSpec {
    /// Whether a directory of the container is it or lies in it.
    pub fn holds(&self, directory: &str) -> bool {
        let rest = directory.strip_prefix(&self.target);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_lies_in_a_workspace_by_its_parts() {
        let workspace = WorkspaceSpec {
            source: "/src".into(),
            target: "/root/repo".into(),
            read_only: false,
            dirty: Dirty::default(),
            include: Vec::new(),
        };
        assert!(workspace.holds("/root/repo") && workspace.holds("/root/repo/sub"));
        assert!(!workspace.holds("/root/repository") && !workspace.holds("/root"));
    }
}
