//! The scalars of the state file: how each is written, read and described in a schema.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::decode::{Cx, Decode, Path, Plain, cut, near};
use super::problem::Draft;
use super::substitute::substitute;
use super::tree::{NodeId, View};

/// What a string with a substitution looks like, for schemas.
pub(super) const REFERENCE: &str = r"\$\{(env|agent):";

/// A string, with its substitutions made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Str {
    pub(super) value: String,
    /// Whether part of it came from the environment: then it is never shown.
    pub(super) from_env: bool,
}

fn string(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>, text: &str) -> Option<Str> {
    match substitute(text, cx.vars, &cx.whose, cx.problems.tells_more()) {
        // What it will be is known only of the agent that takes it up.
        Ok(done) if done.is_open => None,
        Ok(done) if done.value.contains('\0') => {
            cx.wrong(node, path, "a NUL character cannot be passed on");
            None
        }
        Ok(done) => Some(Str { value: done.value, from_env: done.from_env }),
        Err(wrong) => {
            let span = wrong.at.map_or_else(|| cx.tree.span(node), |at| cx.tree.part(node, at));
            let draft = Draft::at(span, path.to_string(), wrong.message);
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
        cx.note_typed(node);
        let View::Scalar { text, plain } = tree.view(node) else {
            cx.mistyped(node, path, &expected);
            return None;
        };
        if !plain && !text.contains("${") {
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
        cx.note_typed(node);
        if !plain && !text.contains("${") {
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
    /// Other words for the same, which are understood and not advertised.
    const ALIASES: &'static [(&'static str, Self)] = &[];
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
        if let Some((_, meant)) = T::WORDS.iter().chain(T::ALIASES).find(|(known, _)| *known == word.value) {
            return Some(Choice(*meant));
        }
        let message = format!("expected one of {}, found `{}`", expected(), cut(text));
        match near(text, words().filter(|_| !word.from_env && cx.problems.tells_more())) {
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
        let mut words: Vec<_> =
            T::WORDS.iter().chain(T::ALIASES).map(|(word, _)| serde_json::Value::from(*word)).collect();
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
        json_schema!({"type": "string", "pattern": r"^\s*([0-9]+\s*[a-zA-Z]+\s*)+$|^0$|\$\{(env|agent):"})
    }
}

/// An amount of bytes, like `4GiB`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size(pub(super) u64);

impl Decode for Size {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        const EXPECTED: &str = "a size like `4GiB` or `512MiB`";
        let tree = cx.tree;
        match tree.view(node) {
            View::Scalar { text, plain: true } if Plain::of(text) == Plain::Number => {
                let help = format!("write `{}GiB` or `{0}MiB`", cut(text));
                cx.wrong_help(node, path, format!("the size `{}` has no unit", cut(text)), help);
                None
            }
            View::Scalar { text, plain } if !plain || Plain::of(text) == Plain::Text => {
                let word = string(cx, node, path, text)?;
                let size = crate::sizes::parse(word.value.trim());
                if size.is_none() {
                    cx.wrong(node, path, format!("expected {EXPECTED}, found `{}`", cut(text)));
                }
                size.map(Size)
            }
            _ => {
                cx.mistyped(node, path, EXPECTED);
                None
            }
        }
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": r"^\s*[0-9]+\s*[kKmMgGtT](i?[bB])?\s*$|\$\{(env|agent):"})
    }
}
