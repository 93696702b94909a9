//! The journal, read again: oldest entry first, over both files, in bounded memory. What is not an entry is counted and
//! passed over, so a torn line costs itself and nothing else.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use super::write::older;
use crate::backend::{PullFault, PullRefusal};
use crate::files;
use crate::model::FailureKind;
use crate::plan::ActionKind;
use crate::words::Word;

/// A longer line is no entry of ours (1 MiB).
const MAX_LINE: usize = 1024 * 1024;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// When it was written.
    pub time: SystemTime,
    /// All that stands in it.
    pub fields: Map<String, Value>,
}

impl Entry {
    /// Reads a line. `None` when it is not an object with a time.
    pub(crate) fn parse(line: &[u8]) -> Option<Self> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(line) else { return None };
        let time = humantime::parse_rfc3339(fields.get("time")?.as_str()?).ok()?;
        Some(Self { time, fields })
    }

    /// A field that is a string; empty when there is none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// What kind of entry it is: `step`, `pass`, `runStarted`, …
    pub(crate) fn event(&self) -> &str {
        self.text("event")
    }

    /// The agent it is about, if it is about one.
    pub(crate) fn agent(&self) -> Option<&str> {
        self.fields.get("agent").and_then(Value::as_str)
    }

    /// How long what it tells of took.
    pub(crate) fn took(&self) -> Option<Duration> {
        self.fields.get("durationMs").and_then(Value::as_u64).map(Duration::from_millis)
    }

    /// A step that failed.
    pub(crate) fn failed(&self) -> bool {
        self.event() == "step" && self.text("result") == "failed"
    }

    /// What kind of step it tells of.
    pub(crate) fn kind(&self) -> Word<ActionKind> {
        self.text("kind").into()
    }

    /// What made a step fail.
    pub(crate) fn error(&self) -> Option<ReportedError<'_>> {
        self.fields.get("error").map(ReportedError::of)
    }

    /// What stood in the way at the end of a pass, or what `run` said does. Empty for anything else.
    pub(crate) fn problems(&self) -> impl Iterator<Item = ReportedError<'_>> {
        let problems = self.fields.get("troubles").and_then(Value::as_array).into_iter().flatten();
        problems.map(ReportedError::of)
    }

    /// What stands in the way of somebody, where that is what it tells of.
    pub(crate) fn problem(&self) -> ReportedError<'_> {
        let (message, cause) = (self.text("message"), self.text("cause"));
        let cause = if cause.is_empty() { message } else { cause };
        ReportedError { agent: self.agent(), kind: "".into(), message, cause, pull: None }
    }

    /// A pass that ended as it was asked to, without waiting for agents that are not ready yet, and found nothing wrong.
    pub(crate) fn left_as_asked(&self) -> bool {
        let filled =
            |field: &str| self.fields.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
        self.text("ended") == "proved" && filled("notWaitedFor") && !filled("troubles")
    }

    /// Whether it is about this agent, or says of it that something stands in its way.
    pub(crate) fn concerns(&self, agent: &str) -> bool {
        self.agent() == Some(agent) || self.problems().any(|told| told.agent == Some(agent))
    }
}

/// A failure as an entry tells it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ReportedError<'e> {
    /// Whose.
    pub agent: Option<&'e str>,
    /// What kind of failure it is; empty where that is not told.
    pub kind: Word<FailureKind>,
    /// It in a sentence.
    pub message: &'e str,
    /// The failure alone, without what becomes of it.
    pub cause: &'e str,
    /// What a registry is to blame for, where that is why.
    pub pull: Option<PullFault>,
}

impl<'e> ReportedError<'e> {
    fn of(value: &'e Value) -> Self {
        let word = |name: &str| value.get(name).and_then(Value::as_str);
        // Version 0.1.0 wrote the message alone.
        let message = word("message").or(value.as_str()).unwrap_or_default();
        let cause = word("cause").unwrap_or(message);
        let kind = word("kind").unwrap_or_default().into();
        Self { agent: word("agent"), kind, message, cause, pull: value.get("pull").and_then(pull) }
    }
}

fn pull(told: &Value) -> Option<PullFault> {
    let why = PullRefusal::parse(told.get("why")?.as_str()?)?;
    Some(PullFault { registry: told.get("registry")?.as_str()?.to_owned(), why })
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Only those that concern this agent.
    pub agent: Option<String>,
    /// Only those written at this time or later.
    pub since: Option<SystemTime>,
}

impl Filter {
    /// Whether this one is.
    pub(crate) fn admits(&self, entry: &Entry) -> bool {
        self.since.is_none_or(|since| entry.time >= since)
            && self.agent.as_ref().is_none_or(|agent| entry.concerns(agent))
    }
}

/// The entries of a journal, oldest first.
#[derive(Debug)]
pub(crate) struct Reader {
    path: PathBuf,
    older: Option<BufReader<File>>,
    current: Option<BufReader<File>>,
    line: Vec<u8>,
    /// The line at hand is longer than any entry.
    overlong: bool,
    skipped: u64,
}

impl Reader {
    /// Opens the journal at `path`, and the file before it. One that is not there has no entries.
    ///
    /// # Errors
    /// What the file system says, but for "not found".
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        // The newer first: what is put aside between the two is then seen twice, and not missed.
        let current = open(path)?;
        let before = match open(&older(path))? {
            Some(before) if current.as_ref().is_some_and(|now| same(now.get_ref(), before.get_ref())) => None,
            before => before,
        };
        Ok(Self { path: path.to_owned(), older: before, current, line: Vec::new(), overlong: false, skipped: 0 })
    }

    /// How many lines were no entries so far.
    pub(crate) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next entry of those that were there when it was opened, and of what came since; a last line without an end
    /// counts as one.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn entry(&mut self) -> io::Result<Option<Entry>> {
        self.next(true)
    }

    /// The last `most` entries that `filter` admits, oldest first.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn last(&mut self, filter: &Filter, most: usize) -> io::Result<VecDeque<Entry>> {
        let mut kept = VecDeque::new();
        while let Some(entry) = self.next(true)? {
            if !filter.admits(&entry) || most == 0 {
                continue;
            }
            if kept.len() == most {
                kept.pop_front();
            }
            kept.push_back(entry);
        }
        Ok(kept)
    }

    /// The next entry that has been written since; `None` when there is none yet. Goes on in the new file once this one
    /// has been put aside.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn poll(&mut self) -> io::Result<Option<Entry>> {
        loop {
            if let Some(entry) = self.next(false)? {
                return Ok(Some(entry));
            }
            let there = open(&self.path)?;
            match (&mut self.current, there) {
                (_, None) => return Ok(None),
                (Some(now), Some(there)) if same(now.get_ref(), there.get_ref()) => {
                    let size = there.get_ref().metadata()?.len();
                    if size >= now.stream_position()? {
                        return Ok(None);
                    }
                    // Somebody emptied it.
                    now.seek(SeekFrom::Start(0))?;
                }
                // All of the old one has been read.
                (current, Some(there)) => *current = Some(there),
            }
            self.drop_line();
        }
    }

    /// `closed`: nothing will be added to a last line without an end.
    fn next(&mut self, closed: bool) -> io::Result<Option<Entry>> {
        loop {
            let aside = self.older.is_some();
            let Some(file) = self.older.as_mut().or(self.current.as_mut()) else { return Ok(None) };
            let ended = read_line(file, &mut self.line, &mut self.overlong)?;
            if !(ended || closed || aside) {
                return Ok(None);
            }
            if !ended && aside {
                self.older = None;
            }
            if !self.overlong && self.line.is_empty() {
                if ended || aside {
                    continue;
                }
                return Ok(None);
            }
            let entry = if self.overlong { None } else { Entry::parse(&self.line) };
            self.drop_line();
            match entry {
                Some(entry) => return Ok(Some(entry)),
                None => self.skipped += 1,
            }
        }
    }

    fn drop_line(&mut self) {
        self.line.clear();
        self.overlong = false;
    }
}

/// How far back from its end a journal is read for the last that is told (64 KiB).
const TAIL: u64 = 64 * 1024;

/// Whether the last step or pass that the journal at `path` tells of failed. What cannot be read, or lies too far back, tells of
/// none.
pub(super) fn tells_of_failure(path: &Path) -> bool {
    let tail = || -> io::Result<Vec<u8>> {
        let Some(mut file) = open(path)? else { return Ok(Vec::new()) };
        let size = file.get_ref().metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let tail = tail().unwrap_or_default();
    let entries = tail.rsplit(|byte| *byte == b'\n').filter_map(Entry::parse);
    let last = entries.into_iter().find_map(|entry| match entry.event() {
        "step" => Some(entry.failed()),
        "pass" => Some(entry.fields.get("converged") == Some(&Value::Bool(false))),
        "converged" | "recovered" => Some(false),
        "trouble" => Some(true),
        _ => None,
    });
    last.unwrap_or_default()
}

/// Reads on to the end of the line, which is not kept. Yields whether it was reached; what is longer than any entry is
/// passed over without being kept.
fn read_line(file: &mut BufReader<File>, line: &mut Vec<u8>, overlong: &mut bool) -> io::Result<bool> {
    loop {
        let there = file.fill_buf()?;
        if there.is_empty() {
            return Ok(false);
        }
        let end = there.iter().position(|byte| *byte == b'\n');
        let piece = &there[..end.unwrap_or(there.len())];
        if line.len() + piece.len() > MAX_LINE {
            *overlong = true;
            line.clear();
        }
        if !*overlong {
            line.extend_from_slice(piece);
        }
        let used = piece.len() + usize::from(end.is_some());
        file.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

fn open(path: &Path) -> io::Result<Option<BufReader<File>>> {
    match files::open(path, OpenOptions::new().read(true)) {
        Ok(file) => Ok(Some(BufReader::new(file))),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(err),
    }
}

fn same(one: &File, other: &File) -> bool {
    match (one.metadata(), other.metadata()) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}
