//! Workspaces in words.

use std::fmt::Write;

use super::units::{bytes, count};
use crate::workspace::{Change, GuestState, Prepared, Pulled, RepositoryOutcome, State};

/// So many names of one kind are shown.
const SHOWN: usize = 20;

fn short(commit: &str) -> &str {
    commit.get(..10).unwrap_or(commit)
}

/// `main at 0123456789`.
fn at(branch: Option<&str>, commit: Option<&str>) -> String {
    match (branch, commit) {
        (Some(branch), Some(commit)) => format!("{branch} at {}", short(commit)),
        (None, Some(commit)) => format!("{}, on no branch", short(commit)),
        (Some(branch), None) => format!("{branch}, without a commit"),
        (None, None) => "no commit".to_owned(),
    }
}

/// What was done.
pub(crate) fn prepared(told: &Prepared) -> String {
    let mut text = format!("{}:{} from {}", told.agent, told.target, told.source);
    if told.repository != RepositoryOutcome::None {
        let _ = write!(text, ", {}", at(told.branch.as_deref(), told.commit.as_deref()));
    }
    let _ = match (told.put, told.removed, told.bytes) {
        (0, 0, 0) => write!(text, ": {}, nothing to move", count(told.files, "file")),
        (put, 0, sent) => write!(text, ": {}, put {put} ({})", count(told.files, "file"), bytes(sent)),
        (put, removed, sent) => {
            write!(text, ": {}, put {put} ({}), removed {removed}", count(told.files, "file"), bytes(sent))
        }
    };
    if told.read_only {
        text += "; read-only";
    }
    text.push('\n');
    if told.dirty > 0 {
        let _ = writeln!(text, "  {} not committed in the source", count(told.dirty, "path"));
    }
    let kept = told.kept.iter().map(|kept| {
        let news = if kept.conflict { ", though the source has something newer" } else { "" };
        format!("kept `{}`: {}{news}", kept.path.text(), did(kept.change))
    });
    list(&mut text, kept);
    list(&mut text, told.left_out.iter().map(|left| format!("left out `{}`: it {}", left.path.text(), left.why)));
    if told.added > 0 {
        let _ = writeln!(text, "  {} of the agent's own", count(told.added, "file"));
    }
    if told.repository == RepositoryOutcome::Kept {
        text +=
            "  kept the repository there; `steadfast workspace pull` brings its commits back, `--force` puts ours\n";
    }
    told.notes.iter().chain(&told.warnings).for_each(|note| {
        let _ = writeln!(text, "  {note}");
    });
    text
}

fn did(change: Change) -> &'static str {
    match change {
        Change::Modified => "changed in the agent",
        Change::Deleted => "removed in the agent",
        Change::Added => "was in the agent, and not from here",
    }
}

fn list(text: &mut String, lines: impl ExactSizeIterator<Item = String>) {
    let more = lines.len().saturating_sub(SHOWN);
    for line in lines.take(SHOWN) {
        let _ = writeln!(text, "  {line}");
    }
    if more > 0 {
        let _ = writeln!(text, "  and {more} more");
    }
}

/// How they are.
pub(crate) fn states(states: &[State]) -> String {
    if states.is_empty() {
        return "no workspaces\n".to_owned();
    }
    let mut text = String::new();
    for state in states {
        let read_only = if state.read_only { " (read-only)" } else { "" };
        let _ = writeln!(text, "{}:{}{read_only} from {}", state.agent, state.target, state.source);
        if let Some(guest) = &state.guest {
            of_guest(&mut text, state, guest);
        }
        if let Some(host) = &state.host {
            let moved = host.commit.is_some() && host.commit != state.commit;
            if moved {
                let _ = writeln!(text, "  here: {}", at(host.branch.as_deref(), host.commit.as_deref()));
            }
            if host.changed > 0 {
                let _ = writeln!(text, "  here: {} changed since", count(host.changed, "path"));
            }
        }
        for why in &state.unknown {
            let _ = writeln!(text, "  unknown: {why}");
        }
    }
    text
}

fn of_guest(text: &mut String, state: &State, guest: &GuestState) {
    if !guest.exists {
        text.push_str("  there: nothing any more; `steadfast workspace prepare` puts it again\n");
        return;
    }
    if guest.commit.is_some() {
        let own = if guest.has_commits { ", with commits of its own" } else { "" };
        let _ = writeln!(text, "  there: {}{own}", at(guest.branch.as_deref(), guest.commit.as_deref()));
    }
    let before = text.len();
    for (names, what) in [(&guest.modified, "changed"), (&guest.deleted, "removed"), (&guest.added, "new")] {
        list(text, names.iter().map(|name| format!("there: {what} `{name}`")));
    }
    if text.len() == before && !guest.has_commits {
        let _ = writeln!(text, "  there: as it was put{}", state.commit.as_ref().map_or("", |_| ", nothing committed"));
    }
}

/// What came back.
pub(crate) fn pulled(told: &Pulled) -> String {
    let mut text = match &told.branch {
        None => {
            format!("{}:{} has no commits of its own, and is at {}\n", told.agent, told.target, short(&told.commit))
        }
        Some(branch) => {
            let done = if told.up_to_date { "was there already" } else { "came back" };
            let commits = count(told.commits, "commit");
            format!(
                "{commits} of {}:{} {done}: branch {branch} of {} is at {}\n",
                told.agent,
                told.target,
                told.source,
                short(&told.commit)
            )
        }
    };
    list(
        &mut text,
        told.others.iter().map(|name| format!("branch `{name}` stays there: check it out there to pull it")),
    );
    text
}
