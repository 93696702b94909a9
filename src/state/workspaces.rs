//! From the `workspaces:` mapping of an agent to the source trees that are to be in it, and where these must not meet.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path as FilePath, PathBuf};

use super::decode::{At, Cx, Decode, Entry, Later, Path, Table, cut};
use super::document::WorkspaceDoc;
use super::problem::Draft;
use super::resolve::{checked, file_path, refuse};
use super::scalar::Word;
use super::tree::NodeId;
use crate::model::session::workspace_target;
use crate::model::{Mount, WorkspaceName, WorkspaceSpec};

/// Resolves the workspaces of an agent whose container has these mounts.
pub(super) fn resolve(
    cx: &mut Cx<'_>,
    mounts: &[Mount],
    entries: Option<At<Table<Later<WorkspaceDoc>>>>,
    path: Path<'_>,
) -> BTreeMap<WorkspaceName, WorkspaceSpec> {
    let mut targets = Targets::default();
    let mut workspaces = BTreeMap::new();
    for Entry { key, name, at } in entries.map(|table| table.value.0).unwrap_or_default() {
        let path = path.key(&name);
        let checked_name = WorkspaceName::new(&*name).map_err(|err| cx.wrong(key, path, err.to_string())).ok();
        let Some(doc) = WorkspaceDoc::decode(cx, at.node, path) else { continue };
        let WorkspaceDoc { source, target, read_only, dirty, include } = doc;
        let source = source.and_then(|source| file_path(cx, &source, path.key("source")));
        let clean = target.as_ref().and_then(|target| checked(cx, target, path.key("target"), check_target));
        let include_path = path.key("include");
        let include = include.map(|list| list.value.0).unwrap_or_default();
        let include = include
            .iter()
            .filter_map(|(index, below)| checked(cx, below, include_path.index(*index), check_include))
            .collect();
        if let (Some(clean), Some(at)) = (&clean, target) {
            targets.add(cx, clean, &name, at, path.key("target"));
        }
        if let (Some(name), Some(source), Some(target)) = (checked_name, source, clean) {
            let read_only = read_only.is_some_and(|flag| flag.value.0);
            let dirty = dirty.map(|dirty| dirty.value.0).unwrap_or_default();
            workspaces.insert(name, WorkspaceSpec { source, target, read_only, dirty, include });
        }
    }
    targets.check(cx, mounts, path);
    workspaces
}

fn check_target(target: &str) -> Result<String, String> {
    workspace_target(target).map_err(|why| format!("`{}` {why}", cut(target)))
}

fn check_include(below: &str) -> Result<PathBuf, String> {
    let parts = || FilePath::new(below).components().filter(|part| *part != Component::CurDir);
    if below.is_empty() {
        Err("expected a path, found an empty string".to_owned())
    } else if below.starts_with('/') {
        Err(format!("`{}` is absolute: write the path relative to the source", cut(below)))
    } else if parts().any(|part| part == Component::ParentDir) {
        Err(format!("`{}` goes up with `..`: only what lies in the source can go in", cut(below)))
    } else if parts().next().is_none() {
        Err(format!("`{}` is the source itself: name what git ignores in it", cut(below)))
    } else {
        Ok(parts().collect())
    }
}

/// The targets of one agent's workspaces.
#[derive(Default)]
struct Targets {
    /// The workspace that has each, and where that is written.
    taken: HashMap<String, (String, NodeId)>,
    all: Vec<(String, String, At<Word>)>,
}

impl Targets {
    fn add(&mut self, cx: &mut Cx<'_>, clean: &str, name: &str, at: At<Word>, path: Path<'_>) {
        if let Some((other, first)) = self.taken.get(clean) {
            let written = cut(cx.tree.text(at.node)).into_owned();
            let message = format!("`{written}` is the target of workspace `{}` already", cut(other));
            let draft = Draft::at(cx.tree.span(at.node), path.to_string(), message);
            let draft = draft.also(cx.tree.span(*first), "taken");
            cx.problems.add(draft.help("give each workspace a directory of its own"));
            return;
        }
        self.taken.insert(clean.to_owned(), (name.to_owned(), at.node));
        self.all.push((clean.to_owned(), name.to_owned(), at));
    }

    /// What can be said of a target only once all are known.
    fn check(self, cx: &mut Cx<'_>, mounts: &[Mount], path: Path<'_>) {
        let mounts: HashMap<_, _> = mounts.iter().map(|mount| (mount.target.expose(), mount)).collect();
        for (target, name, at) in &self.all {
            let path = path.key(name);
            let path = path.key("target");
            if let Some((other, first)) = above(target).find_map(|above| self.taken.get(above)) {
                let written = cut(cx.tree.text(at.node)).into_owned();
                let message = format!("`{written}` lies in the target of workspace `{}`", cut(other));
                let draft = Draft::at(cx.tree.span(at.node), path.to_string(), message);
                let draft = draft.also(cx.tree.span(*first), "taken");
                cx.problems.add(draft.help("give each workspace a directory of its own, beside the other"));
            }
            // The innermost mount is the one that counts.
            let mount = std::iter::once(target.as_str()).chain(above(target)).find_map(|above| mounts.get(above));
            if let Some(mount) = mount.filter(|mount| mount.read_only) {
                let message = format!("is in the mount `{}`, which is `readOnly`", cut(mount.target.shown()));
                refuse(cx, at, path, &message, "choose another target, or let the container write to the mount");
            }
        }
    }
}

/// The directories that a clean absolute path lies in, innermost first, but for the root.
fn above(path: &str) -> impl Iterator<Item = &str> {
    let parent = |path: &&'_ str| path.rfind('/').filter(|at| *at > 0);
    std::iter::successors(Some(path), move |path| parent(path).map(|at| &path[..at])).skip(1)
}
