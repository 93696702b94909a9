//! What was put, what is wanted and what is there, side by side. Files are read only where nothing else tells what is in them.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{Entry, EntryKind};

use super::WorkspaceError;
use super::decide::{NOT_READ_HERE, Verdict, guest_of, known, verdict};
use super::guest::Tree;
use super::record::{Record, Value};
use super::source::{Content, Wanted};

/// One path.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) path: Word,
    /// What is wanted. Its digest may be unknown, where it is different in any case.
    pub(super) want: Option<(Wanted, Value)>,
    /// What stands there.
    pub(super) seen: Option<Entry>,
    pub(super) verdict: Verdict,
}

/// How a comparison is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    /// This is the container that it was put into.
    pub(super) was_there: bool,
    /// The guest's changes do not count.
    pub(super) force: bool,
}

/// What a file of the source is to be in the guest.
fn mode_of(wanted: &Wanted, read_only: bool) -> u32 {
    match (wanted.kind, read_only) {
        (EntryKind::Link, _) => 0o777,
        (_, false) => wanted.mode,
        // Everybody may do what its owner may, but write.
        (_, true) => {
            let owner = wanted.mode & 0o700 | 0o400;
            let others = owner & 0o500;
            owner | others >> 3 | others >> 6
        }
    }
}

/// Makes it. Without a source, what was put is what is wanted.
pub(super) async fn compare(
    tree: &mut Tree,
    record: Option<&Record>,
    wanted: Option<&BTreeMap<Word, Wanted>>,
    entries: Vec<Entry>,
    read_only: bool,
    how: How,
) -> Result<Vec<Row>, WorkspaceError> {
    let put = record.map(|record| &record.put);
    let mut pending: BTreeMap<&Word, Vec<&Value>> = BTreeMap::new();
    for (path, value) in record.iter().flat_map(|record| &record.pending) {
        pending.entry(path).or_default().push(value);
    }
    let seen: BTreeMap<Word, Entry> = entries.into_iter().map(|entry| (Word(entry.path.clone()), entry)).collect();
    let size_of = |wanted: &Wanted| match &wanted.content {
        Content::Disk(_, stamp) => Some(stamp.size),
        _ => None,
    };
    // Of the guest.
    let (mut there, mut unread) = (BTreeMap::new(), Vec::new());
    for (path, entry) in &seen {
        let want = wanted.and_then(|wanted| wanted.get(path)).filter(|wanted| wanted.kind == EntryKind::File);
        let put = put.and_then(|put| put.get(path));
        match known(put, pending.contains_key(path), want.map(size_of), entry) {
            Some(value) => {
                there.insert(path, value);
            }
            None => unread.push(path.clone()),
        }
    }
    let digests = tree.digests(&unread).await?;
    for path in &unread {
        if let Some((path, entry)) = seen.get_key_value(path) {
            let digest = digests.get(path).cloned().unwrap_or_else(|| super::decide::NOT_READ_THERE.to_owned());
            there.insert(path, Value { kind: entry.kind, mode: entry.mode, digest, link: Word::default() });
        }
    }
    // Of this side.
    let (mut here, mut to_read) = (BTreeMap::new(), Vec::new());
    for (path, one) in wanted.into_iter().flatten() {
        let mode = mode_of(one, read_only);
        let mut value = Value { kind: one.kind, mode, digest: String::new(), link: Word(one.link.clone()) };
        if one.kind == EntryKind::File {
            let put = put.and_then(|put| put.get(path));
            let stamp = match &one.content {
                Content::Disk(_, stamp) => Some(*stamp),
                _ => None,
            };
            let cached = put.filter(|put| stamp.is_some() && put.host == stamp).map(|put| put.value.digest.clone());
            let stands = seen.get(path).filter(|entry| entry.kind == EntryKind::File);
            let may_be = |size: u64| stamp.is_none_or(|stamp| stamp.size == size);
            let was = put.and_then(|put| put.guest).is_some_and(|guest| may_be(guest.size));
            let matters = stands.is_some_and(|entry| may_be(entry.stamp.size)) || was;
            match cached {
                Some(digest) => value.digest = digest,
                None if matters => to_read.push((path.clone(), one.content.clone())),
                None => value.digest = NOT_READ_HERE.to_owned(),
            }
        }
        here.insert(path, (one, value));
    }
    let read = tokio::task::spawn_blocking(move || {
        to_read.into_iter().map(|(path, content)| Ok((path, super::archive::digest(&content)?))).collect()
    });
    let read: std::io::Result<Vec<(Word, String)>> = read.await.unwrap_or_else(|err| Err(std::io::Error::other(err)));
    for (path, digest) in read.map_err(WorkspaceError::read("the source"))? {
        if let Some((_, value)) = here.get_mut(&path) {
            value.digest = digest;
        }
    }
    // Together.
    let of_put = put.into_iter().flatten().map(|(path, _)| path);
    let paths: BTreeSet<&Word> = here.keys().copied().chain(there.keys().copied()).chain(of_put).collect();
    let rows = paths.into_iter().map(|path| {
        let base = put.and_then(|put| put.get(path)).map(|put| &put.value);
        let pending = pending.get(path).map(Vec::as_slice).unwrap_or_default();
        let want = match wanted {
            Some(_) => here.get(path).map(|(one, value)| ((*one).clone(), value.clone())),
            None => base.map(|value| (unwanted(value), value.clone())),
        };
        let value = there.get(path);
        let guest = guest_of(base, pending, value, how.was_there);
        let verdict = verdict(want.as_ref().map(|(_, value)| value), base, value, guest, how.force);
        Row { path: path.clone(), want, seen: seen.get(path).cloned(), verdict }
    });
    Ok(rows.collect())
}

/// Where there is no source, nothing is put.
fn unwanted(value: &Value) -> Wanted {
    Wanted { kind: value.kind, mode: value.mode, link: value.link.0.clone(), content: Content::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_only_is_readable_for_all_and_writable_for_none_but_its_owner() {
        let file = |mode| Wanted { kind: EntryKind::File, mode, link: Vec::new(), content: Content::None };
        for (mode, expected) in [(0o600, 0o644), (0o777, 0o755), (0o640, 0o644), (0o700, 0o755), (0o444, 0o444)] {
            assert_eq!(mode_of(&file(mode), true), expected, "{mode:o}");
            assert_eq!(mode_of(&file(mode), false), mode);
        }
    }
}
