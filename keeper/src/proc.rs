//! What `/proc` and the cgroup tell of processes. Whatever cannot be read is `None`, never an answer.

use std::path::Path;

/// Of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Its state, as `ps` shows it.
    pub state: char,
    /// Its parent.
    pub parent: i32,
    /// Its session.
    pub session: i32,
    /// When it started, in ticks since boot.
    pub start: u64,
}

/// Reads `/proc/<pid>/stat`.
pub fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name of a program may hold anything, brackets and spaces too; it ends with the last bracket.
fn parse_stat(line: &str) -> Option<Stat> {
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    let start = fields.nth(15)?.parse().ok()?;
    Some(Stat { state, parent, session, start })
}

/// Whether every thread of a process sleeps.
pub fn sleeps(pid: i32) -> Option<bool> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    for thread in threads {
        let line = std::fs::read_to_string(thread.ok()?.path().join("stat")).ok()?;
        if parse_stat(&line)?.state != 'S' {
            return Some(false);
        }
    }
    Some(true)
}

/// The processes of a session, and the children of a keeper, whatever session they are in: all that a command left behind.
/// Those that have ended and were not taken away yet do not count.
pub fn leftovers(session: i32, keeper: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        stat(*pid).is_some_and(|stat| (stat.session == session || stat.parent == keeper) && stat.state != 'Z')
    })
    .collect()
}

/// How often the kernel has ended a process of this container for want of memory.
pub fn oom_kills() -> Option<u64> {
    let count = |path: &str| {
        let text = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(path)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
    };
    count("memory.events").or_else(|| count("memory/memory.oom_control"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let line = "12 (a) S (b) R 1 34 35 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 5678 1 1";
        assert_eq!(parse_stat(line), Some(Stat { state: 'R', parent: 1, session: 35, start: 5678 }));
        assert_eq!(parse_stat("12 (a"), None);
        let own = stat(std::process::id() as i32).unwrap();
        assert!(own.start > 0 && own.parent > 0);
    }
}
