//! From the tree of positions to typed values, reporting what does not fit and going on.
//!
//! A type here knows how it is written in YAML ([`Decode`]) and how a schema describes that (`JsonSchema`), side by
//! side, so that the two cannot drift apart. What values mean together belongs in `resolve.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::marker::PhantomData;
use std::path::Path as FilePath;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::config::Written;
use super::problem::{Draft, Problems};
use super::source::Sources;
use super::substitute::Whose;
use super::tree::{NodeId, Tree, View};
use crate::visible::acts;

/// What decoding needs beside the node.
pub(super) struct Cx<'a> {
    pub(super) tree: &'a Tree<'a>,
    pub(super) sources: &'a Sources<'a>,
    pub(super) vars: &'a BTreeMap<String, String>,
    pub(super) problems: Problems,
    /// Whose values are being read.
    pub(super) whose: Whose,
    /// Whether a mapping may lack what it must have in the end: what takes it up may add that.
    pub(super) partial: bool,
    /// Whether an explicit `null` is no value, where it cannot be an empty one: it took away what lies below, where anything did.
    pub(super) blanks: bool,
    /// What is to be known of values that are written again.
    pub(super) written: Option<Written>,
}

impl<'a> Cx<'a> {
    pub(super) fn new(
        tree: &'a Tree<'a>,
        sources: &'a Sources<'a>,
        vars: &'a BTreeMap<String, String>,
        problems: Problems,
    ) -> Self {
        Self { tree, sources, vars, problems, whose: Whose::Nobody, partial: false, blanks: false, written: None }
    }

    /// Whether a value of a type that cannot be nothing is nothing, which is no value here.
    pub(super) fn is_blank(&mut self, node: NodeId) -> bool {
        let is_blank = self.blanks && is_null(self.tree, node);
        if let Some(written) = self.written.as_mut().filter(|_| is_blank) {
            written.blanks.insert(node);
        }
        is_blank
    }

    /// A value is a path that may be relative.
    pub(super) fn note_path(&mut self, node: NodeId) {
        if let Some(written) = &mut self.written {
            written.paths.insert(node);
        }
    }

    /// A value must be a number or a boolean.
    pub(super) fn note_typed(&mut self, node: NodeId) {
        if let Some(written) = &mut self.written {
            written.typed.insert(node);
        }
    }

    /// What a relative path that is written in a node is relative to.
    pub(super) fn dir(&self, node: NodeId) -> &'a FilePath {
        self.sources.dir(self.tree.span(node).start)
    }

    /// Reports a problem with a node.
    pub(super) fn wrong(&mut self, node: NodeId, path: Path<'_>, message: impl Into<String>) {
        self.problems.add(Draft::at(self.tree.span(node), path.to_string(), message));
    }

    /// Reports a problem with a node, and the way out.
    pub(super) fn wrong_help(
        &mut self,
        node: NodeId,
        path: Path<'_>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.problems.add(Draft::at(self.tree.span(node), path.to_string(), message).help(help));
    }

    /// Reports that a node is of the wrong type.
    pub(super) fn mistyped(&mut self, node: NodeId, path: Path<'_>, expected: &str) {
        if let Some(found) = found(self.tree, node) {
            self.wrong(node, path, format!("expected {expected}, found {found}"));
        }
    }
}

/// Where a value stands, as a chain on the stack: nothing is allocated unless there is a problem.
#[derive(Clone, Copy)]
pub(super) struct Path<'p> {
    pub(super) parent: Option<&'p Path<'p>>,
    segment: Segment<'p>,
}

#[derive(Clone, Copy)]
enum Segment<'p> {
    Root,
    Key(&'p str),
    Index(usize),
}

impl<'p> Path<'p> {
    pub(super) const ROOT: Path<'static> = Path { parent: None, segment: Segment::Root };

    pub(super) fn key(&'p self, key: &'p str) -> Path<'p> {
        Path { parent: Some(self), segment: Segment::Key(key) }
    }

    pub(super) fn index(&'p self, index: usize) -> Path<'p> {
        Path { parent: Some(self), segment: Segment::Index(index) }
    }

    /// `parent.key`, or `parent["odd key"]`.
    pub(super) fn join_text(parent: &str, key: &str) -> String {
        let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '/'));
        match (parent.is_empty(), plain) {
            (_, false) => format!("{parent}[{:?}]", cut(key)),
            (true, true) => cut(key).into_owned(),
            (false, true) => format!("{parent}.{}", cut(key)),
        }
    }
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parent = self.parent.map(ToString::to_string).unwrap_or_default();
        match self.segment {
            Segment::Root => Ok(()),
            Segment::Key(key) => f.write_str(&Path::join_text(&parent, key)),
            Segment::Index(index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Text of the file, short enough and harmless enough for a message.
pub(super) fn cut(text: &str) -> Cow<'_, str> {
    const MOST: usize = 60;
    if text.len() <= MOST && !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut short = String::new();
    for c in text.chars().take(MOST) {
        let _ = write!(short, "{}", c.escape_debug());
    }
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    Cow::Owned(short)
}

/// The word of `words` of which `found` is probably a slip of the pen.
pub(super) fn near<'w>(found: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    if found.len() > 64 {
        return None;
    }
    let lower = found.to_lowercase();
    words
        .into_iter()
        .filter(|word| word.len() <= 64)
        .map(|word| {
            let like = strsim::normalized_damerau_levenshtein(&lower, &word.to_lowercase());
            // `readonly`, `read_only` and `read-only` all mean `readOnly`.
            let squeezed = lower.replace(['_', '-'], "") == word.to_lowercase().replace(['_', '-'], "");
            (if squeezed { 1.0 } else { like }, word)
        })
        // Two of five letters is too much: `arm` is not `arm64`.
        .filter(|(like, _)| *like > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, word)| word)
}

/// A plain scalar's type (YAML 1.2 core schema).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    Null,
    Bool,
    Number,
    Text,
}

impl Plain {
    pub(super) fn of(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => return Plain::Bool,
            _ => {}
        }
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let number = match unsigned {
            ".inf" | ".Inf" | ".INF" => true,
            ".nan" | ".NaN" | ".NAN" => unsigned.len() == text.len(),
            _ => {
                let based = |prefix: &str, radix| {
                    text.strip_prefix(prefix)
                        .is_some_and(|digits| !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)))
                };
                based("0o", 8)
                    || based("0x", 16)
                    || (unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                        && unsigned.contains(|c: char| c.is_ascii_digit())
                        && unsigned.parse::<f64>().is_ok())
            }
        };
        if number { Plain::Number } else { Plain::Text }
    }
}

pub(super) fn found(tree: &Tree<'_>, node: NodeId) -> Option<String> {
    Some(match tree.view(node) {
        View::Scalar { text, plain: true } => match Plain::of(text) {
            Plain::Null => "nothing".to_owned(),
            Plain::Bool => format!("the boolean `{text}`"),
            Plain::Number => format!("the number `{}`", cut(text)),
            Plain::Text => "a string".to_owned(),
        },
        View::Scalar { .. } => "a string".to_owned(),
        View::List(_) => "a list".to_owned(),
        View::Map(_) => "a mapping".to_owned(),
        View::Broken => return None,
    })
}

/// Whether a node is there and says nothing: `key:` or `key: null`.
pub(super) fn is_null(tree: &Tree<'_>, node: NodeId) -> bool {
    matches!(tree.view(node), View::Scalar { text, plain: true } if Plain::of(text) == Plain::Null)
}

/// The value that a mapping has for a key.
pub(super) fn field(tree: &Tree<'_>, node: NodeId, key: &str) -> Option<NodeId> {
    let View::Map(pairs) = tree.view(node) else { return None };
    pairs.chunks_exact(2).find(|pair| tree.text(pair[0]) == key).map(|pair| pair[1])
}

/// Whether a mapping has this key.
pub(super) fn has_key(tree: &Tree<'_>, node: NodeId, key: &str) -> bool {
    matches!(tree.view(node), View::Map(pairs) if pairs.chunks_exact(2).any(|pair| tree.text(pair[0]) == key))
}

/// How a type is read from the tree.
pub(super) trait Decode: Sized {
    /// Whether nothing at all (`key:`) is a value of it: an empty one.
    const BLANK: bool = false;

    /// `None` when it does not fit; a problem was reported then.
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self>;
}

/// A value and the node it came from.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) node: NodeId,
    pub(super) value: T,
}

impl<T: Decode> At<T> {
    pub(super) fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        T::decode(cx, node, path).map(|value| At { node, value })
    }
}

/// A list, each item with its index: items that are wrong were reported and are missing. Nothing at all (`key:`) is an
/// empty list.
#[derive(Debug, Clone)]
pub(super) struct List<T>(pub(super) Vec<(usize, At<T>)>);

impl<T: Decode> Decode for List<T> {
    const BLANK: bool = true;

    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        let View::List(items) = tree.view(node) else {
            if is_null(tree, node) {
                return Some(List(Vec::new()));
            }
            if let Some(found) = found(tree, node) {
                let message = format!("expected a list, found {found}");
                cx.wrong_help(node, path, message, "write `[first, second]`, or a line with `- ` for each item");
            }
            return None;
        };
        // A list is replaced as a whole, so nothing is added to what is in it.
        let (partial, blanks) = (std::mem::take(&mut cx.partial), std::mem::take(&mut cx.blanks));
        let decoded = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((index, At::decode(cx, *item, path.index(index))?)));
        let list = List(decoded.collect());
        (cx.partial, cx.blanks) = (partial, blanks);
        Some(list)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": generator.subschema_for::<T>()})
    }
}

/// A mapping with keys of the user's choice. Nothing at all is an empty one.
#[derive(Debug, Clone)]
pub(super) struct Table<T>(pub(super) Vec<Entry<T>>);

/// One entry of a [`Table`].
#[derive(Debug, Clone)]
pub(super) struct Entry<T> {
    pub(super) key: NodeId,
    pub(super) name: String,
    pub(super) at: At<T>,
}

impl<T: Decode> Decode for Table<T> {
    const BLANK: bool = true;

    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        let View::Map(pairs) = tree.view(node) else {
            if is_null(tree, node) {
                return Some(Table(Vec::new()));
            }
            if let Some(found) = found(tree, node) {
                let message = format!("expected a mapping, found {found}");
                cx.wrong_help(node, path, message, "write a line with `name: value` for each entry");
            }
            return None;
        };
        let mut entries = Vec::with_capacity(pairs.len() / 2);
        for pair in pairs.chunks_exact(2) {
            if !T::BLANK && cx.is_blank(pair[1]) {
                continue;
            }
            if let View::Scalar { text: name, .. } = tree.view(pair[0])
                && let Some(at) = At::decode(cx, pair[1], path.key(name))
            {
                entries.push(Entry { key: pair[0], name: name.to_owned(), at });
            }
        }
        Some(Table(entries))
    }
}

impl<T: JsonSchema> JsonSchema for Table<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("TableOf{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "object", "additionalProperties": generator.subschema_for::<T>()})
    }
}

/// Something that is decoded later, one at a time, so that ten thousand of them are never in memory at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Later<T>(PhantomData<T>);

impl<T> Decode for Later<T> {
    const BLANK: bool = true;

    fn decode(_: &mut Cx<'_>, _: NodeId, _: Path<'_>) -> Option<Self> {
        Some(Later(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Later<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
