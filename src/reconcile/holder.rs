//! Which state file a name belongs to, kept beside the lock as `file.json`: so that two files of one name never take each
//! other's agents for leftovers of their own.
//!
//! What stands there decides whether anything is done at all, never what.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::control::files::is_same_file;
use crate::files;
use crate::model::{AgentName, Sha256Digest};

/// What is kept of a name below a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NameRecord {
    /// The state file it belongs to. `None` once `down` has removed everything.
    #[serde(rename = "heldBy")]
    pub owned_by: Option<NameOwner>,
    /// Whether containers of this name that name no root were made here, by an older version.
    pub unlabelled: bool,
}

/// The state file that a name belongs to, as it was last applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameOwner {
    /// Its absolute path, as [`crate::control::path_text`] tells it. `None` when it came through a pipe.
    pub file: Option<String>,
    /// Those of the files that are merged upon it, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// [`crate::model::Desired::meaning`].
    pub meaning: Sha256Digest,
    /// Its agents.
    pub agents: Vec<AgentName>,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    /// There is none.
    Absent,
    /// This one.
    Present(NameRecord),
    /// One that cannot be read: who holds the name is unknown.
    Unreadable {
        /// Why, as a sentence.
        why: String,
    },
}

/// Where the record of a state directory lies.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join("file.json")
}

impl Recorded {
    /// Reads the record of a state directory.
    pub(crate) fn read(dir: &Path) -> Self {
        let path = path(dir);
        let unreadable = |why: &dyn std::fmt::Display| Self::Unreadable { why: format!("`{}`: {why}", path.display()) };
        match files::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(record) => Self::Present(record),
                Err(err) => unreadable(&err),
            },
            Err(err) if err.kind() == ErrorKind::NotFound => Self::Absent,
            Err(err) => unreadable(&err),
        }
    }

    /// Whether containers of this name that name no root were made here. Before there was a record, what an older version
    /// left in the state directory says so.
    pub(crate) fn unlabelled(&self, dir: &Path) -> bool {
        const LEFT: [&str; 3] = ["handles.json", "journal.jsonl", "journal.1.jsonl"];
        match self {
            Self::Present(record) => record.unlabelled,
            Self::Unreadable { .. } => true,
            // What cannot be looked at may be there.
            Self::Absent => LEFT.iter().any(|file| dir.join(file).try_exists().unwrap_or(true)),
        }
    }

    /// The state file that holds the name, unless it is this one, or one that this one is the continuation of.
    ///
    /// A file that has been moved goes on: nothing is at the old path any more that has this name (`gone` says so), and the
    /// new one means what was applied last. What comes through a pipe has no path: it goes on from what came through a pipe
    /// before, and otherwise as if it had been moved, whether or not the file is still there.
    pub(crate) fn other<'a>(&'a self, ours: &NameOwner, gone: impl Fn(&str) -> bool) -> Option<&'a NameOwner> {
        let Self::Present(NameRecord { owned_by: Some(owner), .. }) = self else { return None };
        let same = match (&owner.file, &ours.file) {
            (Some(theirs), Some(first)) if is_same_file(theirs, Path::new(first)) => {
                // What is left out would be taken down: it is another file as long as that makes a difference.
                let same_layers = owner.layers.len() == ours.layers.len()
                    && owner
                        .layers
                        .iter()
                        .zip(&ours.layers)
                        .all(|(theirs, ours)| is_same_file(theirs, Path::new(ours)));
                same_layers || owner.meaning == ours.meaning
            }
            (None, None) => true,
            _ => false,
        };
        let moved = || {
            let left = match (&owner.file, &ours.file) {
                (Some(theirs), Some(_)) => gone(theirs),
                _ => true,
            };
            left && owner.meaning == ours.meaning
        };
        (!same && !moved()).then_some(owner)
    }
}

/// Keeps a record, unless it is what stands there. Mode 0600; readers see the old or the new, never half.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn keep(dir: &Path, record: &NameRecord) -> std::io::Result<()> {
    let path = path(dir);
    if Recorded::read(dir) == Recorded::Present(record.clone()) {
        files::sweep(&path);
        return Ok(());
    }
    let text = serde_json::to_string_pretty(record).map_err(std::io::Error::other)?;
    files::replace(&path, true, |mut file| writeln!(file, "{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(file: Option<&str>, meaning: u8) -> NameOwner {
        NameOwner {
            file: file.map(str::to_owned),
            layers: Vec::new(),
            meaning: Sha256Digest::from_bytes([meaning; 32]),
            agents: vec![AgentName::new("a").unwrap()],
        }
    }

    fn refused(before: Option<NameOwner>, now: &NameOwner, gone: bool) -> bool {
        Recorded::Present(NameRecord { owned_by: before, unlabelled: false }).other(now, |_| gone).is_some()
    }

    #[test]
    fn another_path_is_another_file_unless_the_first_is_gone_and_meant_the_same() {
        let first = || Some(owner(Some("/a/s.yaml"), 1));
        assert!(!refused(first(), &owner(Some("/a/s.yaml"), 2), false), "an edit");
        assert!(refused(first(), &owner(Some("/b/s.yaml"), 1), false), "a copy");
        assert!(refused(first(), &owner(Some("/b/s.yaml"), 2), false), "another");
        assert!(!refused(first(), &owner(Some("/b/s.yaml"), 1), true), "moved");
        assert!(refused(first(), &owner(Some("/b/s.yaml"), 2), true), "moved and edited, or another");
        assert!(!refused(None, &owner(Some("/b/s.yaml"), 2), false), "everything was taken down");
        assert_eq!(Recorded::Absent.other(&owner(Some("/b/s.yaml"), 2), |_| false), None);
    }

    #[test]
    fn with_other_layers_it_is_another_file_unless_it_means_the_same() {
        let layered = |layers: &[&str], meaning| {
            let layers = layers.iter().map(|layer| (*layer).to_owned()).collect();
            NameOwner { layers, ..owner(Some("/a/s.yaml"), meaning) }
        };
        let first = || Some(layered(&["/a/prod.yaml"], 1));
        assert!(!refused(first(), &layered(&["/a/prod.yaml"], 2), false), "an edit");
        assert!(refused(first(), &layered(&[], 2), false), "one was forgotten");
        assert!(refused(first(), &layered(&["/a/test.yaml"], 2), false));
        assert!(refused(first(), &layered(&["/a/prod.yaml", "/a/more.yaml"], 2), false));
        assert!(!refused(first(), &layered(&[], 1), false), "written into one");
    }

    #[test]
    fn a_pipe_goes_on_from_a_pipe_and_from_a_file_that_means_the_same() {
        let file = || Some(owner(Some("/a/s.yaml"), 1));
        assert!(!refused(Some(owner(None, 1)), &owner(None, 2), false));
        assert!(!refused(file(), &owner(None, 1), false));
        assert!(refused(file(), &owner(None, 2), true));
        assert!(!refused(Some(owner(None, 1)), &owner(Some("/a/s.yaml"), 1), false));
        assert!(refused(Some(owner(None, 1)), &owner(Some("/a/s.yaml"), 2), false));
    }

    #[test]
    fn a_record_is_read_as_it_was_kept_and_garbage_is_unknown() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state/demo");
        assert_eq!(Recorded::read(&state), Recorded::Absent);
        let record = NameRecord { owned_by: Some(owner(Some("/a/s.yaml"), 1)), unlabelled: true };
        keep(&state, &record).unwrap();
        assert_eq!(Recorded::read(&state), Recorded::Present(record.clone()));
        let before = std::fs::metadata(path(&state)).unwrap();
        assert_eq!(before.permissions().mode() & 0o777, 0o600);
        keep(&state, &record).unwrap();
        let after = std::fs::metadata(path(&state)).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap(), "what stands there is not written again");
        for garbage in ["", "{", "[]", "{\"heldBy\": 7}"] {
            std::fs::write(path(&state), garbage).unwrap();
            assert!(matches!(Recorded::read(&state), Recorded::Unreadable { .. }), "{garbage}");
        }
    }

    #[test]
    fn what_names_no_root_is_ours_where_an_older_version_kept_its_state() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("lock"), "").unwrap();
        assert!(!Recorded::read(dir.path()).unlabelled(dir.path()));
        std::fs::write(dir.path().join("journal.jsonl"), "").unwrap();
        assert!(Recorded::read(dir.path()).unlabelled(dir.path()));
        keep(dir.path(), &NameRecord { owned_by: None, unlabelled: false }).unwrap();
        assert!(!Recorded::read(dir.path()).unlabelled(dir.path()), "the record counts from then on");
    }
}
