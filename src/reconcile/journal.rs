//! The journal: one JSON line for each step that was taken and each convergence that ended. Append-only.
//!
//! It explains; nothing is ever decided by it. What cannot be written is logged and left at that.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::{Value, json};

use super::report::Report;
use crate::act::{ActError, Done};
use crate::error::Chain;
use crate::plan::Step;

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Mutex<Option<File>>,
    trigger: &'static str,
    off: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    time: String,
    pid: u32,
    trigger: &'a str,
    #[serde(flatten)]
    what: Value,
}

impl Journal {
    /// A journal in this file, opened when first written. `trigger` says what woke us: `apply`, `down`, …
    pub fn new(path: &Path, trigger: &'static str) -> Self {
        Self { path: path.to_owned(), file: Mutex::new(None), trigger, off: false }
    }

    /// A journal that is not written.
    pub fn off() -> Self {
        Self { path: PathBuf::new(), file: Mutex::new(None), trigger: "", off: true }
    }

    /// Writes down a step that ended.
    pub fn step(&self, step: &Step, outcome: Result<&Done, &ActError>, took: Duration) {
        let mut what = json!({
            "event": "step",
            "kind": step.action.kind(),
            "agent": step.agent,
            "target": step.action.target(),
            "reason": step.reason.to_string(),
            "changes": step.reason.changes(),
            "durationMs": millis(took),
        });
        match outcome {
            Ok(_) => what["result"] = json!("done"),
            Err(err) => {
                what["result"] = json!("failed");
                what["error"] = json!({"kind": err.kind(), "message": Chain(err).to_string()});
            }
        }
        self.append(what);
    }

    /// Writes down a convergence that ended, when it did or found anything.
    pub async fn pass(&self, report: &Report) {
        if report.taken.is_empty() && report.converged {
            return;
        }
        self.append(json!({
            "event": "pass",
            "converged": report.converged,
            "steps": report.taken.len(),
            "troubles": report.troubles.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "durationMs": millis(report.took),
        }));
    }

    fn append(&self, what: Value) {
        if self.off {
            return;
        }
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        let entry = Entry { time, pid: std::process::id(), trigger: self.trigger, what };
        if let Err(err) = self.write(&entry) {
            tracing::warn!(path = %self.path.display(), error = %err, "cannot write the journal");
        }
    }

    /// One `write` for each line, in append mode: lines of two processes never mix.
    fn write(&self, entry: &Entry<'_>) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let mut slot = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if slot.is_none() {
            if let Some(dir) = self.path.parent() {
                std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            }
            *slot = Some(OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?);
        }
        match slot.as_mut() {
            Some(file) => file.write_all(&line),
            None => Ok(()),
        }
    }
}

fn millis(took: Duration) -> u64 {
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}
