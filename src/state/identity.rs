//! Whose state file it is, and where its state lies, even when the rest of it is wrong.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Input;
use super::decode::field;
use super::problem::Problems;
use super::resolve::{expand, root_without_file};
use super::source::Sources;
use super::substitute::{Whose, substitute};
use super::tree::{NodeId, Tree, View};
use crate::model::{Name, Sha256Digest};

/// The name and the root of state files that are merged, by the same rules as [`super::load_all`], whatever else is wrong with
/// them. `root` is that of `--root`. `None` when one is no YAML mapping, or name or root cannot be told.
pub fn identity(inputs: &[Input], root: Option<&Path>, vars: &BTreeMap<String, String>) -> Option<(Name, PathBuf)> {
    let sources = Sources::of(inputs).ok()?;
    let (tree, roots) = Tree::parse_all(&sources, &mut Problems::default())?;
    if roots.iter().any(|root| !matches!(tree.view(*root), View::Map(_))) {
        return None;
    }
    // The last that has it counts.
    let word = |key: &str| {
        let node = roots.iter().rev().find_map(|root| field(&tree, *root, key))?;
        let word = substitute(tree.text(node), vars, &Whose::Nobody, false).ok()?.value;
        Some((word, sources.dir(tree.span(node).start)))
    };
    let name = Name::new(word("name")?.0).ok()?;
    let root = match (root, word("root")) {
        (None, Some((root, dir))) => expand(&root, dir, vars).ok()?,
        (flag, _) => root_without_file(flag, vars)?,
    };
    Some((name, root))
}

/// What a document says, hashed: neither layout, comments and quotes nor the order of keys matter.
pub(super) fn meaning(tree: &Tree<'_>) -> Sha256Digest {
    let mut hasher = Sha256::new();
    add(tree, tree.root(), &mut hasher);
    Sha256Digest::from(hasher)
}

fn add(tree: &Tree<'_>, node: NodeId, hasher: &mut Sha256) {
    // With its kind and length before it, nothing can pass for something else.
    let mut begin = |kind: u8, length: usize| {
        hasher.update([kind]);
        hasher.update((length as u64).to_le_bytes());
    };
    match tree.view(node) {
        View::Scalar { text, .. } => {
            begin(b's', text.len());
            hasher.update(text);
        }
        View::List(items) => {
            begin(b'l', items.len());
            items.iter().for_each(|item| add(tree, *item, hasher));
        }
        View::Map(pairs) => {
            begin(b'm', pairs.len());
            let mut pairs: Vec<_> = pairs.chunks_exact(2).collect();
            pairs.sort_by_key(|pair| tree.text(pair[0]));
            pairs.iter().flat_map(|pair| pair.iter()).for_each(|part| add(tree, *part, hasher));
        }
        View::Broken => begin(b'b', 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str, root: Option<&str>) -> Option<(String, String)> {
        let input = Input { name: "s.yaml".into(), text: text.into(), dir: "/etc".into() };
        let vars = [("HOME", "/home/me"), ("WHO", "env")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let (name, root) = identity(&[input], root.map(Path::new), &vars.into())?;
        Some((name.to_string(), root.display().to_string()))
    }

    #[test]
    fn files_mean_the_same_whatever_their_layout() {
        let meaning = |text: &str| meaning(&Tree::parse(text, &mut Problems::default()).unwrap());
        let one = meaning("name: a\nagents:\n  x: {version: \"1\", state: running}\n");
        assert_eq!(one, meaning("# moved\nagents: {x: {state: 'running', version: \"1\"}}\nname: \"a\"\n"));
        for other in [
            "name: a\nagents:\n  x: {version: \"2\", state: running}\n",
            "name: b\nagents:\n  x: {version: \"1\", state: running}\n",
            "name: a\nagents:\n  x: [version, \"1\", state, running]\n",
            "name: a\nagents:\n  x: {version: \"1\", state: running}\n  y: {}\n",
        ] {
            assert_ne!(one, meaning(other), "{other}");
        }
    }

    #[test]
    fn what_can_be_reported_is_reported_whatever_else_is_wrong() {
        let pair = |name: &str, root: &str| Some((name.to_owned(), root.to_owned()));
        assert_eq!(told("name: a\nagents: 7\nwhat: is this", None), pair("a", "/home/me/.steadfast"));
        assert_eq!(told("name: a\nroot: ./d\nname: b", None), pair("a", "/etc/d"));
        assert_eq!(told("name: a\nroot: ./d", Some("/r")), pair("a", "/r"));
        assert_eq!(told("name: \"${env:WHO}\"\nagents: {x: {version: \"${env:UNSET}\"}}", None).unwrap().0, "env");
        for broken in ["", "name: [", "- name: a", "name:\n", "name: Not A Name", "root: /r", "name: a\nroot: ~other/x"]
        {
            assert_eq!(told(broken, None), None, "{broken}");
        }
    }
}
