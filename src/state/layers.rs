//! Values that lie on each other: state files that are merged in order, and below agents the templates and defaults that they
//! take up. Mappings merge, lists and all else replace, and an explicit `null` takes away what lies below it.
//!
//! It happens in the tree, before anything is decoded: whatever lies on top keeps the place where it was written, so that each
//! problem points there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use super::decode::{Path, Plain, cut, field, found, is_null, near};
use super::document::DefaultsDoc;
use super::problem::{Draft, Problems};
use super::source::Sources;
use super::substitute::{Whose, substitute};
use super::tree::{MAX_NODES, NodeId, Tree, View};

/// What comes out of merging may have so many children: as many as a file could have, and those of the files themselves.
const MAX_CHILDREN: usize = 4 * MAX_NODES as usize;
/// The most nodes that agents, with what they take up, may have in all, and the most bytes: as if it were written for each.
const MAX_TAKEN: (u64, u64) = (MAX_NODES, super::MAX_BYTES as u64);
/// The most templates that a message shows of a chain.
const MOST_SHOWN: usize = 8;

/// Where a mapping stands that was merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    Below,
    Above,
}

/// Too much would come of it.
struct TooMuch;

fn merge(tree: &mut Tree<'_>, below: NodeId, above: NodeId, stands: Stands) -> Result<NodeId, TooMuch> {
    let (View::Map(under), View::Map(over)) = (tree.view(below), tree.view(above)) else { return Ok(above) };
    let (under, over) = (under.to_vec(), over.to_vec());
    let (nodes, children) = tree.size();
    if nodes as u64 >= MAX_NODES || children + under.len() + over.len() > MAX_CHILDREN {
        return Err(TooMuch);
    }
    let mut pairs = under;
    // Most mappings have a handful of keys; comparing those costs less than hashing them.
    let known: Option<HashMap<String, usize>> = (pairs.len() > 24).then(|| {
        let keys = pairs.iter().step_by(2).enumerate();
        keys.map(|(at, key)| (tree.text(*key).to_owned(), at * 2)).collect()
    });
    let mut gone = false;
    for pair in over.chunks_exact(2) {
        let text = tree.text(pair[0]);
        let at = match &known {
            Some(known) => known.get(text).copied(),
            None => pairs.iter().step_by(2).position(|key| tree.text(*key) == text).map(|at| at * 2),
        };
        let Some(at) = at else {
            pairs.extend_from_slice(pair);
            continue;
        };
        let (there, key) = (pairs[at + 1], pairs[at]);
        if is_null(tree, pair[1]) {
            // Told from keys of the file by its value, which no pair of the file has.
            (pairs[at + 1], gone) = (NodeId::MAX, true);
        } else {
            let merged = merge(tree, there, pair[1], stands)?;
            pairs[at] = if merged == pair[1] { pair[0] } else { key };
            pairs[at + 1] = merged;
        }
    }
    if gone {
        pairs = pairs.chunks_exact(2).filter(|pair| pair[1] != NodeId::MAX).flatten().copied().collect();
    }
    Ok(tree.map_of(&pairs, if stands == Stands::Below { below } else { above }))
}

/// Merges the documents of several files, each upon those before it. `None` when one of them cannot be merged, which was
/// reported then.
pub(super) fn merge_files<'s>(
    mut tree: Tree<'s>,
    roots: &[NodeId],
    sources: &Sources<'_>,
    problems: &mut Problems,
) -> Option<Tree<'s>> {
    let Some((first, later)) = roots.split_first().filter(|(_, later)| !later.is_empty()) else { return Some(tree) };
    let mut is_whole = true;
    for root in roots {
        if !matches!(tree.view(*root), View::Map(_)) {
            let found = found(&tree, *root).unwrap_or_default();
            problems.add(Draft::at(tree.span(*root), String::new(), format!("expected a mapping, found {found}")));
            is_whole = false;
        }
    }
    agree(&tree, roots, sources, problems);
    if !is_whole {
        return None;
    }
    let mut merged = *first;
    for root in later {
        match merge(&mut tree, merged, *root, Stands::Below) {
            Ok(node) => merged = node,
            Err(TooMuch) => {
                problems.add(Draft::at(
                    tree.span(*root),
                    String::new(),
                    "the files have too much in them to be merged",
                ));
                return None;
            }
        }
    }
    Some(tree.with_root(merged))
}

/// All files must be of one version.
fn agree(tree: &Tree<'_>, roots: &[NodeId], sources: &Sources<'_>, problems: &mut Problems) {
    let mut versions = roots.iter().filter_map(|root| field(tree, *root, "apiVersion"));
    let Some(first) = versions.next() else { return };
    for other in versions.filter(|other| tree.text(*other) != tree.text(first)) {
        let name = sources.files().get(sources.index(tree.span(first).start)).map_or("", |file| file.name);
        let (here, there) = (cut(tree.text(other)), cut(tree.text(first)));
        let message = format!("`{here}` is not the version of `{name}`, `{there}`");
        let draft = Draft::at(tree.span(other), "apiVersion", message).also(tree.span(first), "first");
        problems.add(draft.help("all files that are merged must have one version: leave it out of the later ones"));
    }
}

/// What of the files agents take up, by where it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Inherited {
    /// Where each template and the defaults stand, and their path. Sorted.
    pub(super) regions: Vec<(Range<usize>, String)>,
    /// The agents that name a template with which something is wrong.
    pub(super) unsettled: HashSet<NodeId>,
}

impl Inherited {
    /// The path of the template or the defaults that an offset lies in.
    pub(super) fn region(&self, offset: usize) -> Option<&str> {
        let before = self.regions.partition_point(|(region, _)| region.start <= offset);
        let (region, path) = self.regions.get(before.checked_sub(1)?)?;
        (offset < region.end).then_some(path)
    }
}

/// The templates of a file, as far as they were looked at.
struct Templates<'t> {
    all: BTreeMap<String, NodeId>,
    vars: &'t BTreeMap<String, String>,
    /// With all that lies below each, and whether that is known: what is wrong was reported then.
    whole: HashMap<String, (NodeId, bool)>,
    defaults: Option<NodeId>,
}

/// Puts below each agent what it takes up. The tree is left as it is where no agent takes anything up.
pub(super) fn inherit<'s>(
    mut tree: Tree<'s>,
    roots: &[NodeId],
    vars: &BTreeMap<String, String>,
    problems: &mut Problems,
) -> (Tree<'s>, Inherited) {
    let of = |key: &str| field(&tree, tree.root(), key);
    let (defaults, all, agents) = (of("defaults"), of("templates"), of("agents"));
    let all = match all.map(|all| tree.view(all)) {
        Some(View::Map(pairs)) => pairs.chunks_exact(2).map(|pair| (tree.text(pair[0]).to_owned(), pair[1])).collect(),
        _ => BTreeMap::new(),
    };
    let defaults = match defaults.map(|defaults| (defaults, tree.view(defaults))) {
        Some((defaults, View::Map(pairs))) => Some(without_own(pairs.to_vec(), defaults, &mut tree)),
        _ => None,
    };
    let mut inherited = Inherited { regions: regions(&tree, roots), unsettled: HashSet::new() };
    let mut templates = Templates { all, vars, whole: HashMap::new(), defaults };
    templates.check(&mut tree, problems);
    let Some(View::Map(pairs)) = agents.map(|agents| tree.view(agents)) else { return (tree, inherited) };
    let pairs = pairs.to_vec();
    if defaults.is_none() && !pairs.chunks_exact(2).any(|pair| field(&tree, pair[1], "from").is_some()) {
        return (tree, inherited);
    }
    let (mut taken, mut made) = ((0, 0), pairs.clone());
    for (at, pair) in pairs.chunks_exact(2).enumerate() {
        let path = Path::ROOT.key("agents");
        let path = path.key(tree.text(pair[0])).to_string();
        let (below, is_settled) = templates.below(&mut tree, pair[1], path, problems);
        let Some(below) = below else {
            inherited.unsettled.extend(Some(pair[1]).filter(|_| !is_settled));
            continue;
        };
        // An agent that says nothing by itself is what it takes up.
        let merged = match is_null(&tree, pair[1]) {
            true => Ok(below),
            false => merge(&mut tree, below, pair[1], Stands::Above),
        };
        let fits = merged.and_then(|node| {
            weigh(&tree, node, &mut taken)?;
            Ok(node)
        });
        match fits {
            Ok(node) => {
                made[at * 2 + 1] = node;
                inherited.unsettled.extend(Some(node).filter(|_| !is_settled));
            }
            Err(TooMuch) => {
                let message = "all that agents take up from templates and defaults comes to too much";
                let (nodes, bytes) = (MAX_TAKEN.0, crate::sizes::limit(MAX_TAKEN.1));
                let help = format!("written for each of them, it may have {nodes} values and {bytes}");
                problems.add(Draft::at(tree.span(pair[0]), "agents", message).help(help));
                break;
            }
        }
    }
    let Some(agents) = agents else { return (tree, inherited) };
    let agents = tree.map_of(&made, agents);
    let root = tree.root();
    let View::Map(pairs) = tree.view(root) else { return (tree, inherited) };
    let mut pairs = pairs.to_vec();
    let is_agents = |pair: &&mut [NodeId]| tree.text(pair[0]) == "agents";
    if let Some(pair) = pairs.chunks_exact_mut(2).find(is_agents) {
        pair[1] = agents;
    }
    let root = tree.map_of(&pairs, root);
    (tree.with_root(root), inherited)
}

/// Counts what is in a node, aliases in full, up to what agents may have.
fn weigh(tree: &Tree<'_>, node: NodeId, taken: &mut (u64, u64)) -> Result<(), TooMuch> {
    taken.0 += 1;
    taken.1 += tree.text(node).len() as u64;
    if taken.0 > MAX_TAKEN.0 || taken.1 > MAX_TAKEN.1 {
        return Err(TooMuch);
    }
    match tree.view(node) {
        View::List(items) | View::Map(items) => items.iter().try_for_each(|item| weigh(tree, *item, taken)),
        View::Scalar { .. } | View::Broken => Ok(()),
    }
}

/// Whether an entry of which there are so many fits beside those that were `taken` so far.
pub(super) fn fits(tree: &Tree<'_>, node: NodeId, times: u32, taken: &mut (u64, u64)) -> bool {
    let mut one = (0, 0);
    let is_small = weigh(tree, node, &mut one).is_ok();
    taken.0 = taken.0.saturating_add(one.0.saturating_mul(times.into()));
    taken.1 = taken.1.saturating_add(one.1.saturating_mul(times.into()));
    is_small && taken.0 <= MAX_TAKEN.0 && taken.1 <= MAX_TAKEN.1
}

/// Where templates and defaults stand in the files.
fn regions(tree: &Tree<'_>, roots: &[NodeId]) -> Vec<(Range<usize>, String)> {
    let mut regions = Vec::new();
    for root in roots {
        regions.extend(field(tree, *root, "defaults").map(|node| (tree.span(node), "defaults".to_owned())));
        let Some(View::Map(pairs)) = field(tree, *root, "templates").map(|node| tree.view(node)) else { continue };
        let path = Path::ROOT.key("templates");
        let place = |pair: &[NodeId]| (tree.span(pair[1]), path.key(tree.text(pair[0])).to_string());
        regions.extend(pairs.chunks_exact(2).map(place));
    }
    regions.sort_by_key(|(span, _)| span.start);
    regions
}

impl Templates<'_> {
    /// Puts below each template what it takes up itself, so that what is wrong is told whether or not an agent takes it up.
    fn check(&mut self, tree: &mut Tree<'_>, problems: &mut Problems) {
        let names: Vec<String> = self.all.keys().cloned().collect();
        for name in names {
            self.whole(tree, &name, problems);
        }
    }

    /// What lies below an agent: the template that it names, upon the defaults; and whether that is known.
    fn below(
        &mut self,
        tree: &mut Tree<'_>,
        agent: NodeId,
        path: String,
        problems: &mut Problems,
    ) -> (Option<NodeId>, bool) {
        let Some(from) = self.from(tree, agent, path, problems) else { return (self.defaults, true) };
        match from.and_then(|name| self.whole(tree, &name, problems)) {
            Some((whole, is_settled)) => (Some(whole), is_settled),
            None => (self.defaults, false),
        }
    }

    /// The template that a template or agent takes up. `Some(None)` is one that there is not, which was reported.
    fn from(&self, tree: &Tree<'_>, node: NodeId, path: String, problems: &mut Problems) -> Option<Option<String>> {
        let at = field(tree, node, "from")?;
        let View::Scalar { text, plain } = tree.view(at) else { return Some(None) };
        if plain && Plain::of(text) == Plain::Null {
            return None;
        }
        // What is wrong with the word itself is told where it is decoded.
        let Ok(name) = substitute(text, self.vars, &Whose::Nobody, false).map(|done| done.value) else {
            return Some(None);
        };
        if self.all.contains_key(&name) {
            return Some(Some(name));
        }
        let known: Vec<&str> = self.all.keys().map(String::as_str).collect();
        let help = match near(&name, known.iter().copied().filter(|_| problems.tells_more())) {
            Some(near) => format!("did you mean `{}`?", cut(near)),
            None if known.is_empty() => "templates stand at the top: `templates: {worker: {…}}`".to_owned(),
            None => {
                let shown: Vec<_> = known.iter().take(MOST_SHOWN).map(|name| format!("`{}`", cut(name))).collect();
                format!("there {} {}", if known.len() == 1 { "is" } else { "are" }, shown.join(", "))
            }
        };
        let path = Path::join_text(&path, "from");
        problems.add(Draft::at(tree.span(at), path, format!("there is no template `{}`", cut(text))).help(help));
        Some(None)
    }

    /// A template with all that lies below it, and whether that is known.
    fn whole(&mut self, tree: &mut Tree<'_>, name: &str, problems: &mut Problems) -> Option<(NodeId, bool)> {
        // From the one that is asked for down to one that is known, or takes up no other.
        let mut chain: Vec<(String, NodeId)> = Vec::new();
        let mut seen = HashSet::new();
        let (mut lowest, mut is_settled) = (self.defaults, true);
        let mut next = Some(name.to_owned());
        while let Some(name) = next.take() {
            if let Some((known, settled)) = self.whole.get(&name) {
                (lowest, is_settled) = (Some(*known), *settled);
                break;
            }
            if !seen.insert(name.clone()) {
                let before = chain.iter().position(|(other, _)| *other == name).unwrap_or_default();
                report_loop(tree, chain.get(before..).unwrap_or_default(), problems);
                is_settled = false;
                break;
            }
            let Some(node) = self.all.get(&name).copied() else { break };
            let path = Path::ROOT.key("templates");
            let from = self.from(tree, node, path.key(&name).to_string(), problems);
            is_settled = from != Some(None);
            next = from.flatten();
            chain.push((name, node));
        }
        while let Some((name, node)) = chain.pop() {
            let merged = match lowest {
                Some(below) if is_null(tree, node) => Ok(below),
                Some(below) => merge(tree, below, node, Stands::Above),
                None => Ok(node),
            };
            let merged = merged.unwrap_or_else(|TooMuch| {
                let message = "what this template takes up comes to too much";
                let path = Path::ROOT.key("templates").key(&name).to_string();
                problems.add(Draft::at(tree.span(node), path, message));
                node
            });
            lowest = Some(merged);
            self.whole.insert(name, (merged, is_settled));
        }
        self.whole.get(name).copied()
    }
}

/// The defaults less what they may not have, which is reported where they are read.
fn without_own(pairs: Vec<NodeId>, defaults: NodeId, tree: &mut Tree<'_>) -> NodeId {
    let is_own = |key: NodeId| DefaultsDoc::OWN.iter().any(|(own, _)| *own == tree.text(key));
    if !pairs.iter().step_by(2).any(|key| is_own(*key)) {
        return defaults;
    }
    let kept: Vec<_> = pairs.chunks_exact(2).filter(|pair| !is_own(pair[0])).flatten().copied().collect();
    tree.map_of(&kept, defaults)
}

fn report_loop(tree: &Tree<'_>, chain: &[(String, NodeId)], problems: &mut Problems) {
    let (Some((first, _)), Some((last, node))) = (chain.first(), chain.last()) else { return };
    let mut shown: Vec<_> = chain.iter().take(MOST_SHOWN).map(|(name, _)| format!("`{}`", cut(name))).collect();
    if chain.len() > MOST_SHOWN {
        shown.push("…".to_owned());
    }
    shown.push(format!("`{}`", cut(first)));
    let path = Path::ROOT.key("templates").key(last).to_string();
    let at = field(tree, *node, "from").unwrap_or(*node);
    let message = format!("templates take each other up in a circle: {}", shown.join(" → "));
    let draft = Draft::at(tree.span(at), Path::join_text(&path, "from"), message);
    problems.add(draft.help("leave `from` out of one of them"));
}
