//! YAML text → a compact tree of positions. With `syntax.rs`, the only file that knows the YAML reader.
//!
//! What the values mean belongs in `decode.rs`; here a scalar is a piece of text, quoted or not. Everything a hostile
//! file can blow up is bounded while the parser's events come in: nesting, the number of nodes, and what aliases
//! expand to. An alias is an edge to the node it names, never a copy.
//!
//! Long because the bounds hold only together: nodes, nesting, anchors and merges are counted in one builder.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::problem::{Draft, Problems};
use super::source::Sources;
use super::syntax::explain;

/// The most nodes (keys, values, items) of a file. 10,000 agents with every field take about 1.2 million.
pub(super) const MAX_NODES: u64 = 2_000_000;
/// The most nodes that all aliases of a file may stand for, counted each time one is used.
pub(super) const MAX_ALIAS_NODES: u64 = 1_000_000;
/// The most bytes that all aliases of a file may stand for, counted each time one is used.
pub(super) const MAX_ALIAS_BYTES: u64 = 16 * 1024 * 1024;
/// The most anchors of a file.
pub(super) const MAX_ANCHORS: usize = 10_000;
/// How deep lists and mappings may be nested. The state file itself needs seven levels.
pub(super) const MAX_DEPTH: usize = 64;

/// A node's index in its [`Tree`].
pub(super) type NodeId = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Text from `a`, `b` bytes long, of the source.
    Scalar { plain: bool },
    /// Text number `a` of those that are not in the source as they read (escapes, folded lines).
    Owned { plain: bool },
    /// `b` children from `a`.
    List,
    /// `b` children from `a`: key, value, key, value.
    Map,
    /// A node about which a problem was reported already.
    Broken,
}

/// 20 bytes, since there may be two million. Offsets fit: the file is at most 16 MiB.
#[derive(Debug, Clone, Copy)]
struct Node {
    start: u32,
    end: u32,
    a: u32,
    b: u32,
    kind: Kind,
}

/// What a node is.
#[derive(Debug, Clone, Copy)]
pub(super) enum View<'t> {
    /// A scalar. `plain` when it was written without quotes and not as a block, so that YAML gives it a type.
    Scalar { text: &'t str, plain: bool },
    /// A list.
    List(&'t [NodeId]),
    /// A mapping: key, value, key, value. Keys are scalars or broken.
    Map(&'t [NodeId]),
    /// Reported already.
    Broken,
}

/// The document of a state file.
#[derive(Debug)]
pub(super) struct Tree<'s> {
    source: &'s str,
    nodes: Vec<Node>,
    children: Vec<NodeId>,
    owned: Vec<Box<str>>,
    root: NodeId,
}

impl<'s> Tree<'s> {
    /// Reads one document. `None` when the YAML is broken or too much; the reason is in `problems` then. Duplicate keys,
    /// unknown aliases and tags are reported too and do not stop it.
    pub(super) fn parse(source: &'s str, problems: &mut Problems) -> Option<Self> {
        let mut tree = Self::over(source);
        tree.root = tree.read(0..source.len(), problems)?;
        Some(tree)
    }

    /// Reads a document of each file, which together may have no more in them than one: the tree, and the document's node of
    /// each. As [`Tree::parse`]; where one is broken, what is wrong with the others is told too.
    pub(super) fn parse_all(sources: &'s Sources<'_>, problems: &mut Problems) -> Option<(Self, Vec<NodeId>)> {
        let mut tree = Self::over(sources.text());
        let roots: Vec<_> = sources.files().iter().map(|file| tree.read(file.range.clone(), problems)).collect();
        let roots: Vec<NodeId> = roots.into_iter().collect::<Option<_>>()?;
        tree.root = roots.first().copied()?;
        Some((tree, roots))
    }

    fn over(source: &'s str) -> Self {
        Tree { source, nodes: Vec::new(), children: Vec::new(), owned: Vec::new(), root: 0 }
    }

    /// Reads the document in a part of the source.
    fn read(&mut self, part: Range<usize>, problems: &mut Problems) -> Option<NodeId> {
        let (base, source) = (part.start, self.source.get(part)?);
        let mut builder = Builder {
            tree: self,
            base,
            problems,
            pending: Vec::new(),
            frames: Vec::new(),
            anchors: HashMap::new(),
            alias_nodes: 0,
            alias_bytes: 0,
            documents: 0,
        };
        let options = granit_parser::options! {
            emit_unresolved_aliases: true,
            emit_comments: false,
            flow_nesting_limit: MAX_DEPTH,
            block_nesting_limit: MAX_DEPTH,
        };
        for next in Parser::new_from_str_with_options(source, options) {
            let (event, span) = match next {
                Ok(next) => next,
                Err(err) => {
                    builder.problems.add(explain(&err, source).shifted(base));
                    return None;
                }
            };
            if let Err(draft) = builder.event(event, &span) {
                builder.problems.add(draft);
                return None;
            }
        }
        let Builder { tree, pending, problems, .. } = builder;
        let root = pending.first().copied();
        match root.map(|root| tree.view(root)) {
            Some(View::Scalar { text: "", plain: true }) | None => {
                problems.add(
                    Draft::at(base..base, String::new(), "the file is empty")
                        .help("`steadfast init` writes a file to start from"),
                );
                None
            }
            Some(_) => root,
        }
    }

    /// The text of every scalar, keys included.
    pub(super) fn scalars(&self) -> impl Iterator<Item = &str> {
        let ids = 0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        ids.filter_map(|id| match self.view(id) {
            View::Scalar { text, .. } => Some(text),
            View::List(_) | View::Map(_) | View::Broken => None,
        })
    }

    /// Takes another node for the document's.
    pub(super) fn with_root(self, root: NodeId) -> Self {
        Self { root, ..self }
    }

    /// How many nodes there are, and how many times one of them is somebody's child.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.nodes.len(), self.children.len())
    }

    /// A mapping of nodes that are there already (key, value, key, value), which stands where another node does.
    pub(super) fn map_of(&mut self, pairs: &[NodeId], at: NodeId) -> NodeId {
        let (start, end) = self.nodes.get(at as usize).map_or((0, 0), |node| (node.start, node.end));
        let (a, b) = (self.children.len() as u32, pairs.len() as u32);
        self.children.extend_from_slice(pairs);
        self.nodes.push(Node { start, end, a, b, kind: Kind::Map });
        self.nodes.len() as NodeId - 1
    }

    /// The document's node.
    pub(super) fn root(&self) -> NodeId {
        self.root
    }

    /// Where a node stands in the source, in bytes.
    pub(super) fn span(&self, id: NodeId) -> Range<usize> {
        self.nodes.get(id as usize).map_or(0..0, |node| node.start as usize..node.end as usize)
    }

    /// Where a part of a scalar's text stands in the source; the whole node where its text is not in the source as it reads.
    pub(super) fn part(&self, id: NodeId, part: Range<usize>) -> Range<usize> {
        match self.nodes.get(id as usize) {
            Some(Node { kind: Kind::Scalar { .. }, a, .. }) => *a as usize + part.start..*a as usize + part.end,
            _ => self.span(id),
        }
    }

    /// What a node is.
    pub(super) fn view(&self, id: NodeId) -> View<'_> {
        let Some(node) = self.nodes.get(id as usize) else { return View::Broken };
        let (from, to) = (node.a as usize, node.a as usize + node.b as usize);
        match node.kind {
            Kind::Scalar { plain } => View::Scalar { text: self.source.get(from..to).unwrap_or_default(), plain },
            Kind::Owned { plain } => View::Scalar { text: self.owned.get(from).map_or("", |text| text), plain },
            Kind::List => View::List(self.children.get(from..to).unwrap_or_default()),
            Kind::Map => View::Map(self.children.get(from..to).unwrap_or_default()),
            Kind::Broken => View::Broken,
        }
    }

    /// A scalar's text; empty for anything else.
    pub(super) fn text(&self, id: NodeId) -> &str {
        match self.view(id) {
            View::Scalar { text, .. } => text,
            _ => "",
        }
    }
}

/// A collection whose end has not come yet.
struct Frame {
    node: NodeId,
    map: bool,
    /// Where its children start in `pending`.
    base: usize,
    anchor: usize,
    /// Nodes and bytes in it so far, aliases counted in full.
    nodes: u64,
    bytes: u64,
    /// It has a `<<` key.
    merges: bool,
}

struct Anchor {
    node: NodeId,
    /// `None` while the node is still open: an alias to it would go round in circles.
    size: Option<(u64, u64)>,
}

struct Builder<'s, 'p> {
    tree: &'p mut Tree<'s>,
    /// Where the document's text begins in the source.
    base: usize,
    problems: &'p mut Problems,
    /// Children of the open collections, innermost last.
    pending: Vec<NodeId>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Anchor>,
    alias_nodes: u64,
    alias_bytes: u64,
    documents: usize,
}

impl<'s> Builder<'s, '_> {
    /// Takes one event. An error ends the reading.
    fn event(&mut self, event: Event<'s>, span: &Span) -> Result<(), Draft> {
        let range = self.range_of(span);
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Draft::at(range, String::new(), "the file holds more than one document")
                        .help("keep one state file per file: remove the `---` line and what follows it"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !self.forced_string(tag.as_deref(), span);
                self.scalar(text, plain, anchor, range)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &["seq"], span);
                self.open(false, anchor, range)?;
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), &["map"], span);
                self.open(true, anchor, range)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(range.end),
            Event::Alias(id) => self.alias(id, range)?,
            Event::UnresolvedAlias(name) => {
                let draft = Draft::at(range.clone(), self.path(), format!("there is no anchor `&{name}` above this alias"))
                    .help("an alias `*…` repeats what an anchor `&…` named earlier in the file; quote the value if it just starts with `*`");
                self.problems.add(draft);
                let id = self.node(range, Kind::Broken, 0, 0)?;
                self.child(id, 1, 0);
            }
            _ => {}
        }
        Ok(())
    }

    fn node(&mut self, range: Range<usize>, kind: Kind, a: u32, b: u32) -> Result<NodeId, Draft> {
        if self.tree.nodes.len() as u64 >= MAX_NODES {
            return Err(Draft::at(range, self.path(), format!("the file has more than {MAX_NODES} values"))
                .help("split it into several state files with names of their own"));
        }
        let id = self.tree.nodes.len() as NodeId;
        self.tree.nodes.push(Node { start: range.start as u32, end: range.end as u32, a, b, kind });
        Ok(id)
    }

    fn scalar(&mut self, text: Cow<'s, str>, plain: bool, anchor: usize, range: Range<usize>) -> Result<(), Draft> {
        // The parser says `~` for a value that is not there.
        let text = if plain && range.is_empty() { Cow::Borrowed("") } else { text };
        let bytes = text.len() as u64;
        let at = match &text {
            _ if text.is_empty() => Some(range.start),
            Cow::Borrowed(text) => offset_in(self.tree.source, text),
            Cow::Owned(_) => None,
        };
        if plain
            && text == "<<"
            && self.expects_key()
            && let Some(frame) = self.frames.last_mut()
            && frame.map
        {
            frame.merges = true;
        }
        let id = match at {
            Some(at) => self.node(range, Kind::Scalar { plain }, at as u32, bytes as u32)?,
            None => {
                let index = self.tree.owned.len() as u32;
                self.tree.owned.push(text.into_owned().into_boxed_str());
                self.node(range, Kind::Owned { plain }, index, 0)?
            }
        };
        self.anchor(anchor, Anchor { node: id, size: Some((1, bytes)) })?;
        self.child(id, 1, bytes);
        Ok(())
    }

    /// Remembers what an anchor names; 0 is no anchor.
    fn anchor(&mut self, id: usize, anchor: Anchor) -> Result<(), Draft> {
        if id == 0 {
            return Ok(());
        }
        if self.anchors.len() >= MAX_ANCHORS {
            let span = self.tree.span(anchor.node);
            return Err(Draft::at(span, self.path(), format!("the file has more than {MAX_ANCHORS} anchors")));
        }
        self.anchors.insert(id, anchor);
        Ok(())
    }

    fn open(&mut self, map: bool, anchor: usize, range: Range<usize>) -> Result<(), Draft> {
        if self.frames.len() >= MAX_DEPTH {
            return Err(Draft::at(range, String::new(), format!("nested more than {MAX_DEPTH} levels deep")));
        }
        let node = self.node(range, if map { Kind::Map } else { Kind::List }, 0, 0)?;
        self.anchor(anchor, Anchor { node, size: None })?;
        self.frames.push(Frame { node, map, base: self.pending.len(), anchor, nodes: 1, bytes: 0, merges: false });
        Ok(())
    }

    fn close(&mut self, end: usize) {
        let Some(frame) = self.frames.last() else { return };
        if frame.map {
            self.check_keys();
        }
        let Some(frame) = self.frames.pop() else { return };
        if frame.merges {
            self.merge(&frame);
        }
        let first = self.tree.children.len() as u32;
        self.tree.children.extend_from_slice(&self.pending[frame.base..]);
        let count = self.tree.children.len() as u32 - first;
        self.pending.truncate(frame.base);
        // A block collection's end is where the next thing starts; its last child says better where it ends.
        let last = self.tree.children.last().filter(|_| count > 0).map(|last| self.tree.span(*last).end);
        if let Some(node) = self.tree.nodes.get_mut(frame.node as usize) {
            (node.a, node.b) = (first, count);
            let end = if self.tree.source.as_bytes().get(node.start as usize).is_some_and(|b| matches!(b, b'[' | b'{'))
            {
                end
            } else {
                last.unwrap_or(end)
            };
            node.end = (end as u32).max(node.start);
        }
        if frame.anchor != 0 {
            self.anchors.insert(frame.anchor, Anchor { node: frame.node, size: Some((frame.nodes, frame.bytes)) });
        }
        self.child(frame.node, frame.nodes, frame.bytes);
    }

    fn alias(&mut self, id: usize, range: Range<usize>) -> Result<(), Draft> {
        let Some(anchor) = self.anchors.get(&id) else { return Ok(()) };
        let node = anchor.node;
        let Some((nodes, bytes)) = anchor.size else {
            return Err(Draft::at(range, self.path(), "this alias stands inside what it refers to"));
        };
        self.alias_nodes += nodes;
        self.alias_bytes += bytes;
        if self.alias_nodes > MAX_ALIAS_NODES || self.alias_bytes > MAX_ALIAS_BYTES {
            return Err(Draft::at(range, self.path(), "the aliases of this file expand to too much")
                .help(format!("together they may stand for {MAX_ALIAS_NODES} values and {MAX_ALIAS_BYTES} bytes")));
        }
        self.child(node, nodes, bytes);
        Ok(())
    }

    fn child(&mut self, id: NodeId, nodes: u64, bytes: u64) {
        self.pending.push(id);
        if let Some(frame) = self.frames.last_mut() {
            frame.nodes += nodes;
            frame.bytes += bytes;
        }
    }

    /// Whether the next node of the innermost mapping is a key.
    fn expects_key(&self) -> bool {
        self.frames.last().is_some_and(|frame| (self.pending.len() - frame.base).is_multiple_of(2))
    }

    /// Reports keys that come twice, and keys that are no words.
    fn check_keys(&mut self) {
        let Some(frame) = self.frames.last() else { return };
        let parent = self.path_to(self.frames.len() - 1);
        let problems = &mut *self.problems;
        let keys: Vec<NodeId> = self.pending[frame.base..].iter().step_by(2).copied().collect();
        let mut seen: HashMap<&str, NodeId> = HashMap::new();
        for (index, key) in keys.iter().copied().enumerate() {
            let text = match self.tree.view(key) {
                View::Scalar { text, .. } => text,
                View::Broken => continue,
                View::List(_) | View::Map(_) => {
                    problems.add(Draft::at(
                        self.tree.span(key),
                        parent.clone(),
                        "a key must be a word, not a list or mapping",
                    ));
                    continue;
                }
            };
            // Most mappings have a handful of keys; comparing those costs less than hashing them.
            let first = if keys.len() <= 12 {
                keys[..index]
                    .iter()
                    .copied()
                    .find(|other| matches!(self.tree.view(*other), View::Scalar { text: t, .. } if t == text))
            } else {
                let first = *seen.entry(text).or_insert(key);
                (first != key).then_some(first)
            };
            if let Some(first) = first {
                problems.add(
                    Draft::at(
                        self.tree.span(key),
                        join(&parent, text),
                        format!("the key `{}` is here twice", super::decode::cut(text)),
                    )
                    .also(self.tree.span(first), "first"),
                );
            }
        }
    }

    /// Puts the entries of `<<` mappings behind the mapping's own, which win (YAML 1.1 merge keys, as Compose files use
    /// them).
    fn merge(&mut self, frame: &Frame) {
        let entries: Vec<NodeId> = self.pending.drain(frame.base..).collect();
        let mut merged = Vec::new();
        let mut sources = Vec::new();
        for pair in entries.chunks_exact(2) {
            let (key, value) = (pair[0], pair[1]);
            if !matches!(self.tree.view(key), View::Scalar { text: "<<", plain: true }) {
                merged.extend_from_slice(pair);
                continue;
            }
            match self.tree.view(value) {
                View::Map(_) => sources.push(value),
                View::List(items) if items.iter().all(|item| matches!(self.tree.view(*item), View::Map(_))) => {
                    sources.extend_from_slice(items);
                }
                _ => self.problems.add(Draft::at(
                    self.tree.span(key),
                    self.path(),
                    "`<<` takes a mapping, or a list of mappings",
                )),
            }
        }
        let mut known: std::collections::HashSet<&str> =
            merged.iter().step_by(2).map(|key| self.tree.text(*key)).collect();
        for source in sources {
            let View::Map(pairs) = self.tree.view(source) else { continue };
            for pair in pairs.chunks_exact(2) {
                if known.insert(self.tree.text(pair[0])) {
                    merged.extend_from_slice(pair);
                }
            }
        }
        self.pending.extend(merged);
    }

    /// Whether a tag makes the scalar a string. Any tag but YAML's own scalar tags is reported.
    fn forced_string(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        self.refuse_tag(tag, &["str", "int", "float", "bool", "null"], span);
        tag.is_some_and(|tag| tag.core_suffix() == Some("str") || tag.parts() == ("", "!") || tag.parts() == ("!", ""))
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, known: &[&str], span: &Span) {
        let Some(tag) = tag else { return };
        let plain_bang = tag.parts() == ("", "!") || tag.parts() == ("!", "");
        if !plain_bang && !tag.core_suffix().is_some_and(|suffix| known.contains(&suffix)) {
            let range = span.tag_span().map_or_else(|| self.range_of(span), |tag| self.range_of(&tag));
            let draft = Draft::at(
                range,
                self.path(),
                format!("the tag `{}` means nothing here", super::decode::cut(&tag.original())),
            );
            self.problems.add(draft);
        }
    }

    fn range_of(&self, span: &Span) -> Range<usize> {
        let start = span.start.byte_offset().unwrap_or_default();
        let end = span.end.byte_offset().unwrap_or(start).max(start);
        self.base + start..self.base + end
    }

    /// The path of the node that comes next.
    fn path(&self) -> String {
        self.path_to(self.frames.len())
    }

    fn path_to(&self, frames: usize) -> String {
        let mut path = String::new();
        for (index, frame) in self.frames.iter().take(frames).enumerate() {
            let end = self.frames.get(index + 1).map_or(self.pending.len(), |inner| inner.base);
            if !frame.map {
                path.push_str(&format!("[{}]", end - frame.base));
            } else if !(end - frame.base).is_multiple_of(2) {
                path = join(&path, self.tree.text(self.pending[end - 1]));
            }
        }
        path
    }
}

fn join(parent: &str, key: &str) -> String {
    super::decode::Path::join_text(parent, key)
}

/// Where `part` lies in `whole`, when it is a piece of it.
fn offset_in(whole: &str, part: &str) -> Option<usize> {
    let offset = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    (offset + part.len() <= whole.len()).then_some(offset)
}
