//! What is wrong with a state file: every problem with its place, path and way out.
//!
//! Problems are collected as byte ranges while the file is read, and become lines, columns and excerpts once, at the
//! end, when it is known which parts of the file hold secrets.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::PathBuf;

use super::layers::Inherited;
use super::snippet::{self, Excerpt, Hidden, Shown};
use super::source::{Places, Sources};
use super::tree::NodeId;
use crate::brief::brief;
use crate::model::Place;
use crate::visible::visible;

/// How many problems of one file are told; the rest is counted.
const MAX_PROBLEMS: usize = 100;

/// Why there is no desired state.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StateError {
    /// The file could not be read at all.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The file was read and is not a valid state file.
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

impl StateError {
    /// The problems in the order of the file; none when it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            StateError::Unreadable(_) => &[],
            StateError::Invalid(invalid) => &invalid.problems,
        }
    }

    /// The error for a person: each problem with the lines it is about, the place underlined. Secrets are masked.
    pub fn render(&self, color: bool) -> String {
        match self {
            StateError::Unreadable(err) => format!("error: {err}\n"),
            StateError::Invalid(invalid) => snippet::render(invalid, color),
        }
    }
}

/// Why a state file could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// There is no such file.
    #[error("there is no state file `{file}`: name one with `-f FILE`, or write a first one with `steadfast init`")]
    NotFound {
        /// As the user named it.
        file: String,
    },
    /// It is a directory, a socket, a device.
    #[error("`{file}` is {what}, not a file")]
    NotAFile {
        /// As the user named it.
        file: String,
        /// What it is: `a FIFO`.
        what: &'static str,
    },
    /// It is too large.
    #[error("`{file}` is larger than {}, the most a state file may have", crate::sizes::limit(super::MAX_BYTES))]
    TooLarge {
        /// As the user named it.
        file: String,
    },
    /// It is not text.
    #[error("{place}: the file is not UTF-8 text")]
    NotUtf8 {
        /// Where the first wrong byte stands.
        place: Place,
    },
    /// The file system refused.
    #[error("failed to read `{file}`: {why}")]
    Io {
        /// As the user named it.
        file: String,
        /// What the system says.
        why: String,
    },
}

/// The problems of a state file.
#[derive(Debug, Clone)]
pub struct Invalid {
    /// The file as the user named it; several with commas between them.
    pub file: String,
    /// The problems in the order of the files, at most a hundred.
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
    /// The env files it names, as far as they are known, for who watches them.
    pub(super) env_files: EnvFiles,
}

/// Absolute paths, sorted, each once. They may come from the environment, so they are not shown.
#[derive(Clone, Default)]
pub(super) struct EnvFiles(pub(super) Vec<PathBuf>);

impl fmt::Debug for EnvFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} env files", self.0.len())
    }
}

impl fmt::Display for Invalid {
    /// One line per problem: `file:line:column: path: message; way out`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more problems", self.file),
        }
    }
}

impl std::error::Error for Invalid {}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Where: in a state file, or in an env file it names.
    pub place: Place,
    /// Path of the field, e.g. `agents.openclaw.container.ports[0]`; empty when the problem is about the whole file.
    pub path: String,
    /// What is wrong. Never a secret.
    pub message: String,
    /// The way out, where there is an obvious one.
    pub help: Option<String>,
    /// Whether a plan tells of it by itself.
    pub planned: bool,
    pub(super) excerpt: Option<Excerpt>,
}

impl Problem {
    /// As a warning for a person: with the lines it is about, the place underlined. Secrets are masked.
    pub fn render_warning(&self, color: bool) -> String {
        snippet::render_warning(self, color)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(excerpt) = &self.excerpt
            && let Some(also) = &excerpt.also
        {
            match also.file == excerpt.file {
                true => write!(f, " ({} at line {})", also.label, also.line)?,
                false => write!(f, " ({} at {}:{})", also.label, also.file, also.line)?,
            }
        }
        match &self.help {
            Some(help) => write!(f, "; {help}"),
            None => Ok(()),
        }
    }
}

/// What is said of a problem may quote the file, where a word may have megabytes, and characters that a terminal obeys.
fn short(text: String) -> String {
    const MOST: usize = 700;
    let text = if text.len() <= MOST { text } else { brief(&text, MOST).into_owned() };
    match visible(&text, |c| c == '\n') {
        Cow::Borrowed(_) => text,
        Cow::Owned(visible) => visible,
    }
}

/// A problem that still speaks in bytes.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) span: Range<usize>,
    path: String,
    message: String,
    help: Option<String>,
    also: Option<Box<(Range<usize>, String)>>,
    /// Set when the problem is in another file than the state file.
    elsewhere: Option<Box<Place>>,
    planned: bool,
}

impl Draft {
    pub(super) fn at(span: Range<usize>, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            span,
            path: short(path.into()),
            message: short(message.into()),
            help: None,
            also: None,
            elsewhere: None,
            planned: false,
        }
    }

    pub(super) fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(short(help.into())), ..self }
    }

    /// In a text that begins so far behind.
    pub(super) fn shifted(self, by: usize) -> Self {
        let at = |span: Range<usize>| span.start + by..span.end + by;
        let also = self.also.map(|also| Box::new((at(also.0), also.1)));
        Self { span: at(self.span), also, ..self }
    }

    /// A plan tells of it by itself.
    pub(super) fn planned(self) -> Self {
        Self { planned: true, ..self }
    }

    /// Another place it has to do with.
    pub(super) fn also(self, span: Range<usize>, label: impl Into<String>) -> Self {
        Self { also: Some(Box::new((span, short(label.into())))), ..self }
    }

    /// The problem itself is at this line and column of another file, which is never shown.
    pub(super) fn elsewhere(self, file: &std::path::Path, (line, column): (u64, u64)) -> Self {
        Self { elsewhere: Some(Box::new(Place { file: short(file.display().to_string()), line, column })), ..self }
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(super) struct Problems {
    drafts: Vec<Draft>,
    more: usize,
    /// What is valid and probably not meant.
    warnings: Vec<Draft>,
    masks: Vec<Range<usize>>,
    env_files: EnvFiles,
    /// What several agents take up, by where it is written.
    inherited: Inherited,
    /// The agent that is being read.
    reading: Option<Reading>,
    /// What was told of what several agents have: once is enough. Hashes of place and message.
    told: HashSet<u64>,
    hasher: RandomState,
}

/// The agent that is being read.
#[derive(Debug)]
struct Reading {
    /// Its path.
    path: String,
    /// The path of the entry that it comes from: another one where that makes several agents.
    entry: String,
}

impl Problems {
    pub(super) fn add(&mut self, draft: Draft) {
        let Some(draft) = self.told_once(draft) else { return };
        if self.drafts.len() < MAX_PROBLEMS { self.drafts.push(draft) } else { self.more += 1 }
    }

    /// Whether one more problem would be told, and not only counted: then it is worth looking for what was meant.
    pub(super) fn tells_more(&self) -> bool {
        self.drafts.len() < MAX_PROBLEMS
    }

    /// Reports what is valid and probably not meant.
    pub(super) fn warn(&mut self, draft: Draft) {
        let Some(draft) = self.told_once(draft) else { return };
        if self.warnings.len() < MAX_PROBLEMS {
            self.warnings.push(draft);
        }
    }

    /// What several agents take up, for what is reported from now on.
    pub(super) fn set_inherited(&mut self, inherited: Inherited) {
        self.inherited = inherited;
    }

    /// The agent at `path` is read from now on, of the entry at `entry`; `None` is none.
    pub(super) fn read(&mut self, agent: Option<(String, String)>) {
        self.reading = agent.map(|(path, entry)| Reading { path, entry });
    }

    /// Whether agents may have something in common.
    pub(super) fn has_inherited(&self) -> bool {
        !self.inherited.regions.is_empty()
    }

    /// Whether what stands there is what agents take up.
    pub(super) fn is_inherited(&self, offset: usize) -> bool {
        self.inherited.region(offset).is_some()
    }

    /// Whether what lies below an agent is unknown, so that it says nothing that something is missing. That was reported.
    pub(super) fn is_unsettled(&self, agent: NodeId) -> bool {
        self.inherited.unsettled.contains(&agent)
    }

    /// What is wrong with what several agents have is told once, with the path that it was written at.
    fn told_once(&mut self, mut draft: Draft) -> Option<Draft> {
        if self.reading.is_none() && !self.has_inherited() {
            return Some(draft);
        }
        let region = self.inherited.region(draft.span.start);
        let of_several = match &self.reading {
            None => region.is_some(),
            Some(Reading { path, entry }) => {
                let written = region.unwrap_or(entry.as_str());
                let rest = draft.path.strip_prefix(path.as_str());
                if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with(['.', '['])) {
                    draft.path = format!("{written}{rest}");
                }
                written != path
            }
        };
        let said = self.hasher.hash_one((draft.span.start, draft.span.end, &draft.message));
        (!of_several || self.told.insert(said)).then_some(draft)
    }

    /// This part of the file holds a secret and is never shown.
    pub(super) fn mask(&mut self, span: Range<usize>) {
        self.masks.push(span);
    }

    /// The env files that were looked at: what is wrong may be in them.
    pub(super) fn concern(&mut self, env_files: Vec<PathBuf>) {
        self.env_files = EnvFiles(env_files);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.drafts.is_empty()
    }

    /// The error, with places and excerpts. `parsed` tells whether the masks are complete.
    pub(super) fn into_error(mut self, sources: &Sources<'_>, parsed: bool) -> Invalid {
        let drafts = std::mem::take(&mut self.drafts);
        let problems = self.placed(drafts, sources, parsed);
        Invalid { file: sources.names(), problems, more: self.more, env_files: self.env_files }
    }

    /// The warnings of a valid file, with places and excerpts.
    pub(super) fn into_warnings(mut self, sources: &Sources<'_>) -> Vec<Problem> {
        let drafts = std::mem::take(&mut self.warnings);
        self.placed(drafts, sources, true)
    }

    fn placed(&self, mut drafts: Vec<Draft>, sources: &Sources<'_>, parsed: bool) -> Vec<Problem> {
        if drafts.is_empty() {
            return Vec::new();
        }
        drafts.sort_by_key(|draft| draft.span.start);
        let places = Places::new(sources);
        let files = sources.files().iter().zip(places.lines());
        let shown: Vec<_> = files
            .map(|(file, lines)| {
                let (source, from) = (sources.text_of(file), file.range.start);
                let inside = self.masks.iter().filter(|mask| mask.start >= from && mask.end <= file.range.end);
                let masks: Vec<_> = inside.map(|mask| mask.start - from..mask.end - from).collect();
                Shown { name: file.name.into(), from, source, lines, hidden: Hidden::new(source, &masks, parsed) }
            })
            .collect();
        let place = |draft: Draft| {
            let of = |span: &Range<usize>| shown.get(sources.index(span.start));
            let also = draft.also.as_deref().and_then(|(span, label)| Some((of(span)?, span, label.as_str())));
            Problem {
                place: draft.elsewhere.map_or_else(|| places.of(draft.span.start), |place| *place),
                path: draft.path,
                message: draft.message,
                help: draft.help,
                planned: draft.planned,
                excerpt: of(&draft.span).map(|file| Excerpt::new(file, &draft.span, also)),
            }
        };
        drafts.into_iter().map(place).collect()
    }
}
