//! What state files come to: merged, with all that agents take up under each of them, as a state file of its own.
//!
//! `${env:…}` stays as it is written, and env files are named, so no secret is in it but one that the files themselves spell out.
//! Relative paths become absolute, since they were relative to the file that they were written in.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Component, Path as FilePath};

use serde_json::{Map, Number, Value};

use super::decode::{Cx, Plain, is_null};
use super::document::MAX_COPIES;
use super::substitute::{Whose, of_agent_alone, substitute};
use super::tree::{NodeId, View};
use crate::visible::acts;

/// What stands only in a file that is not expanded yet.
const LAYERS: [&str; 2] = ["defaults", "templates"];
/// The same, of an agent.
const OF_AGENT: [&str; 2] = ["from", "count"];

/// What is to be known of values that are written again.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Those that are paths, relative to the file that they stand in.
    pub(super) paths: HashSet<NodeId>,
    /// Those that must be a number or a boolean.
    pub(super) typed: HashSet<NodeId>,
    /// Those that are nothing, and no value.
    pub(super) blanks: HashSet<NodeId>,
}

/// A state file with nothing left in it to be merged or taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config(Node);

impl Default for Config {
    fn default() -> Self {
        Self(Node::Map(Vec::new()))
    }
}

/// A part of it, as it is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    /// With whether it has a type of its own: a number, a boolean, nothing.
    Scalar {
        text: String,
        plain: bool,
        typed: bool,
    },
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Config {
    pub(super) fn of(cx: &Cx<'_>, written: &Written) -> Self {
        let reader = Reader { cx, written };
        let root = cx.tree.root();
        let View::Map(pairs) = cx.tree.view(root) else { return Self(reader.node(root, &Whose::Nobody)) };
        let mut fields = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let key = cx.tree.text(pair[0]);
            if LAYERS.contains(&key) {
                continue;
            }
            let value = match (key, cx.tree.view(pair[1])) {
                ("agents", View::Map(agents)) => reader.agents(agents),
                _ => reader.node(pair[1], &Whose::Nobody),
            };
            fields.push((key.to_owned(), value));
        }
        Self(Node::Map(fields))
    }

    /// As YAML.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        self.0.write(0, &mut text);
        text
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        self.0.value()
    }
}

struct Reader<'c> {
    cx: &'c Cx<'c>,
    written: &'c Written,
}

impl Reader<'_> {
    fn agents(&self, pairs: &[NodeId]) -> Node {
        let tree = self.cx.tree;
        let mut agents = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let name = tree.text(pair[0]);
            let count = super::decode::field(tree, pair[1], "count").filter(|at| !is_null(tree, *at));
            let Some(count) = count else {
                let whose = Whose::Agent { name: name.to_owned(), index: None };
                agents.push((name.to_owned(), self.node(pair[1], &whose).without(&OF_AGENT)));
                continue;
            };
            let count = substitute(tree.text(count), self.cx.vars, &Whose::Nobody, false).ok();
            let count = count.and_then(|done| done.value.parse().ok()).unwrap_or_default();
            for index in 1..=MAX_COPIES.min(count) {
                let name = format!("{name}-{index}");
                let whose = Whose::Agent { name: name.clone(), index: Some(index) };
                agents.push((name, self.node(pair[1], &whose).without(&OF_AGENT)));
            }
        }
        Node::Map(agents)
    }

    fn node(&self, node: NodeId, whose: &Whose) -> Node {
        let tree = self.cx.tree;
        match tree.view(node) {
            View::Scalar { text, plain } => {
                let typed = self.written.typed.contains(&node);
                let said = match whose {
                    Whose::Agent { .. } => of_agent_alone(text, whose),
                    _ => text.to_owned(),
                };
                let said = match self.written.paths.contains(&node) {
                    true => absolute(said, self.cx.dir(node)),
                    false => said,
                };
                // In quotes for the sake of what stood in it, which is the number that is wanted by now.
                let bare = typed && !said.contains("${");
                Node::Scalar { plain: bare || plain && said == text, text: said, typed }
            }
            View::List(items) => Node::List(items.iter().map(|item| self.node(*item, whose)).collect()),
            View::Map(pairs) => {
                let pairs = pairs.chunks_exact(2).filter(|pair| !self.written.blanks.contains(&pair[1]));
                let said = |pair: &[NodeId]| (tree.text(pair[0]).to_owned(), self.node(pair[1], whose));
                Node::Map(pairs.map(said).collect())
            }
            View::Broken => Node::Map(Vec::new()),
        }
    }
}

/// The path as it is from anywhere. One that begins with a variable is left to that.
fn absolute(path: String, dir: &FilePath) -> String {
    if path.starts_with(['/', '~']) || path.starts_with("${") || path.is_empty() {
        return path;
    }
    // What a directory is called is no reference.
    let dir = dir.to_string_lossy().replace("${", "$${");
    let whole = FilePath::new(&dir).join(path);
    let clean: std::path::PathBuf = whole.components().filter(|part| *part != Component::CurDir).collect();
    clean.to_string_lossy().into_owned()
}

impl Node {
    fn without(self, keys: &[&str]) -> Self {
        match self {
            Node::Map(pairs) => Node::Map(pairs.into_iter().filter(|(key, _)| !keys.contains(&key.as_str())).collect()),
            other => other,
        }
    }

    fn value(&self) -> Value {
        match self {
            Node::Scalar { text, plain: true, typed } => value(text, *typed),
            Node::Scalar { text, .. } => Value::from(text.as_str()),
            Node::List(items) => items.iter().map(Node::value).collect(),
            Node::Map(pairs) => {
                Value::Object(pairs.iter().map(|(key, node)| (key.clone(), node.value())).collect::<Map<_, _>>())
            }
        }
    }

    /// Writes it in lines that are indented so far.
    fn write(&self, indent: usize, to: &mut String) {
        let blank = " ".repeat(indent);
        match self {
            Node::Map(pairs) if !pairs.is_empty() => {
                for (key, node) in pairs {
                    let _ = write!(to, "{blank}{}:", word(key, Plain::of(key) == Plain::Text && is_simple(key)));
                    node.write_after(indent + 2, to);
                }
            }
            Node::List(items) if !items.is_empty() => {
                for item in items {
                    let _ = write!(to, "{blank}-");
                    match item {
                        Node::Map(pairs) if !pairs.is_empty() => {
                            let mut lines = String::new();
                            item.write(indent + 2, &mut lines);
                            let _ = write!(to, " {}", lines.trim_start_matches(' '));
                        }
                        _ => item.write_after(indent + 2, to),
                    }
                }
            }
            _ => self.write_after(indent, to),
        }
    }

    /// Writes it behind a key or a dash.
    fn write_after(&self, indent: usize, to: &mut String) {
        match self {
            Node::Scalar { text, plain: false, .. } if is_block(text) => block(text, indent, to),
            Node::Scalar { text, plain, .. } => {
                let _ = writeln!(to, " {}", word(text, *plain && !text.contains('\n') && !text.chars().any(acts)));
            }
            Node::List(items) if items.is_empty() => to.push_str(" []\n"),
            Node::Map(pairs) if pairs.is_empty() => to.push_str(" {}\n"),
            Node::List(_) | Node::Map(_) => {
                to.push('\n');
                self.write(indent, to);
            }
        }
    }
}

/// What YAML makes of a plain scalar. What JSON would write otherwise stays text, unless a number or boolean is wanted there.
fn value(text: &str, typed: bool) -> Value {
    match Plain::of(text) {
        Plain::Null => Value::Null,
        Plain::Bool if typed || matches!(text, "true" | "false") => Value::Bool(text.eq_ignore_ascii_case("true")),
        Plain::Number => {
            let whole = text.parse::<i64>().ok().map(Number::from);
            let number = whole.or_else(|| Number::from_f64(text.parse().ok()?));
            let same = number.filter(|number| typed || number.to_string() == text);
            same.map_or_else(|| Value::from(text), Value::Number)
        }
        _ => Value::from(text),
    }
}

/// Whether a key needs no quotes.
fn is_simple(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
}

/// A scalar in a line.
fn word(text: &str, plain: bool) -> String {
    if plain {
        return if text.is_empty() { "null".to_owned() } else { text.to_owned() };
    }
    let mut quoted = String::from("\"");
    for c in text.chars() {
        let code = u32::from(c);
        let _ = match c {
            '"' | '\\' => write!(quoted, "\\{c}"),
            '\n' => write!(quoted, "\\n"),
            '\t' => write!(quoted, "\\t"),
            '\r' => write!(quoted, "\\r"),
            c if (acts(c) || c.is_control() || c == '\u{feff}') && code > 0xffff => write!(quoted, "\\U{code:08x}"),
            c if acts(c) || c.is_control() || c == '\u{feff}' => write!(quoted, "\\u{code:04x}"),
            c => write!(quoted, "{c}"),
        };
    }
    quoted.push('"');
    quoted
}

/// Whether lines read better as they are.
fn is_block(text: &str) -> bool {
    let fits = |c: char| c == '\n' || !(acts(c) || c.is_control() || c == '\u{feff}');
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n'])
        && text.chars().all(fits)
        && !text.lines().any(|line| line.ends_with(' '))
}

fn block(text: &str, indent: usize, to: &mut String) {
    let mark = match text.len() - text.trim_end_matches('\n').len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    };
    let _ = writeln!(to, " {mark}");
    for line in text.lines() {
        match line {
            "" => to.push('\n'),
            line => {
                let _ = writeln!(to, "{}{line}", " ".repeat(indent));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scalar_is_read_as_it_was_written() {
        let texts = [
            "",
            " ",
            "a",
            "a: b",
            "- a",
            "#",
            "x #y",
            "\"",
            "\\",
            "'",
            "a\nb",
            "a\nb\n",
            "a\n\n b\n\n",
            "\na\n",
            " a\nb",
            "a \nb",
            "\t",
            "tab\there\nx",
            "é\u{1F600}",
            "\u{202e}x",
            "null",
            "1.10",
            "true",
            "~",
            "|",
            "{a}",
            "[",
            "&a",
            "*a",
            "!x",
            "%",
            "@",
            "`",
            "---",
            "a\n---\nb",
            "\u{85}",
            "\u{feff}x",
            "a\r\nb",
        ];
        for text in texts {
            let node = |text: &str| Node::Scalar { text: text.to_owned(), plain: false, typed: false };
            let list = Node::List(vec![node(text), Node::Map(vec![(text.to_owned(), node(text))])]);
            let config = Config(Node::Map(vec![("k".to_owned(), node(text)), ("l".to_owned(), list)]));
            let yaml = config.yaml();
            let mut problems = crate::state::problem::Problems::default();
            let tree =
                crate::state::tree::Tree::parse(&yaml, &mut problems).unwrap_or_else(|| panic!("{text:?}: {yaml}"));
            let said: Vec<_> = tree.scalars().collect();
            assert_eq!(said, ["k", text, "l", text, text, text], "{yaml}");
            assert_eq!(config.json()["k"], text);
        }
    }
}
