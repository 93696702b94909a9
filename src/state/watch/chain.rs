//! The way to a file: every look-up of a name in a directory, through all symbolic links.
//!
//! What a path yields changes exactly when one of these look-ups does, or the file's own bytes. So their directories are
//! what must be watched. Watching itself belongs in `notifier.rs`.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// As many links as Linux follows.
const MAX_LINKS: usize = 40;

/// The look-ups from the root to a file, in order.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::state) struct Chain(Vec<Step>);

/// One look-up.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// The real path of a directory: no link is in it.
    dir: PathBuf,
    name: OsString,
    found: Found,
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// A directory to go through.
    Way {
        device: u64,
        inode: u64,
    },
    Link(PathBuf),
    /// Where it ends, at a file or anything else.
    End {
        device: u64,
        inode: u64,
    },
    Nothing(ErrorKind),
}

impl Chain {
    /// Walks to `file`, an absolute path.
    pub(in crate::state) fn to(file: &Path) -> Self {
        let mut steps = Vec::new();
        let mut at = PathBuf::from("/");
        let mut links = 0;
        let mut ahead: Vec<Turn> = turns(file).collect();
        while let Some(turn) = ahead.pop() {
            let name = match turn {
                Turn::Root => {
                    at = PathBuf::from("/");
                    continue;
                }
                Turn::Up => {
                    at.pop();
                    continue;
                }
                Turn::Into(name) => name,
            };
            let next = at.join(&name);
            let found = match std::fs::symlink_metadata(&next) {
                Ok(entry) if entry.is_symlink() => match std::fs::read_link(&next) {
                    Ok(_) if links == MAX_LINKS => Found::Nothing(ErrorKind::Other),
                    Ok(target) => Found::Link(target),
                    Err(err) => Found::Nothing(err.kind()),
                },
                Ok(entry) if entry.is_dir() && !ahead.is_empty() => {
                    Found::Way { device: entry.dev(), inode: entry.ino() }
                }
                Ok(entry) => Found::End { device: entry.dev(), inode: entry.ino() },
                Err(err) => Found::Nothing(err.kind()),
            };
            let dir = at.clone();
            let ends = match &found {
                Found::Way { .. } => {
                    at = next;
                    false
                }
                Found::Link(target) => {
                    links += 1;
                    ahead.extend(turns(target));
                    false
                }
                Found::End { .. } | Found::Nothing(_) => true,
            };
            steps.push(Step { dir, name, found });
            if ends {
                break;
            }
        }
        Self(steps)
    }

    /// The names whose coming and going matters, in whatever directory.
    pub(super) fn names(&self) -> impl Iterator<Item = &OsStr> {
        self.0.iter().map(|step| step.name.as_os_str())
    }

    /// The directories that hold the links, and the end or the place where it is missing: without these, changes are
    /// missed.
    pub(in crate::state) fn near(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|step| !matches!(step.found, Found::Way { .. })).map(|step| step.dir.as_path())
    }

    /// The directories that only hold directories on the way, which hardly ever change.
    pub(super) fn far(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().filter(|step| matches!(step.found, Found::Way { .. })).map(|step| step.dir.as_path())
    }

    /// What stands at the end, by its real path.
    pub(super) fn end(&self) -> Option<PathBuf> {
        self.0.last().filter(|step| matches!(step.found, Found::End { .. })).map(|step| step.dir.join(&step.name))
    }
}

enum Turn {
    Root,
    Up,
    Into(OsString),
}

/// The parts of a path, the last first.
fn turns(path: &Path) -> impl Iterator<Item = Turn> {
    path.components().rev().filter_map(|part| match part {
        Component::Prefix(_) | Component::CurDir => None,
        Component::RootDir => Some(Turn::Root),
        Component::ParentDir => Some(Turn::Up),
        Component::Normal(name) => Some(Turn::Into(name.to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_is_looked_up() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().canonicalize().unwrap();
        for dir in ["conf", "real/deep"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        std::fs::write(root.join("real/deep/s.yaml"), "").unwrap();
        symlink("../real", root.join("conf/data")).unwrap();
        symlink("data/./deep/../deep/s.yaml", root.join("conf/s.yaml")).unwrap();
        let chain = Chain::to(&root.join("conf/s.yaml"));
        let near: Vec<_> = chain.near().collect();
        assert_eq!(near, [root.join("conf"), root.join("conf"), root.join("real/deep")]);
        assert_eq!(chain.end(), Some(root.join("real/deep/s.yaml")));
        let far: Vec<_> = chain.far().map(Path::to_owned).collect();
        assert_eq!(far.first(), Some(&PathBuf::from("/")));
        assert!(far.contains(&root) && far.contains(&root.join("real")));
        assert_eq!(chain, Chain::to(&root.join("conf/s.yaml")));
    }

    #[test]
    fn what_is_missing_is_awaited_where_it_is_missing() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().canonicalize().unwrap();
        let near = |path: &str| Chain::to(&root.join(path)).near().map(Path::to_owned).collect::<Vec<_>>();
        assert_eq!(near("gone/deep/s.yaml"), std::slice::from_ref(&root));
        symlink("elsewhere/s.yaml", root.join("dangling")).unwrap();
        assert_eq!(near("dangling"), [root.clone(), root.clone()]);
        symlink("loop", root.join("loop")).unwrap();
        assert_eq!(near("loop").len(), MAX_LINKS + 1);
        assert_eq!(Chain::to(&root.join("loop")).end(), None);
    }
}
