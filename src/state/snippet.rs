//! Excerpts of the state file for error messages, without the secrets in it.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::problem::{Invalid, Problem};
use crate::model::text::{names_a_secret, url_with_password};
use crate::visible::acts;

/// How much of a line is shown, in bytes, around what is wrong.
const MAX_LINE: usize = 160;

/// Where the lines of a text start.
#[derive(Debug)]
pub(super) struct Lines<'s> {
    source: &'s str,
    starts: Vec<u32>,
}

impl<'s> Lines<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        let newlines = source.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self { source, starts: std::iter::once(0).chain(newlines.map(|(at, _)| at as u32 + 1)).collect() }
    }

    fn index(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start as usize <= offset).saturating_sub(1)
    }

    fn range(&self, index: usize) -> Range<usize> {
        let start = self.starts.get(index).map_or(self.source.len(), |start| *start as usize);
        let end = self.starts.get(index + 1).map_or(self.source.len(), |next| *next as usize - 1);
        let end = if self.source[start..end].ends_with('\r') { end - 1 } else { end };
        start..end
    }

    /// Line and column (in characters) of a byte, both from 1.
    pub(super) fn position(&self, offset: usize) -> (u64, u64) {
        let index = self.index(offset);
        let start = self.range(index).start;
        let column = self.source.get(start..offset).map_or(0, |before| before.chars().count());
        (index as u64 + 1, column as u64 + 1)
    }
}

/// The parts of a source that are never shown.
#[derive(Debug)]
pub(super) struct Hidden {
    /// Sorted.
    ranges: Vec<Range<usize>>,
    /// The line that was looked at last, by its start, and where something like a secret begins in it: a file may be one line of
    /// megabytes with a hundred problems in it.
    last: Cell<Option<(usize, usize)>>,
}

impl Hidden {
    /// `known` are the values of variables named like secrets. When the file could not be parsed they are guessed: what
    /// follows such a name on its line, and the deeper lines below it.
    pub(super) fn new(source: &str, known: &[Range<usize>], parsed: bool) -> Self {
        let mut ranges = known.to_vec();
        if !parsed {
            ranges.extend(guess(source));
        }
        ranges.sort_by_key(|range| range.start);
        Self { ranges, last: Cell::default() }
    }

    /// The text of `range` with one `*` for each hidden character.
    fn show(&self, source: &str, range: Range<usize>) -> String {
        let line = source[..range.start].rfind('\n').map_or(0, |newline| newline + 1);
        let guess = || {
            let end = source[line..].find('\n').map_or(source.len(), |end| line + end);
            secret_value(&source[line..end]).map_or(usize::MAX, |at| line + at)
        };
        let end_of_guess = self.last.get().filter(|(last, _)| *last == line).map_or_else(guess, |(_, from)| from);
        self.last.set(Some((line, end_of_guess)));
        // Ranges may nest (an alias in a list), so a binary search on the start alone is not enough; there are few.
        let near: Vec<_> =
            self.ranges.iter().filter(|hidden| hidden.start < range.end && hidden.end > range.start).collect();
        source[range.clone()]
            .char_indices()
            .map(|(at, c)| {
                let at = range.start + at;
                let hidden = at >= end_of_guess || near.iter().any(|hidden| hidden.contains(&at));
                // A control character would garble the terminal; a tab is kept, one column wide.
                match c {
                    _ if hidden && !c.is_whitespace() => '*',
                    '\t' => ' ',
                    c if acts(c) => '?',
                    c => c,
                }
            })
            .collect()
    }
}

/// Where, in a line, the value of something named like a secret begins: after `NAME:` or `NAME=`.
fn secret_value(line: &str) -> Option<usize> {
    let url = url_with_password(line).map(|(at, _)| at);
    let named = named_secret(line);
    named.into_iter().chain(url).min()
}

/// What only sounds like a secret.
const PUBLIC: &str = "publicKeys";

fn named_secret(line: &str) -> Option<usize> {
    let mut word_start = None;
    for (at, c) in line.char_indices() {
        if c.is_alphanumeric() || matches!(c, '_' | '-' | '.') {
            word_start.get_or_insert(at);
            continue;
        }
        if let Some(start) = word_start.take() {
            let rest = line[at..].trim_start_matches(['"', '\'', ' ']);
            if rest.starts_with([':', '=']) && names_a_secret(&line[start..at]) && line[start..at] != *PUBLIC {
                let value = rest.trim_start_matches([':', '=']).trim_start();
                let from = line.len() - value.len();
                match after_reference(value) {
                    None => return Some(from),
                    // What follows it on the line is hidden, unless it is the end of the value.
                    Some(rest) if !rest.is_empty() && !rest.starts_with(['"', '\'', ' ', ',', '}', ']']) => {
                        return Some(line.len() - rest.len());
                    }
                    Some(_) => {}
                }
            }
        }
    }
    None
}

/// What follows the reference that a value starts with. A reference is no secret, and the reader wants to see it, unless
/// it has a default.
fn after_reference(value: &str) -> Option<&str> {
    let inside = value.trim_start_matches(['"', '\'']).strip_prefix("${")?;
    let end = inside.find('}')?;
    let name = inside[..end].strip_prefix("env:").unwrap_or(&inside[..end]);
    let known = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || inside.starts_with("env:");
    known.then(|| &inside[end + 1..])
}

/// What may be secrets in a file that does not parse.
fn guess(source: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    // Indentation of the line that named a secret, and whether its value can only be below it.
    let mut below: Option<(usize, bool)> = None;
    let mut at = 0;
    for line in source.split_inclusive('\n') {
        let text = line.trim_end();
        let words = text.trim_start();
        let indent = text.len() - words.len();
        // A tab in the indentation is what may be wrong with the file; such a line ends nothing.
        let tabbed = text[..indent].contains('\t');
        let entry = !tabbed && (words.starts_with("- ") || words.contains(": ") || words.ends_with(':'));
        if let Some((named_at, empty)) = below
            && !words.is_empty()
            && entry
            && (indent <= named_at || empty)
        {
            below = None;
        }
        if below.is_some() {
            ranges.push(at..at + text.len());
        } else if let Some(value) = secret_value(text) {
            ranges.push(at + value..at + text.len());
            below = Some((indent, value == text.len()));
        }
        at += line.len();
    }
    ranges
}

/// A file of which parts are shown.
pub(super) struct Shown<'s> {
    /// As the user named it.
    pub(super) name: Arc<str>,
    /// Where it stands among all the files.
    pub(super) from: usize,
    pub(super) source: &'s str,
    pub(super) lines: &'s Lines<'s>,
    pub(super) hidden: Hidden,
}

/// The lines a problem is about.
#[derive(Debug, Clone)]
pub(super) struct Excerpt {
    pub(super) file: Arc<str>,
    line: usize,
    text: String,
    span: Range<usize>,
    pub(super) also: Option<Also>,
}

/// Another line it has to do with.
#[derive(Debug, Clone)]
pub(super) struct Also {
    pub(super) file: Arc<str>,
    pub(super) line: usize,
    pub(super) label: String,
    text: String,
    span: Range<usize>,
}

impl Excerpt {
    pub(super) fn new(shown: &Shown<'_>, span: &Range<usize>, also: Option<(&Shown<'_>, &Range<usize>, &str)>) -> Self {
        let (line, text, span) = cut(shown, span);
        let also = also.map(|(shown, span, label)| {
            let (line, text, span) = cut(shown, span);
            Also { file: shown.name.clone(), line, label: label.to_owned(), text, span }
        });
        Self { file: shown.name.clone(), line, text, span, also }
    }
}

/// The line where `span` starts, cut to [`MAX_LINE`], and the span in it.
fn cut(shown: &Shown<'_>, span: &Range<usize>) -> (usize, String, Range<usize>) {
    let Shown { name: _, from, source, lines, hidden } = shown;
    let within = |at: usize| at.saturating_sub(*from).min(source.len());
    let span = within(span.start)..within(span.end);
    let index = lines.index(span.start);
    let line = lines.range(index);
    let floor = |mut at: usize| {
        while !source.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let from = if line.len() <= MAX_LINE {
        line.start
    } else {
        floor(span.start.saturating_sub(MAX_LINE / 2).max(line.start))
    };
    let to = floor(line.end.min(from + MAX_LINE));
    let text = hidden.show(source, from..to);
    // Masking changes how many bytes a character takes, so the underline is counted in characters.
    let start = span.start.clamp(from, to);
    let end = span.end.clamp(start, to);
    let skip = source[from..floor(start)].chars().count();
    let wide = source[floor(start)..floor(end)].chars().count().max(1);
    let byte = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let span = byte(skip)..byte(skip + wide);
    (index + 1, text, span)
}

fn renderer(color: bool) -> Renderer {
    if color { Renderer::styled() } else { Renderer::plain() }.decor_style(DecorStyle::Ascii)
}

/// A warning with its excerpt.
pub(super) fn render_warning(warning: &Problem, color: bool) -> String {
    renderer(color).render(&[group(warning, Level::WARNING)]) + "\n"
}

/// All problems with their excerpts.
pub(super) fn render(invalid: &Invalid, color: bool) -> String {
    let renderer = renderer(color);
    let mut out = String::new();
    for problem in &invalid.problems {
        out.push_str(&renderer.render(&[group(problem, Level::ERROR)]));
        out.push_str("\n\n");
    }
    let count = invalid.problems.len() + invalid.more;
    let s = if count == 1 { "" } else { "s" };
    let untold = if invalid.more > 0 { format!(", of which {} are not shown", invalid.more) } else { String::new() };
    out.push_str(&format!("{}: {count} problem{s}{untold}\n", invalid.file));
    out
}

fn group<'a>(problem: &'a Problem, level: Level<'a>) -> Group<'a> {
    let title = match problem.path.as_str() {
        "" => problem.message.clone(),
        path => format!("{path}: {}", problem.message),
    };
    let mut group = Group::with_title(level.primary_title(title));
    if problem.excerpt.as_ref().is_none_or(|excerpt| *excerpt.file != *problem.place.file) {
        let place = &problem.place;
        group = group
            .element(Origin::path(place.file.clone()).line(place.line as usize).char_column(place.column as usize));
    }
    if let Some(excerpt) = &problem.excerpt {
        let file = &*excerpt.file;
        let apart = |also: &&Also| (also.line, &also.file) != (excerpt.line, &excerpt.file);
        if let Some(also) = excerpt.also.as_ref().filter(apart) {
            // One snippet each: between the two lines there may be anything.
            group =
                group
                    .element(
                        Snippet::source(excerpt.text.clone())
                            .line_start(excerpt.line)
                            .path(file)
                            .annotation(AnnotationKind::Primary.span(excerpt.span.clone())),
                    )
                    .element(Snippet::source(also.text.clone()).line_start(also.line).path(&*also.file).annotation(
                        AnnotationKind::Context.span(also.span.clone()).label(format!("{} here", also.label)),
                    ));
        } else {
            let mut snippet = Snippet::source(excerpt.text.clone())
                .line_start(excerpt.line)
                .path(file)
                .annotation(AnnotationKind::Primary.span(excerpt.span.clone()));
            if let Some(also) = &excerpt.also {
                snippet = snippet
                    .annotation(AnnotationKind::Context.span(also.span.clone()).label(format!("{} here", also.label)));
            }
            group = group.element(snippet);
        }
    }
    match &problem.help {
        Some(help) => group.element(Level::HELP.message(help.as_str())),
        None => group,
    }
}
