//! What is done with each path, by what was put, what is wanted and what is there. Pure: no clock, no disk, no guest.

use steadfast_keeper::message::Word;
use steadfast_keeper::tree::{Entry, EntryKind};

use super::record::{Put, Value};

/// How a path in the guest stands to what was put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// There is nothing, and was nothing, or in another container.
    Absent,
    /// As it was put.
    Untouched,
    /// As somebody in the guest has changed or made it.
    Changed,
    /// Removed there.
    Deleted,
}

/// What the guest did with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It was there, and is another one.
    Modified,
    /// It was there, and is not any more.
    Deleted,
    /// It was not put from here.
    Added,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is as it is wanted.
    Adopt,
    /// It is put.
    Place,
    /// It is removed.
    Remove,
    /// It stays as the guest has it. `conflict`: the source has something newer.
    Keep { change: Change, conflict: bool },
    /// Nothing stands there, and nothing is wanted.
    Forget,
}

/// The table.
pub(super) fn verdict(
    want: Option<&Value>,
    base: Option<&Value>,
    seen: Option<&Value>,
    guest: Guest,
    force: bool,
) -> Verdict {
    let is_same = matches!((want, seen), (Some(want), Some(seen)) if want.is(seen));
    let is_news = match (want, base) {
        (Some(want), Some(base)) => !want.is(base),
        (want, base) => want.is_some() != base.is_some(),
    };
    match (want, guest) {
        _ if is_same => Verdict::Adopt,
        (Some(_), Guest::Absent | Guest::Untouched) => Verdict::Place,
        (None, Guest::Untouched) => Verdict::Remove,
        (None, Guest::Absent | Guest::Deleted) => Verdict::Forget,
        // The guest's own is nobody else's to remove.
        (None, Guest::Changed) if base.is_none() => Verdict::Keep { change: Change::Added, conflict: false },
        (Some(_), Guest::Changed | Guest::Deleted) if force => Verdict::Place,
        (None, Guest::Changed) if force => Verdict::Remove,
        (Some(_), Guest::Deleted) => Verdict::Keep { change: Change::Deleted, conflict: is_news },
        (_, Guest::Changed) => {
            let change = if base.is_some() { Change::Modified } else { Change::Added };
            Verdict::Keep { change, conflict: is_news }
        }
    }
}

/// How it stands to what was put, and to what was on its way when a preparation was killed. `was_there`: this is the container
/// that it was put into.
pub(super) fn guest_of(put: Option<&Value>, pending: &[&Value], seen: Option<&Value>, was_there: bool) -> Guest {
    match seen {
        Some(seen) if put.into_iter().chain(pending.iter().copied()).any(|ours| ours.is(seen)) => Guest::Untouched,
        Some(_) => Guest::Changed,
        None if put.is_none() || !was_there => Guest::Absent,
        None => Guest::Deleted,
    }
}

/// What is there; `None` for a file whose digest must be asked for. `want` tells the length of what is wanted there, where that is
/// known.
pub(super) fn known(put: Option<&Put>, is_pending: bool, want: Option<Option<u64>>, entry: &Entry) -> Option<Value> {
    let value = |digest: &str| Value {
        kind: entry.kind,
        mode: entry.mode,
        digest: digest.to_owned(),
        link: Word(entry.link.clone()),
    };
    if entry.kind != EntryKind::File {
        return Some(value(""));
    }
    if let Some(Put { value: base, guest: Some(stamp), .. }) = put
        && base.kind == EntryKind::File
        && *stamp == entry.stamp
    {
        return Some(value(&base.digest));
    }
    // Where nothing of this length was put or is wanted, it is another one.
    let is_wanted = want.is_some_and(|size| size.is_none_or(|size| size == entry.stamp.size));
    let is_put = put.is_some_and(|put| put.guest.is_none_or(|stamp| stamp.size == entry.stamp.size));
    (!is_pending && !is_wanted && !is_put).then(|| value(NOT_READ_THERE))
}

/// In the place of a digest that nobody needs to know: no two are the same.
pub(super) const NOT_READ_THERE: &str = "?guest";
/// The same on this side.
pub(super) const NOT_READ_HERE: &str = "?host";

#[cfg(test)]
mod tests {
    use super::*;

    fn file(digest: &str) -> Value {
        Value { kind: EntryKind::File, mode: 0o644, digest: digest.into(), link: Word::default() }
    }

    /// want, base, seen (in the same container) → verdict, and with force.
    #[test]
    fn nothing_of_the_guests_is_lost() {
        use Change::*;
        use Verdict::*;
        let keep = |change, conflict| Keep { change, conflict };
        let table = [
            ("a", "-", "-", Place, Place),
            ("a", "a", "a", Adopt, Adopt),
            ("b", "a", "a", Place, Place),
            ("-", "a", "a", Remove, Remove),
            ("b", "a", "b", Adopt, Adopt),
            ("a", "-", "a", Adopt, Adopt),
            ("a", "a", "g", keep(Modified, false), Place),
            ("b", "a", "g", keep(Modified, true), Place),
            ("-", "a", "g", keep(Modified, true), Remove),
            ("a", "a", "-", keep(Deleted, false), Place),
            ("b", "a", "-", keep(Deleted, true), Place),
            ("-", "a", "-", Forget, Forget),
            ("a", "-", "g", keep(Added, true), Place),
            ("-", "-", "g", keep(Added, false), keep(Added, false)),
        ];
        for (want, base, seen, expected, forced) in table {
            let value = |word: &str| (word != "-").then(|| file(word));
            let (want, base, seen) = (value(want), value(base), value(seen));
            let guest = guest_of(base.as_ref(), &[], seen.as_ref(), true);
            let told = |force| verdict(want.as_ref(), base.as_ref(), seen.as_ref(), guest, force);
            assert_eq!((told(false), told(true)), (expected, forced), "{want:?} {base:?} {seen:?}");
        }
    }

    #[test]
    fn what_a_container_lost_with_its_predecessor_is_put_again() {
        let base = file("a");
        assert_eq!(guest_of(Some(&base), &[], None, false), Guest::Absent);
        assert_eq!(guest_of(Some(&base), &[], None, true), Guest::Deleted);
    }

    #[test]
    fn what_was_on_its_way_is_ours_when_it_came_and_missed_when_not() {
        let (old, new, own) = (file("a"), file("b"), file("g"));
        assert_eq!(guest_of(Some(&old), &[&new], Some(&new), true), Guest::Untouched);
        assert_eq!(guest_of(Some(&old), &[&new], Some(&old), true), Guest::Untouched);
        assert_eq!(guest_of(Some(&old), &[&new], Some(&own), true), Guest::Changed);
        assert_eq!(guest_of(None, &[&new], None, true), Guest::Absent);
    }

    #[test]
    fn a_mode_counts_and_that_of_a_directory_does_not() {
        let executable = Value { mode: 0o755, ..file("a") };
        assert!(!executable.is(&file("a")));
        let dir = |mode| Value { kind: EntryKind::Dir, mode, digest: String::new(), link: Word::default() };
        assert!(dir(0o755).is(&dir(0o700)));
        assert!(!file("").is(&file("")), "what is not known is the same as nothing");
    }
}
