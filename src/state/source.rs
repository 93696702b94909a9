//! The texts of the state files, one behind the other: an offset tells the file and the place in it.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use super::snippet::Lines;
use super::{Input, MAX_BYTES, ReadError};
use crate::model::Place;

/// State files that are read as one, in the order in which they are merged.
#[derive(Debug)]
pub(super) struct Sources<'i> {
    text: Cow<'i, str>,
    /// Never empty.
    files: Vec<Source<'i>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Source<'i> {
    /// As the user named it.
    pub(super) name: &'i str,
    /// What relative paths in it are relative to.
    pub(super) dir: &'i Path,
    /// Where it stands in the text.
    pub(super) range: Range<usize>,
}

impl<'i> Sources<'i> {
    /// One text of this name, with no directory of its own.
    pub(super) fn one(name: &'i str, text: &'i str) -> Self {
        let source = Source { name, dir: Path::new("/"), range: 0..text.len() };
        Self { text: Cow::Borrowed(text), files: vec![source] }
    }

    /// The texts of these files.
    ///
    /// # Errors
    /// When they are larger than a state file may be.
    pub(super) fn of(inputs: &'i [Input]) -> Result<Self, ReadError> {
        let text = |input: &'i Input| input.text.strip_prefix('\u{feff}').unwrap_or(&input.text);
        let mut files = Vec::with_capacity(inputs.len());
        let mut end = 0;
        for input in inputs {
            // Between two there is an end of line, so that the end of one is not the beginning of the next.
            let start = if files.is_empty() { 0 } else { end + 1 };
            end = start + text(input).len();
            if end > MAX_BYTES {
                let names: Vec<_> = inputs.iter().map(|input| input.name.as_str()).collect();
                return Err(ReadError::TooLarge { file: names.join(", ") });
            }
            files.push(Source { name: &input.name, dir: &input.dir, range: start..end });
        }
        let text = match inputs {
            [only] => Cow::Borrowed(text(only)),
            several => Cow::Owned(several.iter().map(text).collect::<Vec<_>>().join("\n")),
        };
        Ok(Self { text, files })
    }

    /// All of it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The files, in their order.
    pub(super) fn files(&self) -> &[Source<'i>] {
        &self.files
    }

    /// The text of a file.
    pub(super) fn text_of(&self, file: &Source<'_>) -> &str {
        self.text.get(file.range.clone()).unwrap_or_default()
    }

    /// Which file an offset lies in.
    pub(super) fn index(&self, offset: usize) -> usize {
        self.files.partition_point(|file| file.range.start <= offset).saturating_sub(1)
    }

    /// What relative paths that are written at an offset are relative to.
    pub(super) fn dir(&self, offset: usize) -> &'i Path {
        self.files.get(self.index(offset)).map_or(Path::new("/"), |file| file.dir)
    }

    /// The names of the files, for a message.
    pub(super) fn names(&self) -> String {
        self.files.iter().map(|file| file.name).collect::<Vec<_>>().join(", ")
    }
}

/// Where the lines of all files start.
#[derive(Debug)]
pub(super) struct Places<'s> {
    sources: &'s Sources<'s>,
    lines: Vec<Lines<'s>>,
}

impl<'s> Places<'s> {
    pub(super) fn new(sources: &'s Sources<'s>) -> Self {
        Self { sources, lines: sources.files.iter().map(|file| Lines::new(sources.text_of(file))).collect() }
    }

    /// File, line and column of an offset.
    pub(super) fn of(&self, offset: usize) -> Place {
        let index = self.sources.index(offset);
        let file = self.sources.files.get(index);
        let start = file.map_or(0, |file| file.range.start);
        let (line, column) = self.lines.get(index).map_or((1, 1), |lines| lines.position(offset.saturating_sub(start)));
        Place { file: file.map_or_else(String::new, |file| file.name.to_owned()), line, column }
    }

    /// The lines of each file.
    pub(super) fn lines(&self) -> &[Lines<'s>] {
        &self.lines
    }
}
