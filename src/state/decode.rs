//! From the tree of positions to typed values, reporting what does not fit and going on.
//!
//! A type here knows how it is written in YAML ([`Decode`]) and how a schema describes that (`JsonSchema`), side by
//! side, so that the two cannot drift apart. What values mean together belongs in `resolve.rs`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::marker::PhantomData;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::problem::{Draft, Problems};
use super::substitute::substitute;
use super::tree::{NodeId, Tree, View};

/// What a string with a substitution looks like, for schemas.
pub(super) const REFERENCE: &str = r"\$\{env:";

/// What decoding needs beside the node.
pub(super) struct Cx<'a> {
    pub(super) tree: &'a Tree<'a>,
    pub(super) vars: &'a BTreeMap<String, String>,
    pub(super) problems: Problems,
}

impl Cx<'_> {
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
    parent: Option<&'p Path<'p>>,
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
    if text.len() <= MOST && !text.chars().any(char::is_control) {
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

/// The word of `words` that was probably meant, if one is near enough.
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
        .filter(|(like, _)| *like >= 0.6)
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

fn found(tree: &Tree<'_>, node: NodeId) -> Option<String> {
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

/// How a type is read from the tree.
pub(super) trait Decode: Sized {
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

/// A string, with its substitutions made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Str {
    pub(super) value: String,
    /// Whether part of it came from the environment: then it is never shown.
    pub(super) from_env: bool,
}

fn string(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>, text: &str) -> Option<Str> {
    match substitute(text, cx.vars) {
        Ok(done) if done.value.contains('\0') => {
            cx.wrong(node, path, "a NUL character cannot be passed on");
            None
        }
        Ok(done) => Some(Str { value: done.value, from_env: done.from_env }),
        Err(wrong) => {
            let draft = Draft::at(cx.tree.span(node), path.to_string(), wrong.message);
            cx.problems.add(match wrong.help {
                Some(help) => draft.help(help),
                None => draft,
            });
            None
        }
    }
}

/// A string; a number or boolean must be quoted to be one.
#[derive(Debug, Clone)]
pub(super) struct Word(pub(super) Str);

impl Decode for Word {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        match tree.view(node) {
            View::Scalar { text, plain: true } if matches!(Plain::of(text), Plain::Number | Plain::Bool) => {
                let kind = if Plain::of(text) == Plain::Bool { "boolean" } else { "number" };
                let text = cut(text);
                let message = format!("expected a string; YAML reads `{text}` as a {kind}");
                cx.wrong_help(node, path, message, format!("write \"{text}\", with quotes"));
                None
            }
            View::Scalar { text, plain } if !plain || Plain::of(text) == Plain::Text => {
                string(cx, node, path, text).map(Word)
            }
            _ => {
                cx.mistyped(node, path, "a string");
                None
            }
        }
    }
}

impl JsonSchema for Word {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Word".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string"})
    }
}

/// A string that may be written as a plain number or boolean too, and is then taken as it stands there.
#[derive(Debug, Clone)]
pub(super) struct Loose(pub(super) Str);

impl Decode for Loose {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        match tree.view(node) {
            View::Scalar { text, plain } if !plain || Plain::of(text) != Plain::Null => {
                string(cx, node, path, text).map(Loose)
            }
            View::Scalar { .. } => {
                cx.wrong_help(node, path, "expected a string, found nothing", "write \"\" for an empty string");
                None
            }
            _ => {
                cx.mistyped(node, path, "a string");
                None
            }
        }
    }
}

impl JsonSchema for Loose {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Loose".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number", "boolean"]})
    }
}

/// A version: a string, and often one that YAML would read as a number.
#[derive(Debug, Clone)]
pub(super) struct VersionWord(pub(super) Str);

impl Decode for VersionWord {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        if let View::Scalar { text, plain: true } = cx.tree.view(node)
            && Plain::of(text) == Plain::Number
        {
            let message = format!("YAML reads the version `{}` as a number", cut(text));
            let help = format!("write \"{}\", with quotes", cut(text));
            cx.wrong_help(node, path, message, help);
            return None;
        }
        Word::decode(cx, node, path).map(|word| VersionWord(word.0))
    }
}

impl JsonSchema for VersionWord {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "minLength": 1})
    }
}

/// A whole number between two bounds, or a string with a substitution that yields one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Whole<const LEAST: u32, const MOST: u32>(pub(super) u32);

impl<const LEAST: u32, const MOST: u32> Decode for Whole<LEAST, MOST> {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        let expected = format!("a whole number from {LEAST} to {MOST}");
        let View::Scalar { text, plain } = tree.view(node) else {
            cx.mistyped(node, path, &expected);
            return None;
        };
        if !plain && !text.contains("${env:") {
            cx.wrong_help(node, path, format!("expected {expected}, found a string"), "leave the quotes out");
            return None;
        }
        let done = string(cx, node, path, text)?;
        let digits = !done.value.is_empty() && done.value.bytes().all(|b| b.is_ascii_digit());
        match done.value.parse::<u32>() {
            Ok(number) if digits && (LEAST..=MOST).contains(&number) => Some(Self(number)),
            _ if Plain::of(text) == Plain::Null => {
                cx.mistyped(node, path, &expected);
                None
            }
            _ => {
                cx.wrong(node, path, format!("expected {expected}, found `{}`", cut(text)));
                None
            }
        }
    }
}

impl<const LEAST: u32, const MOST: u32> JsonSchema for Whole<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Whole{LEAST}To{MOST}").into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "integer", "minimum": LEAST, "maximum": MOST},
            {"type": "string", "pattern": REFERENCE},
        ]})
    }
}

/// `true` or `false`, or a string with a substitution that yields one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag(pub(super) bool);

impl Decode for Flag {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        let View::Scalar { text, plain } = tree.view(node) else {
            cx.mistyped(node, path, "`true` or `false`");
            return None;
        };
        if !plain && !text.contains("${env:") {
            cx.wrong_help(node, path, "expected `true` or `false`, found a string", "leave the quotes out");
            return None;
        }
        match string(cx, node, path, text)?.value.to_ascii_lowercase().as_str() {
            "true" => Some(Flag(true)),
            "false" => Some(Flag(false)),
            "yes" | "on" if plain => {
                cx.wrong_help(node, path, format!("expected `true` or `false`, found `{text}`"), "write `true`");
                None
            }
            "no" | "off" if plain => {
                cx.wrong_help(node, path, format!("expected `true` or `false`, found `{text}`"), "write `false`");
                None
            }
            _ if Plain::of(text) == Plain::Null => {
                cx.mistyped(node, path, "`true` or `false`");
                None
            }
            _ => {
                cx.wrong(node, path, format!("expected `true` or `false`, found `{}`", cut(text)));
                None
            }
        }
    }
}

impl JsonSchema for Flag {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Flag".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "boolean"}, {"type": "string", "pattern": REFERENCE}]})
    }
}

/// A type that is written as one of a few words.
pub(super) trait Words: Sized + Copy + 'static {
    /// Each word with what it means.
    const WORDS: &'static [(&'static str, Self)];
    /// What the plain boolean `false` means, where YAML 1.1 habits make `no` one.
    const FALSE: Option<Self> = None;
}

/// One of a few words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice<T>(pub(super) T);

impl<T: Words> Decode for Choice<T> {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let tree = cx.tree;
        let words = || T::WORDS.iter().map(|(word, _)| *word);
        let expected = || words().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let View::Scalar { text, plain } = tree.view(node) else {
            cx.mistyped(node, path, &format!("one of {}", expected()));
            return None;
        };
        if plain
            && text == "false"
            && let Some(meant) = T::FALSE
        {
            return Some(Choice(meant));
        }
        if plain && Plain::of(text) == Plain::Null {
            cx.mistyped(node, path, &format!("one of {}", expected()));
            return None;
        }
        let word = string(cx, node, path, text)?;
        if let Some((_, meant)) = T::WORDS.iter().find(|(known, _)| *known == word.value) {
            return Some(Choice(*meant));
        }
        let message = format!("expected one of {}, found `{}`", expected(), cut(text));
        match near(text, words()).filter(|_| !word.from_env) {
            Some(near) => cx.wrong_help(node, path, message, format!("did you mean `{near}`?")),
            None => cx.wrong(node, path, message),
        }
        None
    }
}

impl<T: Words> JsonSchema for Choice<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Choice".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let mut words: Vec<_> = T::WORDS.iter().map(|(word, _)| serde_json::Value::from(*word)).collect();
        if T::FALSE.is_some() {
            words.push(false.into());
        }
        json_schema!({"anyOf": [{"enum": words}, {"type": "string", "pattern": REFERENCE}]})
    }
}

/// A length of time in words, like `30s` or `1m 30s` (humantime). At most a year.
#[derive(Debug, Clone, Copy)]
pub(super) struct Time(pub(super) Duration);

impl Decode for Time {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        const EXPECTED: &str = "a duration like `30s` or `1m 30s`";
        let tree = cx.tree;
        match tree.view(node) {
            View::Scalar { text, plain: true } if Plain::of(text) == Plain::Number => {
                let text = cut(text);
                let help = format!("write `{text}s` for seconds");
                cx.wrong_help(node, path, format!("the duration `{text}` has no unit"), help);
                None
            }
            View::Scalar { text, plain } if !plain || Plain::of(text) == Plain::Text => {
                let word = string(cx, node, path, text)?;
                match humantime::parse_duration(word.value.trim()) {
                    Ok(time) if time <= Duration::from_secs(365 * 24 * 3600) => Some(Time(time)),
                    Ok(_) => {
                        cx.wrong(node, path, format!("`{}` is longer than a year", cut(text)));
                        None
                    }
                    Err(_) => {
                        cx.wrong(node, path, format!("expected {EXPECTED}, found `{}`", cut(text)));
                        None
                    }
                }
            }
            _ => {
                cx.mistyped(node, path, EXPECTED);
                None
            }
        }
    }
}

impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^\s*([0-9]+\s*[a-zA-Z]+\s*)+$|^0$|\$\{env:"})
    }
}

/// A list, each item with its index: items that are wrong were reported and are missing. Nothing at all (`key:`) is an
/// empty list.
#[derive(Debug, Clone)]
pub(super) struct List<T>(pub(super) Vec<(usize, At<T>)>);

impl<T: Decode> Decode for List<T> {
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
        let decoded = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| Some((index, At::decode(cx, *item, path.index(index))?)));
        Some(List(decoded.collect()))
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

/// A mapping with fixed keys.
pub(super) trait Record {
    /// The keys that must be there.
    const REQUIRED: &'static [&'static str];
}

/// Defines a mapping with fixed keys: the struct, how it is decoded and its schema. Every field is an `Option`, since a
/// field that is missing or wrong was reported and must not hide what is wrong with the others.
macro_rules! record {
    ($(#[$meta:meta])* $name:ident { $( $(#[$field_meta:meta])* $need:ident $field:ident $key:literal: $type:ty, )* }) => {
        #[derive(Debug, Default, schemars::JsonSchema)]
        $(#[$meta])*
        #[schemars(deny_unknown_fields, transform = super::schema::tidy_record::<$name>)]
        pub(super) struct $name {
            $( $(#[$field_meta])* #[schemars(rename = $key)] pub(super) $field: Option<super::decode::At<$type>>, )*
        }

        impl super::decode::Record for $name {
            const REQUIRED: &'static [&'static str] = {
                // Optional keys leave an empty word, which no schema asks for.
                &[$( super::decode::record!(@$need $key) ),*]
            };
        }

        impl super::decode::Decode for $name {
            fn decode(
                cx: &mut super::decode::Cx<'_>,
                node: super::tree::NodeId,
                path: super::decode::Path<'_>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$($key),*];
                let tree = cx.tree;
                let pairs = match tree.view(node) {
                    super::tree::View::Map(pairs) => pairs,
                    _ if super::decode::is_null(tree, node) => &[],
                    _ => {
                        super::decode::not_a_record(cx, node, path, <Self as super::decode::Record>::REQUIRED);
                        return None;
                    }
                };
                let mut record = Self::default();
                let mut seen = 0_u32;
                for pair in pairs.chunks_exact(2) {
                    let super::tree::View::Scalar { text, .. } = tree.view(pair[0]) else { continue };
                    let index = KEYS.iter().position(|key| *key == text);
                    seen |= index.map_or(0, |index| 1 << index);
                    match text {
                        $( $key => record.$field = super::decode::At::decode(cx, pair[1], path.key($key)), )*
                        _ => super::decode::unknown_key(cx, pair[0], path, text, KEYS),
                    }
                }
                for (index, required) in <Self as super::decode::Record>::REQUIRED.iter().enumerate() {
                    if !required.is_empty() && seen & (1 << index) == 0 {
                        super::decode::missing_key(cx, node, path, required);
                    }
                }
                Some(record)
            }
        }
    };
    (@required $key:literal) => { $key };
    (@optional $key:literal) => { "" };
}
pub(super) use record;

pub(super) fn not_a_record(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>, required: &[&str]) {
    let Some(found) = found(cx.tree, node) else { return };
    let message = format!("expected a mapping, found {found}");
    let fields: Vec<_> = required.iter().filter(|key| !key.is_empty()).map(|key| format!("{key}: …")).collect();
    match fields.is_empty() || path.parent.is_none() {
        true => cx.wrong(node, path, message),
        false => cx.wrong_help(node, path, message, format!("write `{{{}}}`", fields.join(", "))),
    }
}

pub(super) fn unknown_key(cx: &mut Cx<'_>, key: NodeId, path: Path<'_>, text: &str, known: &[&str]) {
    let message = format!("unknown field `{}`", cut(text));
    let meant = near(text, known.iter().copied())
        .or_else(|| elsewhere(text).filter(|word| known.contains(word)))
        .or_else(|| known.iter().find(|key| key.len() > 2 && text.starts_with(**key)).copied());
    match meant {
        Some(meant) => cx.wrong_help(key, path.key(text), message, format!("did you mean `{meant}`?")),
        None => {
            let known = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
            cx.wrong_help(key, path.key(text), message, format!("known here: {known}"));
        }
    }
}

/// Our word for what Compose files, Kubernetes and `podman run` call differently.
fn elsewhere(word: &str) -> Option<&'static str> {
    Some(match word {
        "environment" | "environments" => "env",
        "volumes" | "volume" | "binds" => "mounts",
        "extra_hosts" | "extraHosts" | "hostAliases" => "addHosts",
        "cmd" | "args" | "entrypoint" => "command",
        "src" | "from" => "source",
        "dst" | "destination" | "mountPath" | "to" => "target",
        "ro" => "readOnly",
        "restart_policy" | "restartPolicy" => "restart",
        "container_name" | "containerName" => "name",
        "published" => "hostPort",
        "tag" => "version",
        "services" => "agents",
        _ => return None,
    })
}

pub(super) fn missing_key(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>, required: &str) {
    let span = cx.tree.span(node);
    // The first line of the mapping is where the key can be added; underlining all of it would say nothing.
    let span = span.start..span.start + 1;
    let at = if path.parent.is_none() { 0..0 } else { span };
    cx.problems.add(Draft::at(at, path.to_string(), format!("the field `{required}` is missing")));
}
