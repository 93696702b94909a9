//! The `git` command: its arguments, why each flag is there, and the readers of what it prints.
//!
//! Two ways of running it. In the source it has its owner's configuration, since that says what is ignored and what a checkout
//! looks like, but runs no hook and no file-system monitor. In repositories of our own making it has no configuration at all.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use steadfast_keeper::message::Word;
use tokio::process::Command;

use super::WorkspaceError;
use crate::backend::command::{self, Output, RunError};

/// How long a question about a repository may take.
const QUICK: Duration = Duration::from_secs(120);
/// How long whole histories may take.
const LONG: Duration = Duration::from_secs(60 * 60);

/// git in one directory.
#[derive(Debug, Clone)]
pub(super) struct Git {
    dir: PathBuf,
    /// The repository, where it is not found by the directory.
    git_dir: Option<PathBuf>,
    alone: bool,
}

impl Git {
    /// In a checkout of the user's.
    pub(super) fn of_source(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), git_dir: None, alone: false }
    }

    /// In a checkout of the user's that belongs to no repository, by the rules of one that is empty.
    pub(super) fn of_plain(dir: &Path, git_dir: &Path) -> Self {
        Self { dir: dir.to_owned(), git_dir: Some(git_dir.to_owned()), alone: false }
    }

    /// In a repository of our own.
    pub(super) fn of_ours(git_dir: &Path) -> Self {
        Self { dir: git_dir.to_owned(), git_dir: Some(git_dir.to_owned()), alone: true }
    }

    /// The command with these arguments.
    pub(super) fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new("git");
        for (name, _) in std::env::vars_os() {
            // What whoever called us has set for another repository.
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        if self.alone {
            command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
            command.env("GIT_ATTR_NOSYSTEM", "1");
        }
        // Its words are read; nobody is there to be asked; what is only looked at is not written; objects are what they are.
        command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_OPTIONAL_LOCKS", "0");
        command.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_NO_LAZY_FETCH", "1");
        command.args(["--no-pager", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"]);
        command.args(["-c", "gc.auto=0", "-c", "maintenance.auto=false"]);
        if let Some(git_dir) = &self.git_dir {
            command.arg("--git-dir").arg(git_dir);
            if !self.alone {
                command.arg("--work-tree").arg(&self.dir);
            }
        }
        command.args(args).current_dir(&self.dir).stdin(Stdio::null());
        command
    }

    async fn end(&self, args: &[&str], input: &[u8], limit: Duration) -> Result<Output, WorkspaceError> {
        let command = Command::from(self.command(args));
        command::run(command, input, limit).await.map_err(|err| {
            let said = match err {
                RunError::Io(err) if err.kind() == std::io::ErrorKind::NotFound && self.dir.exists() => {
                    "there is no `git` on the PATH of this machine; workspaces are made with it".to_owned()
                }
                RunError::Io(err) => err.to_string(),
                RunError::TimedOut => format!("it did not end within {}", humantime::format_duration(limit)),
                RunError::TooMuch => "it printed more than is read".to_owned(),
            };
            self.failed(args, said)
        })
    }

    pub(super) fn failed(&self, args: &[&str], said: impl Into<String>) -> WorkspaceError {
        let verb = args.iter().find(|arg| !arg.starts_with('-')).copied().unwrap_or_default().to_owned();
        WorkspaceError::Git { verb, dir: self.dir.clone(), said: said.into() }
    }

    /// What it prints.
    pub(super) async fn run(&self, args: &[&str]) -> Result<Vec<u8>, WorkspaceError> {
        self.fed(args, b"", QUICK).await
    }

    /// What it prints, however long that takes.
    pub(super) async fn work(&self, args: &[&str], input: &[u8]) -> Result<Vec<u8>, WorkspaceError> {
        self.fed(args, input, LONG).await
    }

    async fn fed(&self, args: &[&str], input: &[u8], limit: Duration) -> Result<Vec<u8>, WorkspaceError> {
        let output = self.end(args, input, limit).await?;
        match output.code {
            Some(0) => Ok(output.stdout),
            code => {
                let said = match (output.stderr.trim(), code) {
                    ("", Some(code)) => format!("it ended with {code}"),
                    ("", None) => "it was killed".to_owned(),
                    (said, _) => said.strip_prefix("fatal: ").unwrap_or(said).to_owned(),
                };
                Err(self.failed(args, said))
            }
        }
    }

    /// Whether it says yes: an exit code of 0 or 1 is an answer.
    pub(super) async fn says(&self, args: &[&str]) -> Result<bool, WorkspaceError> {
        let output = self.end(args, b"", QUICK).await?;
        match output.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(self.failed(args, output.stderr.trim())),
        }
    }

    /// The only line that it prints; `None` when it prints none or fails.
    pub(super) async fn line(&self, args: &[&str]) -> Option<String> {
        let printed = self.run(args).await.ok()?;
        let line = String::from_utf8(printed).ok()?.trim_end_matches('\n').to_owned();
        (!line.is_empty()).then_some(line)
    }
}

/// A tracked path: its mode, its object, its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) mode: u32,
    pub(super) oid: String,
    pub(super) path: Word,
}

/// Of `ls-files --stage -z` (`mode oid stage TAB path`) and `ls-tree -r -z` (`mode kind oid TAB path`). Of a path in conflict
/// the first counts: what is on the disk goes in all the same.
pub(super) fn parse_tracked(printed: &[u8]) -> Option<Vec<Tracked>> {
    let mut found: Vec<Tracked> = Vec::new();
    for record in printed.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
        let tab = record.iter().position(|byte| *byte == b'\t')?;
        let (head, path) = record.split_at(tab);
        let mut words = std::str::from_utf8(head).ok()?.split(' ');
        let mode = u32::from_str_radix(words.next()?, 8).ok()?;
        let (second, third) = (words.next()?, words.next()?);
        let oid = if second.len() >= 40 { second } else { third }.to_owned();
        let path = Word(path.get(1..)?.to_vec());
        if found.last().is_none_or(|last| last.path != path) {
            found.push(Tracked { mode, oid, path });
        }
    }
    Some(found)
}

/// How a checkout differs from its commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Status {
    /// The commit; `None` before the first.
    pub(super) commit: Option<String>,
    /// The branch; `None` where the head is detached.
    pub(super) branch: Option<String>,
    /// Tracked paths that are changed, staged or not.
    pub(super) changed: Vec<Word>,
    /// Those that git does not know and does not ignore. A repository of its own ends with a slash.
    pub(super) untracked: Vec<Word>,
}

/// Of `status --porcelain=v2 --branch -z`.
pub(super) fn parse_status(printed: &[u8]) -> Option<Status> {
    let mut status = Status::default();
    let mut records = printed.split(|byte| *byte == 0).filter(|record| !record.is_empty());
    while let Some(record) = records.next() {
        // The path is after so many spaces.
        let path_after = |spaces: usize| {
            let at = record.iter().enumerate().filter(|(_, byte)| **byte == b' ').nth(spaces - 1)?.0;
            Some(Word(record.get(at + 1..)?.to_vec()))
        };
        match record.first()? {
            b'#' => {
                let line = std::str::from_utf8(record).ok()?;
                if let Some(oid) = line.strip_prefix("# branch.oid ") {
                    status.commit = Some(oid.to_owned()).filter(|oid| oid != "(initial)");
                } else if let Some(name) = line.strip_prefix("# branch.head ") {
                    status.branch = Some(name.to_owned()).filter(|name| name != "(detached)");
                }
            }
            b'1' => status.changed.push(path_after(8)?),
            b'2' => {
                status.changed.push(path_after(9)?);
                status.changed.push(Word(records.next()?.to_vec()));
            }
            b'u' => status.changed.push(path_after(10)?),
            b'?' => status.untracked.push(path_after(1)?),
            _ => {}
        }
    }
    Some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tracked_is_read_whatever_it_is_called() {
        let oid = "a".repeat(40);
        let printed = format!(
            "100644 {oid} 0\ta b\0100755 {oid} 1\tx\ny\0100755 {oid} 2\tx\ny\0120000 {oid} 0\tl\t\0160000 {oid} 0\tsub\0"
        );
        let found = parse_tracked(printed.as_bytes()).unwrap();
        let names: Vec<_> = found.iter().map(|one| (one.mode, one.path.text())).collect();
        let expected = [(0o100644, "a b"), (0o100755, "x\ny"), (0o120000, "l\t"), (0o160000, "sub")];
        assert_eq!(names, expected.map(|(mode, name)| (mode, name.to_owned())));
        let of_tree = format!("100644 blob {oid}\ta b\0");
        assert_eq!(parse_tracked(of_tree.as_bytes()).unwrap()[0], found[0]);
        assert_eq!(parse_tracked(b"100644\0"), None);
    }

    #[test]
    fn a_status_is_read() {
        let (oid, zeros) = ("b".repeat(40), "0".repeat(40));
        let printed = format!(
            "# branch.oid {oid}\0# branch.head topic/x\0# branch.ab +1 -0\01 .M N... 100644 100644 100644 {oid} {oid} a b\0\
             2 R. N... 100644 100644 100644 {oid} {oid} R100 new\0old\0u UU N... 1 1 1 1 {zeros} {oid} {oid} c\0? d/e f\0? nested/\0"
        );
        let status = parse_status(printed.as_bytes()).unwrap();
        let names = |words: &[Word]| words.iter().map(Word::text).collect::<Vec<_>>();
        assert_eq!((status.commit, status.branch), (Some(oid), Some("topic/x".to_owned())));
        assert_eq!(names(&status.changed), ["a b", "new", "old", "c"]);
        assert_eq!(names(&status.untracked), ["d/e f", "nested/"]);
        let first = parse_status(b"# branch.oid (initial)\0# branch.head main\0").unwrap();
        assert_eq!((first.commit, first.branch.as_deref()), (None, Some("main")));
        assert_eq!(parse_status(b"# branch.oid x\0# branch.head (detached)\0").unwrap().branch, None);
    }
}
