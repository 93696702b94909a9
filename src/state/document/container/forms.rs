//! The forms in which some fields of a container may be written: Compose's short ones beside the mappings.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{AttachmentDoc, MountDoc, PortDoc, UlimitDoc};
use crate::model::RestartPolicy;
use crate::state::decode::{At, Cx, Decode, Entry, List, Path, Plain, Table, found, is_null};
use crate::state::scalar::{Choice, Loose, REFERENCE, Str, Word, Words};
use crate::state::tree::{NodeId, View};

/// A schema that stands where it is used.
macro_rules! inline_schema {
    ($name:literal, |$generator:pat_param| $schema:expr) => {
        fn inline_schema() -> bool {
            true
        }
        fn schema_name() -> Cow<'static, str> {
            $name.into()
        }
        fn json_schema($generator: &mut SchemaGenerator) -> Schema {
            $schema
        }
    };
}

/// One value, or a list of them.
#[derive(Debug)]
pub(in crate::state) struct OneOrMany<T>(pub(in crate::state) List<T>);

impl<T: Decode> Decode for OneOrMany<T> {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        match cx.tree.view(node) {
            View::List(_) => List::decode(cx, node, path).map(OneOrMany),
            _ => At::decode(cx, node, path).map(|one| OneOrMany(List(vec![(0, one)]))),
        }
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one.clone(), {"type": "array", "items": one}]})
    }
}

/// A program and its arguments: a list, or a line that is split into words.
#[derive(Debug)]
pub(in crate::state) struct CommandLine(pub(in crate::state) Vec<Str>);

impl Decode for CommandLine {
    const BLANK: bool = true;

    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let View::Scalar { .. } = cx.tree.view(node) else {
            if matches!(cx.tree.view(node), View::Map(_)) {
                cx.mistyped(node, path, "a list of words like `[serve, --port, \"8080\"]`, or a line");
                return None;
            }
            let list = List::<Loose>::decode(cx, node, path)?;
            return Some(Self(list.0.into_iter().map(|(_, word)| word.value.0).collect()));
        };
        if is_null(cx.tree, node) {
            return Some(Self(Vec::new()));
        }
        let Str { value, from_env } = Loose::decode(cx, node, path)?.0;
        match shlex::split(&value) {
            Some(words) => Some(Self(words.into_iter().map(|value| Str { value, from_env }).collect())),
            None => {
                let message = "the line cannot be split into words: a quote is not closed, or it ends in a backslash";
                cx.wrong_help(node, path, message, "write a list: `[program, argument]`");
                None
            }
        }
    }
}

impl JsonSchema for CommandLine {
    inline_schema!("CommandLine", |_| json_schema!({"anyOf": [
        {"type": ["string", "number", "boolean"]},
        {"type": "array", "items": {"type": ["string", "number", "boolean"]}},
    ]}));
}

/// A mapping of names to values, or Compose's list of `NAME=value`.
#[derive(Debug)]
pub(in crate::state) struct Pairs(pub(in crate::state) Table<Loose>);

impl Decode for Pairs {
    const BLANK: bool = true;

    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let View::List(items) = cx.tree.view(node) else { return Table::decode(cx, node, path).map(Pairs) };
        let mut entries = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            let Some(line) = Word::decode(cx, *item, path) else { continue };
            let Str { value, from_env } = line.0;
            // What the environment yields may be anything, so the name must be written.
            let Some((name, value)) = value.split_once('=').filter(|_| cx.tree.text(*item).contains('=')) else {
                let help = "to take a variable of your environment, write `NAME: ${env:NAME}`";
                cx.wrong_help(*item, path, "expected `NAME=value`", help);
                continue;
            };
            let at = At { node: *item, value: Loose(Str { value: value.to_owned(), from_env }) };
            entries.push(Entry { key: *item, name: name.to_owned(), at });
        }
        Some(Pairs(Table(entries)))
    }
}

impl JsonSchema for Pairs {
    inline_schema!("Pairs", |_| json_schema!({"anyOf": [
        {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}},
        {"type": "array", "items": {"type": "string", "pattern": "="}},
    ]}));
}

/// A mount: a mapping, or Compose's short form.
#[derive(Debug)]
pub(in crate::state) enum MountEntry {
    /// `SOURCE:TARGET[:OPTIONS]`
    Short(Word),
    Long(MountDoc),
}

impl Decode for MountEntry {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        match cx.tree.view(node) {
            View::Scalar { .. } if !is_null(cx.tree, node) => Word::decode(cx, node, path).map(MountEntry::Short),
            _ => MountDoc::decode(cx, node, path).map(MountEntry::Long),
        }
    }
}

impl JsonSchema for MountEntry {
    inline_schema!("MountEntry", |generator| json_schema!({"anyOf": [
        {
            "type": "string",
            "description": "SOURCE:TARGET[:OPTIONS]; a source without a slash is one of the top-level `volumes`.",
            "pattern": format!(r"^[^:]+:/[^:]*(:[A-Za-z,]+)?$|{REFERENCE}"),
            "examples": ["./config:/etc/openclaw:ro", "data:/data"],
        },
        generator.subschema_for::<MountDoc>(),
    ]}));
}

/// A published port, in one of its two forms.
#[derive(Debug)]
pub(in crate::state) enum PortEntry {
    Short(Loose),
    Long(PortDoc),
}

impl Decode for PortEntry {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        match cx.tree.view(node) {
            View::Map(_) => PortDoc::decode(cx, node, path).map(PortEntry::Long),
            _ if is_null(cx.tree, node) || matches!(cx.tree.view(node), View::List(_)) => {
                cx.mistyped(node, path, "a port like \"127.0.0.1:8080:80\"");
                None
            }
            _ => Loose::decode(cx, node, path).map(PortEntry::Short),
        }
    }
}

impl JsonSchema for PortEntry {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "PortEntry".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {
                "type": "string",
                "description": "[[HOST_IP:][HOST_PORT]:]CONTAINER_PORT[/PROTOCOL]; ports may be ranges.",
                "pattern": format!(r"^((\[[0-9a-fA-F:.]+\]|[0-9.]+):)?([0-9-]{{0,11}}:)?[0-9]{{1,5}}(-[0-9]{{1,5}})?(/(tcp|udp|sctp))?$|{REFERENCE}"),
                "examples": ["127.0.0.1:18789:18789", "8080:80/tcp", "[::1]:5353:53/udp", "8000-8005:8000-8005", "80"],
            },
            generator.subschema_for::<PortDoc>(),
        ]})
    }
}

/// The command of a health check, in one of its two forms.
#[derive(Debug)]
pub(in crate::state) enum TestEntry {
    Line(Loose),
    Words(List<Loose>),
}

impl Decode for TestEntry {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        match cx.tree.view(node) {
            View::List(_) => List::decode(cx, node, path).map(TestEntry::Words),
            View::Map(_) => {
                cx.mistyped(node, path, "a command like [CMD, curl, -sf, \"http://127.0.0.1:8080\"], or a shell line");
                None
            }
            _ => Loose::decode(cx, node, path).map(TestEntry::Line),
        }
    }
}

impl JsonSchema for TestEntry {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "HealthTest".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "string", "minLength": 1, "description": "A line for the container's shell."},
            {"type": "array", "minItems": 2, "items": {"type": ["string", "number", "boolean"]},
             "prefixItems": [{"const": "CMD"}]},
            {"type": "array", "minItems": 2, "maxItems": 2, "items": {"type": ["string", "number", "boolean"]},
             "prefixItems": [{"const": "CMD-SHELL"}]},
            {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "string", "pattern": "^[nN][oO][nN][eE]$"},
             "description": "No health check, not even the image's own."},
        ]})
    }
}

/// When Podman restarts a container: a word, or `on-failure:N`.
#[derive(Debug, Clone, Copy)]
pub(in crate::state) struct RestartWord(pub(in crate::state) RestartPolicy);

impl Words for RestartPolicy {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("no", Self::No),
        ("on-failure", Self::OnFailure),
        ("always", Self::Always),
        ("unless-stopped", Self::UnlessStopped),
    ];
    const FALSE: Option<Self> = Some(Self::No);
}

impl Decode for RestartWord {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        let View::Scalar { text, .. } = cx.tree.view(node) else {
            return Choice::decode(cx, node, path).map(|word| RestartWord(word.0));
        };
        let Some(tries) = text.strip_prefix("on-failure:") else {
            return Choice::decode(cx, node, path).map(|word| RestartWord(word.0));
        };
        match tries.parse::<u32>() {
            Ok(number) if (1..=1000).contains(&number) && tries.bytes().all(|b| b.is_ascii_digit()) => {
                Some(RestartWord(RestartPolicy::OnFailureAtMost(number)))
            }
            _ => {
                cx.wrong(node, path, "expected a whole number from 1 to 1000 after `on-failure:`");
                None
            }
        }
    }
}

impl JsonSchema for RestartWord {
    inline_schema!("RestartWord", |generator| json_schema!({"anyOf": [
        generator.subschema_for::<Choice<RestartPolicy>>(),
        {"type": "string", "pattern": "^on-failure:[1-9][0-9]{0,3}$"},
    ]}));
}

/// The networks of a container.
#[derive(Debug)]
pub(in crate::state) enum NetworksEntry {
    /// `none` or `host`.
    Word(Word),
    Names(List<Word>),
    Attached(Table<AttachmentDoc>),
}

impl Decode for NetworksEntry {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        match cx.tree.view(node) {
            View::List(_) => List::decode(cx, node, path).map(Self::Names),
            View::Map(_) => Table::decode(cx, node, path).map(Self::Attached),
            View::Scalar { plain: true, text } if Plain::of(text) == Plain::Null => {
                let help = "write `none` for no network, or leave the field out";
                cx.wrong_help(node, path, "expected networks, found nothing", help);
                None
            }
            _ => Word::decode(cx, node, path).map(Self::Word),
        }
    }
}

impl JsonSchema for NetworksEntry {
    inline_schema!("NetworksEntry", |generator| json_schema!({"anyOf": [
        {"type": "string", "pattern": format!("^(none|host)$|{REFERENCE}")},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "object", "minProperties": 1, "additionalProperties": generator.subschema_for::<AttachmentDoc>()},
    ]}));
}

/// A limit of a process: a number, `SOFT:HARD`, or a mapping of both.
#[derive(Debug)]
pub(in crate::state) enum UlimitEntry {
    Both(Loose),
    Each(UlimitDoc),
}

impl Decode for UlimitEntry {
    fn decode(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) -> Option<Self> {
        match cx.tree.view(node) {
            View::Map(_) => UlimitDoc::decode(cx, node, path).map(Self::Each),
            View::Scalar { .. } if !is_null(cx.tree, node) => Loose::decode(cx, node, path).map(Self::Both),
            _ => {
                if let Some(found) = found(cx.tree, node) {
                    cx.wrong(node, path, format!("expected a limit like `65536` or `1024:65536`, found {found}"));
                }
                None
            }
        }
    }
}

impl JsonSchema for UlimitEntry {
    inline_schema!("UlimitEntry", |generator| json_schema!({"anyOf": [
        {"type": ["string", "integer"]},
        generator.subschema_for::<UlimitDoc>(),
    ]}));
}
