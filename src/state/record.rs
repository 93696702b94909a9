//! Mappings with fixed keys: one definition makes the struct, its decoder and its schema.

use super::decode::{Cx, Path, cut, found};
use super::problem::Draft;
use super::substitute::Whose;
use super::tree::NodeId;
use super::words;

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
        #[schemars(deny_unknown_fields, transform = crate::state::schema::tidy_record::<$name>)]
        pub(in crate::state) struct $name {
            $( $(#[$field_meta])* #[schemars(rename = $key)] pub(in crate::state) $field: Option<crate::state::decode::At<$type>>, )*
        }

        impl crate::state::record::Record for $name {
            const REQUIRED: &'static [&'static str] = {
                // Optional keys leave an empty word, which no schema asks for.
                &[$( crate::state::record::record!(@$need $key) ),*]
            };
        }

        impl crate::state::decode::Decode for $name {
            const BLANK: bool = true;

            fn decode(
                cx: &mut crate::state::decode::Cx<'_>,
                node: crate::state::tree::NodeId,
                path: crate::state::decode::Path<'_>,
            ) -> Option<Self> {
                const KEYS: &[&str] = &[$($key),*];
                let tree = cx.tree;
                let pairs = match tree.view(node) {
                    crate::state::tree::View::Map(pairs) => pairs,
                    _ if crate::state::decode::is_null(tree, node) => &[],
                    _ => {
                        crate::state::record::not_a_record(cx, node, path, <Self as crate::state::record::Record>::REQUIRED);
                        return None;
                    }
                };
                let mut record = Self::default();
                let mut seen = 0_u64;
                for pair in pairs.chunks_exact(2) {
                    let crate::state::tree::View::Scalar { text, .. } = tree.view(pair[0]) else { continue };
                    let index = KEYS.iter().position(|key| *key == text);
                    let takes_blanks = match text {
                        $( $key => <$type as crate::state::decode::Decode>::BLANK, )*
                        _ => true,
                    };
                    if !takes_blanks && cx.is_blank(pair[1]) {
                        continue;
                    }
                    seen |= index.map_or(0, |index| 1 << index);
                    match text {
                        $( $key => record.$field = crate::state::decode::At::decode(cx, pair[1], path.key($key)), )*
                        _ => crate::state::record::unknown_key(cx, pair[0], path, text, KEYS),
                    }
                }
                for (index, required) in <Self as crate::state::record::Record>::REQUIRED.iter().enumerate() {
                    if !required.is_empty() && seen & (1 << index) == 0 && !cx.partial {
                        crate::state::record::missing_key(cx, node, path, required);
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
    if !cx.problems.tells_more() {
        return cx.wrong(key, path, message);
    }
    let help = words::help(text, known).unwrap_or_else(|| {
        let known = known.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
        format!("known here: {known}")
    });
    cx.wrong_help(key, path.key(text), message, help);
}

pub(super) fn missing_key(cx: &mut Cx<'_>, node: NodeId, path: Path<'_>, required: &str) {
    let span = cx.tree.span(node);
    // The first line of the mapping is where the key can be added; underlining all of it would say nothing.
    let span = span.start..span.start + 1;
    let at = if path.parent.is_none() { 0..0 } else { span };
    let message = match &cx.whose {
        // In a list nothing is added.
        Whose::Agent { name, .. } if cx.blanks && cx.problems.is_inherited(at.start) => {
            format!("the field `{required}` is missing, and agent `{}` does not add it", cut(name))
        }
        _ => format!("the field `{required}` is missing"),
    };
    let draft = Draft::at(at, path.to_string(), message);
    let inner = ["version", "source", "target", "command", "after", "do"].contains(&required);
    cx.problems.add(match example(required).filter(|_| path.parent.is_none() || inner) {
        Some(example) => draft.help(format!("write {example}")),
        None => draft,
    });
}

/// What to write for the fields that whoever begins forgets.
fn example(required: &str) -> Option<&'static str> {
    match required {
        "apiVersion" => Some("`apiVersion: steadfast/v1`"),
        "name" => Some("`name: demo`: whatever is made is labelled with it"),
        "runtime" => Some("`runtime: {podman: {}}`, or `runtime: {lima: {…}}` for Podman in a virtual machine"),
        "agents" => Some("`agents:`, and below it a mapping for each, by its name"),
        "version" => Some("`version: \"1.2.3\"`, or `version: latest`"),
        "source" => Some("`source:` and the path of a file or directory"),
        "target" => Some("`target: /directory`, an absolute path in the container"),
        "command" => Some("`command: [PROGRAM, ARGUMENT]`"),
        "after" => Some("`after: 30m`, how long it may neither print nor be sent anything"),
        "do" => Some("`do: notify` to be told, or `do: stop` to have it stopped"),
        _ => None,
    }
}
