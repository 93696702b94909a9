//! What decides what is done on this machine and lies where an agent can write to it: the state file, env files, the root.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path as FilePath, PathBuf};

use super::agents::{self, Made};
use super::decode::{Cx, Path, cut, field};
use super::problem::Draft;
use super::read::is_handed_over;
use super::tree::{NodeId, View};
use super::variables::EnvFiles;
use super::watch::chain::Chain;
use crate::model::{Agent, AgentName, AgentState};

/// How much of what lies in one directory is named.
const MOST_NAMED: usize = 3;

/// Warns where one of them lies in a writable mount of an agent, or in a tree that an agent gets a writable copy of.
pub(super) fn warn(
    cx: &mut Cx<'_>,
    root: &FilePath,
    env_files: &EnvFiles,
    made: &[Made],
    agents: &BTreeMap<AgentName, Agent>,
    in_vm: bool,
) {
    // In a virtual machine, a mount's source is a directory of the machine.
    let writable = |agent: &Agent| !in_vm && agent.container.mounts.iter().any(|mount| !mount.read_only);
    if !agents.values().any(|agent| writable(agent) || !agent.workspaces.is_empty()) {
        return;
    }
    let mut guarded = Guarded::default();
    let files = cx.sources.files();
    for source in files {
        let file = FilePath::new(source.name);
        if let Some(name) = file.file_name().filter(|_| !is_handed_over(file)) {
            let what = match files {
                [_] => "the state file".to_owned(),
                _ => format!("the state file `{}`", cut(source.name)),
            };
            guarded.add(&what, &source.dir.join(name));
        }
    }
    guarded.add("the root", root);
    for (file, node) in env_files.named() {
        guarded.add(&format!("the env file `{}`", cut(cx.tree.text(node))), file);
    }

    // Where a mount stands, its node says; it is looked for again, since a valid file keeps no positions.
    let path = Path::ROOT.key("agents");
    for made in made {
        let name = made.name(cx.tree);
        let Some(agent) = agents.get(&*name).filter(|agent| agent.state != AgentState::Absent) else { continue };
        made.report(cx, &name, path);
        let path = path.key(&name);
        if writable(agent) {
            mounts(cx, &mut guarded, agent, made.node, path.key("container"));
        }
        workspaces(cx, &mut guarded, agent, made.node, path.key("workspaces"));
        agents::end(cx);
    }
}

fn mounts(cx: &mut Cx<'_>, guarded: &mut Guarded, agent: &Agent, node: NodeId, path: Path<'_>) {
    let tree = cx.tree;
    let list = field(tree, node, "container").and_then(|container| field(tree, container, "mounts"));
    let Some(View::List(items)) = list.map(|node| tree.view(node)) else { return };
    let path = path.key("mounts");
    for (index, (mount, item)) in agent.container.mounts.iter().zip(items).enumerate() {
        let bound = mount.bind_source().filter(|_| !mount.read_only);
        let Some(held) = bound.and_then(|bound| guarded.held_by(FilePath::new(bound.expose()))) else { continue };
        let message = format!("{} in this mount, to which the agent can write", held.lies());
        let help = format!("keep {} elsewhere, mount another directory, or write `readOnly: true`", held.it());
        let path = path.index(index);
        // In its short form, a mount is one line.
        let (node, path) = match field(tree, *item, "source") {
            Some(source) => (source, path.key("source").to_string()),
            None => (*item, path.to_string()),
        };
        cx.problems.warn(Draft::at(tree.span(node), path, message).help(help));
    }
}

fn workspaces(cx: &mut Cx<'_>, guarded: &mut Guarded, agent: &Agent, node: NodeId, path: Path<'_>) {
    let tree = cx.tree;
    let Some(View::Map(entries)) = field(tree, node, "workspaces").map(|node| tree.view(node)) else { return };
    for pair in entries.chunks_exact(2) {
        let name = tree.text(pair[0]);
        let Some(workspace) = agent.workspaces.get(name).filter(|workspace| !workspace.read_only) else { continue };
        let (Some(held), Some(source)) = (guarded.held_by(&workspace.source), field(tree, pair[1], "source")) else {
            continue;
        };
        let message = format!(
            "{} in the source of this workspace: the agent gets a copy of what git does not ignore, and `workspace pull` brings \
             its commits back beside it",
            held.lies()
        );
        let help = format!("keep {} outside of the source, or write `readOnly: true`", held.it());
        let path = path.key(name);
        cx.problems.warn(Draft::at(tree.span(source), path.key("source").to_string(), message).help(help));
    }
}

/// A file or directory: by what it is where it is there, whatever links lead to it, else by its path.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Identity {
    There { device: u64, inode: u64 },
    Absent(PathBuf),
}

impl Identity {
    fn of(path: &FilePath) -> Self {
        match path.metadata() {
            Ok(found) => Self::There { device: found.dev(), inode: found.ino() },
            Err(_) => Self::Absent(path.to_owned()),
        }
    }
}

/// What lies in one directory, or is it.
#[derive(Clone, Default)]
struct Held {
    named: Vec<String>,
    more: usize,
}

impl Held {
    fn add(&mut self, what: &str) {
        match self.named.len() < MOST_NAMED {
            true => self.named.push(what.to_owned()),
            false => self.more += 1,
        }
    }

    /// `the state file lies`, `the state file and the root lie`.
    fn lies(&self) -> String {
        let more = (self.more > 0).then(|| format!("{} more env files", self.more));
        let mut all: Vec<&str> = self.named.iter().chain(&more).map(String::as_str).collect();
        match (all.pop(), all.as_slice()) {
            (last, []) => format!("{} lies", last.unwrap_or_default()),
            (last, before) => format!("{} and {} lie", before.join(", "), last.unwrap_or_default()),
        }
    }

    fn it(&self) -> &'static str {
        if self.named.len() == 1 { "it" } else { "them" }
    }
}

/// What is to be out of reach, by every directory that it lies in.
#[derive(Default)]
struct Guarded {
    within: HashMap<Identity, Held>,
    seen: HashMap<PathBuf, Identity>,
}

impl Guarded {
    fn add(&mut self, what: &str, path: &FilePath) {
        let way = Chain::to(path);
        let real = path.canonicalize().ok();
        // Who can write where a link stands leads it elsewhere, so that counts as much as where it leads.
        let there = real.iter().map(PathBuf::as_path).chain(way.near()).flat_map(FilePath::ancestors);
        let mut within: Vec<_> = Vec::new();
        for above in there.chain(path.ancestors().filter(|_| real.is_none())) {
            let identity = self.identity(above);
            if !within.contains(&identity) {
                within.push(identity);
            }
        }
        within.into_iter().for_each(|identity| self.within.entry(identity).or_default().add(what));
    }

    fn held_by(&mut self, directory: &FilePath) -> Option<Held> {
        let identity = self.identity(directory);
        self.within.get(&identity).cloned()
    }

    /// Many agents have the same directories.
    fn identity(&mut self, path: &FilePath) -> Identity {
        if let Some(identity) = self.seen.get(path) {
            return identity.clone();
        }
        let identity = Identity::of(path);
        self.seen.insert(path.to_owned(), identity.clone());
        identity
    }
}

#[cfg(test)]
mod tests;
