//! The canonical form of a session's spec: the record that its keeper holds, and that later observations compare against.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FieldChange, HostKey, Leaf, Value};
use crate::model::session::{IdleAction, SessionIdle, SessionSpec};
use crate::model::text::Text;

/// The version of [`CanonicalSession`] that this build writes.
const VERSION: u32 = 1;

/// What a session was started to be, field by field, sensitive values as keyed hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanonicalSession {
    version: u32,
    fields: BTreeMap<String, Leaf>,
    /// [`HostKey::id`] of the key the hashes were made with.
    key: String,
}

impl CanonicalSession {
    /// The canonical form of what makes a session another one: what is looked at before it starts alone (`requires`), and what its
    /// keeper has no part in (`idle` with `notify`), does not.
    pub fn new(spec: &SessionSpec, key: &HostKey) -> Self {
        let leaf = |(field, value): (String, Value)| {
            let leaf = value.leaf(&field, key);
            (field, leaf)
        };
        Self { version: VERSION, fields: fields(spec).into_iter().map(leaf).collect(), key: key.id() }
    }

    /// The JSON that a keeper holds.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|_| unreachable!("maps with string keys always serialise"))
    }

    /// Reads it. `None` when it is none of ours.
    pub fn from_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Its command, sensitive words as hashes.
    pub fn command(&self) -> Vec<String> {
        match self.fields.get("command") {
            Some(Leaf::List(words)) => words.iter().map(Leaf::shown).collect(),
            Some(word) => vec![word.shown()],
            None => Vec::new(),
        }
    }

    /// The fields in which what is wanted differs from this, sorted, each as `sessions.NAME.FIELD`. Hashes under a lost key count
    /// as equal; fields that a newer build wrote and this one does not know are ignored.
    pub fn changes(&self, name: &str, spec: &SessionSpec, key: &HostKey) -> Vec<FieldChange> {
        let (wanted, same_key) = (fields(spec), self.key == key.id());
        let whole = |field: &str| format!("sessions.{name}.{field}");
        let mut changes = Vec::new();
        for (field, value) in &wanted {
            let kept = self.fields.get(field);
            let same = kept.is_some_and(|kept| kept.has_hash() && !same_key || value.matches(field, kept, key));
            if !same {
                let to = value.leaf(field, key);
                let hidden = to.has_hash() || kept.is_some_and(Leaf::has_hash);
                let shown = |leaf: &Leaf| if hidden { leaf.hidden() } else { leaf.shown() };
                changes.push(FieldChange { field: whole(field), from: kept.map(shown), to: Some(shown(&to)) });
            }
        }
        for (field, kept) in self.fields.iter().filter(|(field, _)| !wanted.contains_key(*field)) {
            if self.version <= VERSION || is_known(field) {
                changes.push(FieldChange { field: whole(field), from: Some(kept.shown()), to: None });
            }
        }
        changes.sort_by(|one, other| one.field.cmp(&other.field));
        changes
    }
}

fn is_known(field: &str) -> bool {
    ["command", "cwd", "stdin", "tty", "restart", "user", "log.maxSize", "idle.after"].contains(&field)
        || field.starts_with("env.")
}

/// What is wanted. Each name also stands in [`is_known`].
fn fields(spec: &SessionSpec) -> BTreeMap<String, Value> {
    let SessionSpec { command, cwd, env, stdin, tty, requires: _, restart, user, log_max, idle } = spec;
    let mut fields = BTreeMap::from([
        ("command".to_owned(), Value::Many(command.clone())),
        ("stdin".to_owned(), Value::plain(stdin.as_str())),
        ("tty".to_owned(), Value::plain(tty.to_string())),
        ("restart".to_owned(), Value::plain(restart.as_str())),
        ("log.maxSize".to_owned(), Value::plain(log_max.to_string())),
    ]);
    fields.extend(cwd.iter().map(|cwd| ("cwd".to_owned(), Value::One(cwd.clone()))));
    fields.extend(user.iter().map(|user| ("user".to_owned(), Value::One(Text::plain(user.as_str())))));
    fields.extend(env.iter().map(|(name, value)| (format!("env.{name}"), Value::One(value.clone()))));
    if let Some(SessionIdle { after, action: IdleAction::Stop }) = idle {
        fields.insert("idle.after".to_owned(), Value::plain(humantime::format_duration(*after).to_string()));
    }
    fields
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::session::{SessionRestart, SessionStdin};

    fn spec() -> SessionSpec {
        SessionSpec {
            command: vec!["pi".into(), "--mode".into(), "rpc".into()],
            cwd: Some("/root/repo".into()),
            env: BTreeMap::from([("TOKEN".to_owned(), Text::sensitive("canary")), ("MODE".to_owned(), "rpc".into())]),
            stdin: SessionStdin::Pipe,
            tty: false,
            requires: vec!["git".to_owned()],
            restart: SessionRestart::OnFailure,
            user: Some("root".to_owned()),
            log_max: SessionSpec::LOG,
            idle: None,
        }
    }

    fn changed(edit: impl FnOnce(&mut SessionSpec), key: &HostKey) -> Vec<String> {
        let kept = CanonicalSession::new(&spec(), &HostKey::from_bytes([1; 32])).to_text();
        assert!(!kept.contains("canary"));
        let mut wanted = spec();
        edit(&mut wanted);
        let changes = CanonicalSession::from_text(&kept).unwrap().changes("pi", &wanted, key);
        assert!(!format!("{changes:?}").contains("canary"), "{changes:?}");
        changes.into_iter().map(|change| change.field).collect()
    }

    #[test]
    fn each_field_that_makes_it_another_one_is_told_and_no_other() {
        type Edit = (fn(&mut SessionSpec), &'static [&'static str]);
        let key = HostKey::from_bytes([1; 32]);
        let edits: [Edit; 13] = [
            (|_| {}, &[]),
            (|spec| spec.command[2] = "json".into(), &["sessions.pi.command"]),
            (|spec| spec.cwd = None, &["sessions.pi.cwd"]),
            (|spec| drop(spec.env.insert("TOKEN".to_owned(), Text::sensitive("other"))), &["sessions.pi.env.TOKEN"]),
            (|spec| drop(spec.env.insert("MODE".to_owned(), Text::sensitive("rpc"))), &[]),
            (|spec| spec.stdin = SessionStdin::Closed, &["sessions.pi.stdin"]),
            (|spec| spec.tty = true, &["sessions.pi.tty"]),
            (|spec| spec.requires.clear(), &[]),
            (|spec| spec.restart = SessionRestart::Always, &["sessions.pi.restart"]),
            (|spec| spec.user = None, &["sessions.pi.user"]),
            (|spec| spec.log_max = 1, &["sessions.pi.log.maxSize"]),
            (
                |spec| spec.idle = Some(SessionIdle { after: Duration::from_secs(1800), action: IdleAction::Notify }),
                &[],
            ),
            (
                |spec| spec.idle = Some(SessionIdle { after: Duration::from_secs(1800), action: IdleAction::Stop }),
                &["sessions.pi.idle.after"],
            ),
        ];
        for (edit, fields) in edits {
            assert_eq!(changed(edit, &key), fields);
        }
    }

    #[test]
    fn a_lost_key_changes_nothing_and_a_newer_builds_fields_are_left_alone() {
        assert!(changed(|_| {}, &HostKey::from_bytes([2; 32])).is_empty());
        let key = HostKey::from_bytes([1; 32]);
        let text = CanonicalSession::new(&spec(), &key).to_text();
        let newer = text.replace("\"version\":1", "\"version\":2").replace("\"cwd\":", "\"mood\":\"good\",\"cwd\":");
        assert!(CanonicalSession::from_text(&newer).unwrap().changes("pi", &spec(), &key).is_empty());
        assert!(CanonicalSession::from_text("{}").is_none());
    }
}
