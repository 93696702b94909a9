//! The Lima template that a state file names, read into plain values. What is done with it belongs elsewhere.

use std::io;
use std::path::Path;

use serde_json::{Map, Number, Value};

use super::decode::Plain;
use super::problem::Problems;
use super::source::Sources;
use super::tree::{NodeId, Tree, View};
use crate::files::regular::{self, NotOpened};
use crate::model::{Sha256Digest, Template};

/// The most bytes of what a template says. `limactl list --json` (Lima 2.1) tells of no instance at all once the line of one
/// is longer than 64 KiB, and the template is part of that line.
const MAX_CONTENT: usize = 32 << 10;
/// The most bytes of its file.
const MAX_FILE: u64 = 256 << 10;

/// Reads a template.
pub(super) fn read(path: &Path) -> Result<Template, String> {
    let shown = path.display();
    let io = |err: io::Error| format!("failed to read the template `{shown}`: {err}");
    let bytes = regular::read(path, MAX_FILE).map_err(|err| match err {
        NotOpened::Is(what) => format!("`{shown}` is {what}, not a file"),
        NotOpened::Io(err) if err.kind() == io::ErrorKind::NotFound => format!("there is no template `{shown}`"),
        NotOpened::Io(err) => io(err),
    })?;
    let bytes = bytes.ok_or_else(|| format!("`{shown}` is larger than {}", crate::sizes::limit(MAX_FILE)))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("the template `{shown}` is not UTF-8 text"))?;
    let content = parse(&text, &shown.to_string())?;
    let canonical = canonical(&content).to_string();
    if canonical.len() > MAX_CONTENT {
        return Err(format!(
            "the template `{shown}` says more than {} KiB, which Lima cannot list: shorten its scripts, or move them into \
             files of the guest",
            MAX_CONTENT >> 10
        ));
    }
    let digest = Sha256Digest::of(canonical.as_bytes());
    Ok(Template { path: path.to_owned(), content, digest })
}

fn parse(text: &str, name: &str) -> Result<Value, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut problems = Problems::default();
    let tree = Tree::parse(text, &mut problems);
    if problems.is_empty()
        && let Some(tree) = tree
    {
        return match value(&tree, tree.root()) {
            Some(Value::Object(content)) => Ok(Value::Object(content)),
            _ => Err(format!("the template `{name}` is not a mapping")),
        };
    }
    let invalid = problems.into_error(&Sources::one(name, text), false);
    let first = invalid.problems.first().map(|problem| format!("{}: {}", problem.place, problem.message));
    Err(format!("the template is not YAML that can be used: {}", first.unwrap_or_else(|| name.to_owned())))
}

/// `None` for what was reported already.
fn value(tree: &Tree<'_>, node: NodeId) -> Option<Value> {
    Some(match tree.view(node) {
        View::Scalar { text, plain: false } => Value::String(text.to_owned()),
        View::Scalar { text, plain: true } => plain(text),
        View::List(items) => Value::Array(items.iter().map(|item| value(tree, *item)).collect::<Option<_>>()?),
        View::Map(pairs) => {
            let mut map = Map::new();
            for pair in pairs.chunks_exact(2) {
                map.insert(tree.text(pair[0]).to_owned(), value(tree, pair[1])?);
            }
            Value::Object(map)
        }
        View::Broken => return None,
    })
}

/// What YAML's core schema makes of a plain scalar. A number that JSON cannot write stays text, as which it is read again.
fn plain(text: &str) -> Value {
    match Plain::of(text) {
        Plain::Null => Value::Null,
        Plain::Number => match (text.parse::<i64>(), text.parse::<f64>()) {
            (Ok(whole), _) => Value::from(whole),
            (_, Ok(float)) => Number::from_f64(float).map_or_else(|| Value::from(text), Value::Number),
            _ => Value::from(text),
        },
        _ if text.eq_ignore_ascii_case("true") => Value::Bool(true),
        _ if text.eq_ignore_ascii_case("false") => Value::Bool(false),
        _ => Value::from(text),
    }
}

/// The same with sorted keys: their order says nothing.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(canonical).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(key, _)| key.as_str());
            Value::Object(pairs.into_iter().map(|(key, value)| (key.clone(), canonical(value))).collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(text: &str) -> Result<Template, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t.yaml");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|err| err.replace(dir.path().to_str().unwrap(), "<dir>"))
    }

    #[test]
    fn scalars_are_what_yaml_says() {
        let said =
            template("a: 1\nb: \"1\"\nc: yes\nd: true\ne: ~\nf: 2GiB\ng: |\n  #!/bin/sh\n  true\nh: [1.5, 0x10]\n")
                .unwrap();
        let want = json!({"a": 1, "b": "1", "c": "yes", "d": true, "e": null, "f": "2GiB", "g": "#!/bin/sh\ntrue\n", "h": [1.5, "0x10"]});
        assert_eq!(said.content, want);
    }

    #[test]
    fn the_digest_is_of_what_it_says() {
        let one = template("# a comment\ncpus: 2\nmemory: 2GiB\n").unwrap();
        let same = template("memory: '2GiB'\ncpus: 2   # two\n").unwrap();
        let other = template("cpus: 3\nmemory: 2GiB\n").unwrap();
        assert_eq!(one.digest, same.digest);
        assert_ne!(one.digest, other.digest);
    }

    #[test]
    fn what_cannot_be_used_is_reported_with_its_place() {
        assert_eq!(template("- a\n").unwrap_err(), "the template `<dir>/t.yaml` is not a mapping");
        let twice = template("a: 1\na: 2\n").unwrap_err();
        assert!(twice.starts_with("the template is not YAML that can be used: <dir>/t.yaml:2:1: "), "{twice}");
        let long = template(&format!("a: {}\n", "x".repeat(MAX_CONTENT))).unwrap_err();
        assert!(long.contains("more than 32 KiB"), "{long}");
        assert!(read(Path::new("/")).unwrap_err().contains("not a file"));
        assert!(read(Path::new("/nowhere.yaml")).unwrap_err().contains("no template"));
    }
}
