//! Sessions and workspaces as the state file declares them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::redact::Secrets;
use super::spec::secret_parts;
use super::text::{Text, url_with_password};

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

    /// The values in it that must never be shown, for whatever repeats what a session was given: as of
    /// [`super::ContainerSpec::secrets`].
    pub fn secrets(&self) -> Secrets {
        let Self { command, cwd, env, stdin: _, tty: _, requires: _, restart: _, user: _, log_max: _, idle: _ } = self;
        let mut values: Vec<&str> = Vec::new();
        for text in env.values().chain(command).filter(|text| text.is_sensitive()).map(Text::expose) {
            values.push(text);
            values.extend(url_with_password(text).map(|(_, password)| password));
        }
        for path in cwd.iter().filter(|path| path.is_sensitive()).map(Text::expose) {
            values.push(path);
            values.extend(secret_parts(path));
        }
        Secrets::new(values)
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

/// The longest path that a kernel takes, in bytes.
const LONGEST_PATH: usize = 4095;

/// A directory of a container: absolute, and without what says nothing in it. What is wrong is told as the rest of a sentence.
pub(crate) fn guest_path(text: &str) -> Result<String, &'static str> {
    if !text.starts_with('/') {
        return Err("is not absolute: a path in the container begins with `/`");
    }
    let parts: Vec<_> = text.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("goes up with `..`: write the path itself");
    }
    if text.len() > LONGEST_PATH || text.contains('\0') {
        return Err("is no path: it is longer than 4095 bytes, or has a NUL character");
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Where a workspace goes, as [`guest_path`] has it: never where all of the container is, or the kernel shows itself.
pub(crate) fn workspace_target(text: &str) -> Result<String, &'static str> {
    let path = guest_path(text)?;
    match path.split('/').nth(1) {
        None | Some("") => Err("is the root of the container: name a directory in it"),
        Some("proc" | "sys" | "dev") => Err("lies where the kernel shows itself: name another directory"),
        Some(_) => Ok(path),
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

    #[test]
    fn what_a_session_is_given_and_must_not_be_shown_is_redacted() {
        let spec = SessionSpec {
            command: vec!["run".into(), Text::sensitive("word-canary")],
            cwd: Some(Text::sensitive("/root/dir-canary")),
            env: BTreeMap::from([
                ("A".to_owned(), Text::sensitive("line canary\nsecond line")),
                ("B".to_owned(), Text::sensitive("https://user:url-canary@host/")),
                ("C".to_owned(), "shown".into()),
            ]),
            stdin: SessionStdin::Pipe,
            tty: false,
            requires: vec!["git".to_owned()],
            restart: SessionRestart::OnFailure,
            user: Some("root".to_owned()),
            log_max: SessionSpec::LOG,
            idle: None,
        };
        let secrets = spec.secrets();
        let said = secrets.redact("word-canary, dir-canary, line canary, second line, url-canary");
        assert!(!said.contains("canary") && !said.contains("second"), "{said}");
        assert_eq!(secrets.redact("run shown as root in /root: git"), "run shown as root in /root: git");
    }

    #[test]
    fn a_target_is_a_place_in_the_container() {
        assert_eq!(workspace_target("/root//repo/./").unwrap(), "/root/repo");
        for wrong in ["repo", "", "/", "//", "/./", "/a/../b", "/proc/x", "/dev", "//sys", "/a\0b"] {
            assert!(workspace_target(wrong).is_err(), "{wrong}");
        }
        assert!(workspace_target(&format!("/{}", "a".repeat(4096))).is_err());
        assert_eq!(guest_path("/").unwrap(), "/");
        assert_eq!(guest_path("/proc/1/").unwrap(), "/proc/1");
    }
}
