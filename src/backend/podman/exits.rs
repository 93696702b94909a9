//! Conmon's exit files: the fastest word of a container's end.
//!
//! Podman hears of an end from the same files, and tells of it in its events up to a quarter of a second later (Podman 4.3
//! with the `file` logger). Which directory they are in is told by the command line of any conmon that runs. Linux only,
//! on Podman's own machine, and only where that can be read; everywhere else the events have to do.

use std::path::{Path, PathBuf};

use futures_util::stream;
use notify::event::{CreateKind, EventKind, ModifyKind, RenameMode};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc;

use crate::backend::ContainerExits;
use crate::model::ContainerId;

/// As many ends may wait to be read; of more, any one will do as a hint.
const QUEUE: usize = 256;

/// Follows the exit files beside the one that the container with this first process will have.
pub(super) fn follow(pid: u32) -> Option<ContainerExits> {
    let dir = exit_dir(pid)?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let watched = crate::watcher::watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        if !is_new_file(event.kind) {
            return;
        }
        for id in event.paths.iter().filter_map(|path| id_of(path)) {
            // A full queue holds enough hints.
            let _ = sender.try_send(id);
        }
    })
    .and_then(|mut watcher| watcher.watch(&dir, RecursiveMode::NonRecursive).map(|()| watcher));
    match watched {
        Ok(watcher) => Some(Box::pin(stream::unfold((watcher, receiver), async |(watcher, mut receiver)| {
            let id = receiver.recv().await?;
            Some((id, (watcher, receiver)))
        }))),
        Err(err) => {
            tracing::debug!(dir = %dir.display(), error = %err, "cannot watch conmon's exit files");
            None
        }
    }
}

/// Conmon renames the file into its place. That is told as `To`, and once more as `Both` with the old name.
fn is_new_file(kind: EventKind) -> bool {
    matches!(
        kind,
        EventKind::Create(CreateKind::File | CreateKind::Any)
            | EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Any))
    )
}

fn id_of(path: &Path) -> Option<ContainerId> {
    ContainerId::new(path.file_name()?.to_str()?).ok()
}

/// From the parent of a container's first process, which is its conmon.
fn exit_dir(pid: u32) -> Option<PathBuf> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let parent: u32 = parent_of(&stat)?;
    let words = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let dir = exit_dir_of(&words)?;
    dir.is_dir().then_some(dir)
}

/// The fourth field; the second is the command in brackets, and may hold anything.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// `conmon … --exit-dir DIR …` (conmon 2.0 and later).
fn exit_dir_of(command_line: &[u8]) -> Option<PathBuf> {
    let mut words = command_line.split(|byte| *byte == 0).map(|word| std::str::from_utf8(word).unwrap_or_default());
    if !Path::new(words.next()?).file_name()?.to_str()?.contains("conmon") {
        return None;
    }
    while let Some(word) = words.next() {
        if word == "--exit-dir" {
            return words.next().filter(|dir| dir.starts_with('/')).map(PathBuf::from);
        }
        if let Some(dir) = word.strip_prefix("--exit-dir=") {
            return Some(PathBuf::from(dir));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_is_read_off_conmons_command_line() {
        let line =
            b"/usr/bin/conmon\0--api-version\x001\0-c\0abc\0--exit-dir\0/run/libpod/exits\0--socket-dir-path\0/x\0";
        assert_eq!(exit_dir_of(line), Some("/run/libpod/exits".into()));
        assert_eq!(exit_dir_of(b"/usr/bin/conmon\0--exit-dir=/a/exits\0"), Some("/a/exits".into()));
        assert_eq!(exit_dir_of(b"/bin/sh\0--exit-dir\0/etc\0"), None, "another program's words mean something else");
        assert_eq!(exit_dir_of(b"/usr/bin/conmon\0--exit-dir\0relative\0"), None);
        assert_eq!(exit_dir_of(b""), None);
        assert_eq!(parent_of("7 (a) b) S 42 7 7 0 -1"), Some(42));
        assert_eq!(parent_of(""), None);
    }
}
