//! The journal: one JSON line for each step that was taken, each convergence that ended, and what else is worth knowing
//! later. It explains; nothing is ever decided by it.
//!
//! How lines get into the file, and the file out of the way of the next, stands in `write`; how they are read again in
//! [`read`]. What cannot be written is said once, and everything that listens hears of it all the same.

pub(crate) mod read;
mod write;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};
use tokio::sync::broadcast;

use super::report::Report;
use crate::act::{ActError, Done};
use crate::brief::brief;
use crate::error::Chain;
use crate::mutex::guard;
use crate::plan::Step;
use write::Writer;

/// The most bytes of one file of the journal (4 MiB). There are two: this one and the one before it.
pub const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// About the most bytes of one text in an entry (4 KiB).
const MAX_TEXT: usize = 4 * 1024;
/// What a longer entry is cut to, or less (256 KiB): a fourth of what its readers take for one.
const MAX_ENTRY: usize = 256 * 1024;

/// How many entries a slow listener may lag behind before it misses some.
const LISTENERS_MAY_LAG: usize = 256;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    trigger: Mutex<String>,
    live: broadcast::Sender<Arc<Value>>,
    /// What the last convergence left, as it was written down.
    last_pass: Mutex<Option<Value>>,
    file: Option<Mutex<Kept>>,
}

/// The file, and how writing it goes.
#[derive(Debug)]
struct Kept {
    path: PathBuf,
    writer: Writer,
    /// Why the last entry could not be written.
    problem: Option<String>,
    /// How many could not be since it began.
    missed: u64,
}

impl Journal {
    /// A journal in this file, opened when first written. `trigger` says what woke us: `apply`, `down`, …
    pub fn new(path: &Path, trigger: &'static str) -> Self {
        Self::bounded(path, trigger, MAX_BYTES)
    }

    fn bounded(path: &Path, trigger: &str, most: u64) -> Self {
        let kept = Kept { path: path.to_owned(), writer: Writer::new(path, most), problem: None, missed: 0 };
        Self { file: Some(Mutex::new(kept)), ..Self::unkept(trigger) }
    }

    /// A journal that is not written. Who subscribes hears of its entries.
    pub fn off() -> Self {
        Self::unkept("")
    }

    fn unkept(trigger: &str) -> Self {
        let (live, _) = broadcast::channel(LISTENERS_MAY_LAG);
        Self { trigger: Mutex::new(trigger.to_owned()), live, last_pass: Mutex::new(None), file: None }
    }

    /// Says what woke us for what is written from now on. `run` has the words of
    /// [`Trigger`](super::run::Trigger), joined by commas.
    pub fn woken_by(&self, trigger: &str) {
        trigger.clone_into(&mut guard(&self.trigger));
    }

    /// Every entry from now on, as it is written, whether or not it can be written.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Value>> {
        self.live.subscribe()
    }

    /// Why the last entry could not be written, if so. `None` again as soon as one could be.
    pub fn problem(&self) -> Option<String> {
        self.file.as_ref().and_then(|file| guard(file).problem.clone())
    }

    /// Writes down a step that ended.
    pub fn step(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration) {
        let mut what = json!({
            "kind": step.action.kind(),
            "agent": step.agent,
            "target": step.action.target(),
            "action": step.action.to_string(),
            "reason": step.reason.to_string(),
            "changes": step.reason.changes(),
            "durationMs": millis(took),
        });
        match outcome {
            Ok(_) => what["result"] = json!("done"),
            Err(err) => {
                what["result"] = json!("failed");
                what["error"] = json!({"kind": err.kind(), "message": Chain(err).to_string()});
                if let Some(pull) = err.pull() {
                    what["error"]["pull"] = json!(pull);
                }
            }
        }
        self.note("step", what);
    }

    /// Writes down a convergence that ended, when it did something or came to another end than the one before it, be that of another
    /// process.
    pub async fn pass(&self, report: &Report) {
        let problems: Vec<_> = report
            .problems
            .iter()
            .map(|problem| {
                let (message, cause) = (problem.to_string(), problem.cause());
                let mut told = json!({"agent": problem.agent(), "kind": problem.kind(), "message": message});
                if cause != message {
                    told["cause"] = json!(cause);
                }
                told
            })
            .collect();
        let end = json!({"converged": report.converged, "troubles": problems});
        let before = guard(&self.last_pass).replace(end.clone());
        let is_news =
            || !report.converged || self.file.as_ref().is_some_and(|file| read::tells_of_failure(&guard(file).path));
        let same = before.map_or_else(|| !is_news(), |before| before == end);
        if report.taken.is_empty() && same {
            return;
        }
        self.note(
            "pass",
            json!({
                "converged": report.converged,
                "steps": report.taken.iter().filter(|taken| taken.outcome.is_ok()).count(),
                "troubles": end["troubles"],
                "durationMs": millis(report.took),
                "ended": if report.interrupted { "interrupted" } else if report.timed_out { "timedOut" } else { "proved" },
                "notWaitedFor": report.not_waited_for,
            }),
        );
    }

    /// Writes down anything else: `runStarted`, `stateFileRejected`, … `fields` is an object whose fields stand beside
    /// `time`, `pid`, `trigger` and `event`, and cannot replace these. It must hold no secrets.
    pub fn note(&self, event: &str, fields: Value) {
        let entry = Arc::new(bounded(self.entry(event, fields)));
        if let Some(file) = &self.file {
            self.keep(&mut guard(file), &entry);
        }
        // Nobody listening is no error.
        let _ = self.live.send(entry);
    }

    /// Tells those who listen of something that is not worth writing down.
    pub fn tell(&self, event: &str, fields: Value) {
        // Nobody listening is no error.
        let _ = self.live.send(Arc::new(self.entry(event, fields)));
    }

    fn entry(&self, event: &str, fields: Value) -> Value {
        let mut entry = Map::new();
        entry.insert("time".to_owned(), json!(crate::time::rfc3339_millis(SystemTime::now())));
        entry.insert("pid".to_owned(), json!(std::process::id()));
        entry.insert("trigger".to_owned(), json!(*guard(&self.trigger)));
        entry.insert("event".to_owned(), json!(event));
        if let Value::Object(fields) = fields {
            for (name, value) in fields {
                entry.entry(name).or_insert(value);
            }
        }
        Value::Object(entry)
    }

    fn keep(&self, kept: &mut Kept, entry: &Value) {
        let missed = (kept.missed > 0).then(|| self.entry("notRecorded", json!({"entries": kept.missed})));
        let lines = missed.iter().chain([entry]).fold(String::new(), |lines, entry| format!("{lines}{entry}\n"));
        let path = kept.path.display();
        match kept.writer.append(lines.as_bytes()) {
            Ok(()) => {
                if let Some(why) = kept.problem.take() {
                    tracing::warn!(%path, was = why, missed = kept.missed, "the journal can be written again");
                }
                kept.missed = 0;
            }
            Err(err) => {
                kept.missed += 1;
                if kept.problem.replace(format!("cannot write `{path}`: {err}")).is_none() {
                    tracing::warn!(%path, error = %err, "cannot write the journal; going on without it");
                }
            }
        }
    }
}

/// The entry, cut where it is longer than anybody reads: it must not push all others out.
fn bounded(mut entry: Value) -> Value {
    cut(&mut entry, MAX_TEXT, usize::MAX);
    if entry.to_string().len() > MAX_ENTRY {
        cut(&mut entry, MAX_TEXT / 16, MAX_ENTRY / MAX_TEXT);
    }
    entry
}

/// Cuts each text to about so many bytes, and each list to so many items and a word on the rest.
fn cut(value: &mut Value, text: usize, items: usize) {
    match value {
        Value::String(long) if long.len() > text => *long = brief(long, text).into_owned(),
        Value::Array(list) => {
            let more = list.len().saturating_sub(items);
            list.truncate(items);
            list.iter_mut().for_each(|item| cut(item, text, items));
            if more > 0 {
                list.push(json!(format!("… and {more} more")));
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(|field| cut(field, text, items)),
        _ => {}
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
