//! What notices changes: the file system's events, or a reason why they are unavailable.
//!
//! One file knows `notify`. Its inotify backend loses the watch of a path that is removed or renamed, and keeps one whose
//! path leads elsewhere by now; so all watches are set anew at each observation, by real paths, and an event is only taken for
//! what it is surely: a name that matters was touched.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use notify::event::{AccessKind, AccessMode};
use notify::{ErrorKind, Event, EventKind, RecursiveMode, Watcher};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::chain::Chain;
use super::reading::Files;

use crate::mutex::guard;

/// How often the watches are set while the way to the files changes at the same time.
const TRIES: usize = 4;

/// inotify watches an inode, so each directory on the way is worth one. FSEvents watches whole trees, and tells by itself
/// when one of them is moved.
const WATCHES_INODES: bool = cfg!(target_os = "linux");

/// How changes of the files are noticed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WatchMode {
    /// The file system tells of them.
    Events,
    /// The files are read again and again, because at least one of them could change unnoticed.
    Polling(PollReason),
}

impl fmt::Display for WatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchMode::Events => f.write_str("events"),
            WatchMode::Polling(reason) => write!(f, "polling: {reason}"),
        }
    }
}

/// Why the files are polled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum PollReason {
    /// The user has as many inotify instances, or this process as many open files, as they may.
    InstanceLimit,
    /// The user has as many inotify watches as they may.
    WatchLimit,
    /// The file system does not tell of changes that are made elsewhere.
    NoEvents {
        /// The file that lies on it.
        what: Watched,
        /// The file system.
        file_system: &'static str,
    },
    /// A directory cannot be watched.
    Unwatchable {
        /// The file in it, or through it.
        what: Watched,
        /// What the system says.
        why: String,
    },
    /// There are no events at all.
    Unavailable {
        /// What the system says.
        why: String,
    },
}

impl fmt::Display for PollReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PollReason::InstanceLimit => f.write_str("inotify limit reached (fs.inotify.max_user_instances)"),
            PollReason::WatchLimit => f.write_str("inotify limit reached (fs.inotify.max_user_watches)"),
            PollReason::NoEvents { what, file_system } => {
                write!(f, "{what} is on {file_system}, which does not tell of all changes")
            }
            PollReason::Unwatchable { what, why } => write!(f, "a directory of {what} cannot be watched: {why}"),
            PollReason::Unavailable { why } => write!(f, "there are no file events: {why}"),
        }
    }
}

/// What is watched. Its path may come from the environment, so it is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub(crate) enum Watched {
    /// The state file.
    StateFile,
    /// One of the env files it names.
    EnvFile,
    /// The template of its Lima instance.
    Template,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Watched::StateFile => "the state file",
            Watched::EnvFile => "an env file",
            Watched::Template => "the Lima template",
        })
    }
}

type Handler = Box<dyn FnMut(notify::Result<Event>) + Send>;
type MakeWatcher = Box<dyn FnMut(Handler) -> notify::Result<Box<dyn Watcher + Send>> + Send>;

/// What the machine offers to notice changes by.
pub(super) struct ChangeSource {
    /// Makes a watcher of the file system.
    pub(super) watcher: MakeWatcher,
    /// The name of the file system of a path, when it does not tell of all changes.
    pub(super) silent: fn(&Path) -> Option<&'static str>,
}

impl Default for ChangeSource {
    fn default() -> Self {
        let watcher = |handler: Handler| Ok(Box::new(crate::watcher::watcher(handler)?) as Box<dyn Watcher + Send>);
        Self { watcher: Box::new(watcher), silent }
    }
}

/// Looks where it was aimed, and says when something happened there.
pub(super) struct Notifier {
    senses: ChangeSource,
    watcher: Option<Box<dyn Watcher + Send>>,
    watched: Vec<PathBuf>,
    names: Arc<Mutex<HashSet<OsString>>>,
    wake: Arc<Notify>,
}

impl Notifier {
    pub(super) fn new(senses: ChangeSource, wake: Arc<Notify>) -> Self {
        Self { senses, watcher: None, watched: Vec::new(), names: Arc::default(), wake }
    }

    /// Has another look taken soon.
    pub(super) fn look_again(&self) {
        self.wake.notify_one();
    }

    /// Watches all that leads to these files, and nothing else.
    pub(super) fn aim(&mut self, files: &Files) -> WatchMode {
        let mut chains = chains(files);
        let mut mode = WatchMode::Events;
        for _ in 0..TRIES {
            let set = self.set(&chains);
            let now = self::chains(files);
            if let Ok(problem) = set {
                mode = problem.map_or(WatchMode::Events, WatchMode::Polling);
                // A link that was changed before its directory was watched left no event.
                if now == chains {
                    return mode;
                }
            }
            chains = now;
        }
        self.look_again();
        mode
    }

    /// Sets the watches; yields what stands in the way of noticing all changes.
    fn set(&mut self, chains: &[(Watched, Chain)]) -> Result<Option<PollReason>, Moved> {
        let names = chains.iter().flat_map(|(_, chain)| chain.names().map(OsString::from)).collect();
        *guard(&self.names) = names;
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => match (self.senses.watcher)(handler(self.names.clone(), self.wake.clone())) {
                Ok(watcher) => none.insert(watcher),
                Err(err) => return Ok(Some(unavailable(err))),
            },
        };
        for path in self.watched.drain(..) {
            // One that is gone was forgotten by itself.
            let _ = watcher.unwatch(&path);
        }
        let mut done = BTreeSet::new();
        let mut problem = None;
        for (what, chain) in chains {
            for dir in chain.near() {
                if !done.insert(dir.to_owned()) {
                    continue;
                }
                match watcher.watch(dir, RecursiveMode::NonRecursive) {
                    Ok(()) => self.watched.push(dir.to_owned()),
                    Err(err) => {
                        let reason = unwatchable(*what, err)?;
                        problem.get_or_insert(reason);
                    }
                }
            }
            let silent = chain.near().chain(chain.end().as_deref()).find_map(self.senses.silent);
            if let Some(file_system) = silent {
                problem.get_or_insert(PollReason::NoEvents { what: *what, file_system });
            }
        }
        if WATCHES_INODES {
            // The file itself may be written by another name: through a hard link, or a bind mount of this one file.
            let ends = chains.iter().filter_map(|(_, chain)| chain.end());
            let far = chains.iter().flat_map(|(_, chain)| chain.far().map(Path::to_owned));
            for path in ends.chain(far) {
                if !done.insert(path.clone()) {
                    continue;
                }
                match watcher.watch(&path, RecursiveMode::NonRecursive) {
                    Ok(()) => self.watched.push(path),
                    Err(err) if matches!(err.kind, ErrorKind::MaxFilesWatch) => {
                        problem.get_or_insert(PollReason::WatchLimit);
                    }
                    // A directory that may be passed through and not read: its own end is noticed by who it holds.
                    Err(_) => {}
                }
            }
        }
        Ok(problem)
    }
}

/// A path was no longer there.
struct Moved;

fn chains(files: &Files) -> Vec<(Watched, Chain)> {
    files.iter().map(|(file, what)| (*what, Chain::to(file))).collect()
}

fn handler(names: Arc<Mutex<HashSet<OsString>>>, wake: Arc<Notify>) -> Handler {
    Box::new(move |event| {
        let matters = match event {
            // Reading is no change, and we read ourselves.
            Ok(Event { kind: EventKind::Access(kind), .. }) if kind != AccessKind::Close(AccessMode::Write) => false,
            Ok(event) => {
                let names = guard(&names);
                let named = |path: &PathBuf| path.file_name().is_none_or(|name| names.contains(name));
                event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(named)
            }
            Err(_) => true,
        };
        if matters {
            wake.notify_one();
        }
    })
}

fn unavailable(err: notify::Error) -> PollReason {
    let full = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
    match &err.kind {
        ErrorKind::MaxFilesWatch => PollReason::WatchLimit,
        ErrorKind::Io(io) if full.contains(&io.raw_os_error()) => PollReason::InstanceLimit,
        _ => PollReason::Unavailable { why: why(err) },
    }
}

fn unwatchable(what: Watched, err: notify::Error) -> Result<PollReason, Moved> {
    match &err.kind {
        ErrorKind::PathNotFound => Err(Moved),
        ErrorKind::Io(io) if io.kind() == std::io::ErrorKind::NotFound => Err(Moved),
        ErrorKind::MaxFilesWatch => Ok(PollReason::WatchLimit),
        _ => Ok(PollReason::Unwatchable { what, why: why(err) }),
    }
}

/// The error without the paths it is about.
fn why(err: notify::Error) -> String {
    err.set_paths(Vec::new()).to_string()
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn silent(path: &Path) -> Option<&'static str> {
    // The type of the field differs between architectures; all numbers have 32 bits.
    rustix::fs::statfs(path).ok().and_then(|found| silent_kind(found.f_type as u32))
}

/// File systems whose contents others can change without this kernel: by their number in statfs(2), Linux 6.18.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn silent_kind(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9p",
        // virtiofs says so too.
        0x6573_5546 => "FUSE",
        0x786f_4256 => "vboxsf",
        0xbacb_acbc => "vmhgfs",
        0x7c7c_6673 => "prl_fs",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x00c3_6400 => "Ceph",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        _ => return None,
    })
}

#[cfg(target_vendor = "apple")]
fn silent(path: &Path) -> Option<&'static str> {
    // `MNT_LOCAL` of sys/mount.h.
    const LOCAL: u32 = 0x1000;
    rustix::fs::statfs(path).ok().filter(|found| found.f_flags & LOCAL == 0).map(|_| "a network file system")
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn silent(_: &Path) -> Option<&'static str> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, DataChange, Flag, MetadataKind, ModifyKind};

    #[test]
    fn only_what_may_be_a_change_wakes() {
        use futures_util::FutureExt;
        let wake = Arc::new(Notify::new());
        let mut handler = handler(Arc::new(Mutex::new(HashSet::from(["s.yaml".into()]))), wake.clone());
        let mut wakes = |event| {
            handler(event);
            wake.notified().now_or_never().is_some()
        };
        let event = |kind: EventKind, path: &str| Ok(Event::new(kind).add_path(path.into()));
        let written = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let opened = EventKind::Access(AccessKind::Open(AccessMode::Any));
        assert!(!wakes(event(opened, "/conf/s.yaml")), "we open it ourselves");
        assert!(!wakes(event(written, "/conf/other.yaml")));
        assert!(wakes(event(written, "/conf/s.yaml")));
        assert!(wakes(event(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/conf/s.yaml")));
        assert!(wakes(event(EventKind::Create(CreateKind::Any), "/private/conf/s.yaml")), "FSEvents tells real paths");
        assert!(wakes(event(EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)), "/conf/s.yaml")));
        assert!(wakes(Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan))), "events were lost");
        assert!(wakes(Err(notify::Error::generic("who knows"))));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn only_file_systems_that_others_can_change_are_silent() {
        let local = tempfile::tempdir().unwrap();
        assert_eq!((silent(local.path()), silent(Path::new("/proc"))), (None, None));
        assert_eq!(silent(&local.path().join("none")), None);
        let [nfs, cifs, fuse, ext4, tmpfs] = [0x6969, 0xff53_4d42, 0x6573_5546, 0xef53, 0x0102_1994].map(silent_kind);
        assert_eq!([nfs, cifs, fuse, ext4, tmpfs], [Some("NFS"), Some("SMB"), Some("FUSE"), None, None]);
    }
}
