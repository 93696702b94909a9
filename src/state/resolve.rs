//! From the decoded document to the desired state: defaults, paths, and what fields mean together.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Display;
use std::path::{Component, Path as FilePath, PathBuf};

use super::container::{self, EnvFiles};
use super::decode::{At, Choice, Cx, Decode, List, Loose, Path, Str, Table, Word, cut, is_null};
use super::document::{AgentDoc, ArchWord, CacheDoc, LimaDoc, PinsDoc, PodmanDoc, RuntimeDoc, StateDoc};
use super::ports::{Holder, Taken};
use super::problem::Draft;
use super::snippet::Lines;
use super::tree::NodeId;
use super::{Context, Input, Loaded};
use crate::model::{
    Agent, AgentName, AgentState, Arch, CachePolicy, ContainerName, Desired, ImageRef, ImageSource, Location, Name,
    Place, Port, Runtime, Sha256Digest, Version,
};

/// Resolves the whole document. `None` when something is missing that cannot be done without; problems tell the rest.
pub(super) fn resolve(cx: &mut Cx<'_>, input: &Input, text: &str, context: &Context<'_>) -> Option<Loaded> {
    let root_node = cx.tree.root();
    let path = Path::ROOT;
    let doc = StateDoc::decode(cx, root_node, path)?;
    if let Some(version) = &doc.api_version {
        checked(cx, version, path.key("apiVersion"), |version| match version {
            "steadfast/v1" => Ok(()),
            _ => Err(format!("`{version}` is not a version this build reads: write `steadfast/v1`")),
        });
    }
    let name = doc.name.as_ref().and_then(|name| checked(cx, name, path.key("name"), |name| Name::new(name)));
    let root = root(cx, &doc, input, context, path);
    let manifest = manifest(cx, &doc, input, context, path);
    let cache = cache(cx, doc.cache.as_ref(), context.host_arch, path);
    let runtime = doc.runtime.and_then(|runtime| self::runtime(cx, runtime, input, path.key("runtime")));

    let mut all = Agents {
        lines: Lines::new(text),
        file: &input.name,
        dir: &input.dir,
        owner: name.as_ref(),
        cache_arches: &cache.arches,
        host_arch: context.host_arch,
        env_files: EnvFiles::default(),
        names: HashMap::new(),
        ports: Taken::default(),
        seen: HashSet::new(),
        agents: BTreeMap::new(),
    };
    if let Some(At { value: Table(entries), .. }) = doc.agents {
        let path = path.key("agents");
        for entry in entries {
            all.add(cx, entry.key, &entry.name, entry.at.node, path.key(&entry.name));
        }
    }
    let Agents { agents, env_files, .. } = all;
    if !cx.problems.is_empty() {
        return None;
    }
    let (name, root, runtime) = (name?, root?, runtime?);
    let key = (context.key)(&root);
    let host_arch = context.host_arch;
    let desired = Desired { name, root, manifest, cache, runtime, agents, host_arch, key };
    Some(Loaded { desired, env_files: env_files.into_paths() })
}

// ------------------------------------------------------------------------------------------------ checking a string

/// A decoded string of either kind.
pub(super) trait HasStr {
    fn str(&self) -> &Str;
}

impl HasStr for Word {
    fn str(&self) -> &Str {
        &self.0
    }
}

impl HasStr for Loose {
    fn str(&self) -> &Str {
        &self.0
    }
}

/// Checks a string and reports what `check` says. What came from the environment does not get into the message.
pub(super) fn checked<T: HasStr, V, E: Display>(
    cx: &mut Cx<'_>,
    at: &At<T>,
    path: Path<'_>,
    check: impl FnOnce(&str) -> Result<V, E>,
) -> Option<V> {
    let string = at.value.str();
    match check(&string.value) {
        Ok(value) => Some(value),
        Err(err) => {
            // The check's sentence may quote any part of the value, so none of it is told.
            let message = match string.from_env {
                true => format!("what `{}` yields is not valid here", cut(cx.tree.text(at.node))),
                false => err.to_string(),
            };
            cx.wrong(at.node, path, message);
            None
        }
    }
}

/// Reports a string that is fine by itself and wrong where it stands.
pub(super) fn refuse<T: HasStr>(cx: &mut Cx<'_>, at: &At<T>, path: Path<'_>, message: &str, help: &str) {
    let written = cut(cx.tree.text(at.node)).into_owned();
    cx.wrong_help(at.node, path, format!("`{written}` {message}"), help);
}

// ------------------------------------------------------------------------------------------------------------- paths

/// The absolute path a string of the file means: `~` is the home directory, relative paths are relative to `dir`.
pub(super) fn file_path<T: HasStr>(cx: &mut Cx<'_>, dir: &FilePath, at: &At<T>, path: Path<'_>) -> Option<PathBuf> {
    let vars = cx.vars;
    checked(cx, at, path, |text| expand(text, dir, vars))
}

fn expand(text: &str, dir: &FilePath, vars: &BTreeMap<String, String>) -> Result<PathBuf, String> {
    let path = match text.strip_prefix('~') {
        _ if text.is_empty() => return Err("expected a path, found an empty string".into()),
        Some(rest) if rest.is_empty() || rest.starts_with('/') => {
            match vars.get("HOME").filter(|home| !home.is_empty()) {
                Some(home) => FilePath::new(home).join(rest.trim_start_matches('/')),
                None => return Err(format!("`{text}` needs the home directory, and $HOME is not set")),
            }
        }
        Some(_) => return Err(format!("`{text}` names another user's home directory: write the path itself")),
        None => dir.join(text),
    };
    // `.` goes, `..` stays: dropping it with the segment before it is wrong where that is a symbolic link.
    let clean = path.components().filter(|part| *part != Component::CurDir).collect();
    Ok(clean)
}

pub(super) fn root_without_file(root: Option<&FilePath>, vars: &BTreeMap<String, String>) -> Option<PathBuf> {
    let from_env = || vars.get("STEADFAST_ROOT").filter(|root| !root.is_empty()).map(PathBuf::from);
    match root.map(FilePath::to_owned).or_else(from_env) {
        Some(root) => std::path::absolute(root).ok(),
        None => expand("~/.steadfast", FilePath::new("/"), vars).ok(),
    }
}

fn root(cx: &mut Cx<'_>, doc: &StateDoc, input: &Input, context: &Context<'_>, path: Path<'_>) -> Option<PathBuf> {
    // The field is checked even where a flag wins, so that a file is valid or not whatever the flags.
    let field = doc.root.as_ref().map(|root| file_path(cx, &input.dir, root, path.key("root")));
    match (&context.root, field) {
        (Some(flag), _) => std::path::absolute(flag).ok(),
        (None, Some(root)) => root,
        (None, None) => {
            let root = root_without_file(None, cx.vars);
            if root.is_none() {
                let draft = Draft::at(0..0, "root", "there is no root: the file names none, and $HOME is not set");
                cx.problems.add(draft.help("give one with `--root`, `root:` or $STEADFAST_ROOT"));
            }
            root
        }
    }
}

fn location(text: &str, dir: &FilePath, vars: &BTreeMap<String, String>) -> Result<Location, String> {
    // A scheme is what stands before `:`; a path has a `/` first, or no `:` at all.
    let scheme = text
        .split_once(':')
        .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)));
    if scheme { Location::parse(text) } else { expand(text, dir, vars).map(Location::File) }
}

fn manifest(cx: &mut Cx<'_>, doc: &StateDoc, input: &Input, context: &Context<'_>, path: Path<'_>) -> Option<Location> {
    let path = path.key("manifest");
    let path = path.key("url");
    let vars = cx.vars;
    let field = doc.manifest.as_ref().and_then(|manifest| manifest.value.url.as_ref());
    let field = field.map(|url| checked(cx, url, path, |text| location(text, &input.dir, vars)));
    let outside = match (&context.manifest_url, field) {
        (Some(flag), _) => ("--manifest-url", flag),
        (None, Some(field)) => return field,
        (None, None) => ("$STEADFAST_MANIFEST_URL", vars.get("STEADFAST_MANIFEST_URL").filter(|url| !url.is_empty())?),
    };
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    match location(outside.1, &here, vars) {
        Ok(location) => Some(location),
        // The URL itself may hold a token, so only the reason is told.
        Err(_) => {
            let message = format!("{} is neither an https, http or file URL nor a path", outside.0);
            cx.problems.add(Draft::at(0..0, path.to_string(), message));
            None
        }
    }
}

// ------------------------------------------------------------------------------------------------- cache and runtime

fn arches(cx: &mut Cx<'_>, list: &At<List<Choice<ArchWord>>>, host: Arch, path: Path<'_>) -> Option<Vec<Arch>> {
    let mut arches = Vec::new();
    for (_, word) in &list.value.0 {
        let these: &[Arch] = match word.value.0 {
            ArchWord::Host => &[host],
            ArchWord::Arm64 => &[Arch::Arm64],
            ArchWord::X64 => &[Arch::X64],
            ArchWord::All => &Arch::ALL,
        };
        arches.extend(these.iter().filter(|arch| !arches.contains(*arch)).copied().collect::<Vec<_>>());
    }
    if arches.is_empty() {
        // A list whose items were all wrong was reported item by item.
        if matches!(cx.tree.view(list.node), super::tree::View::List([])) {
            cx.wrong_help(list.node, path, "at least one architecture is needed", "leave the field out for `[host]`");
        }
        return None;
    }
    Some(arches)
}

fn cache(cx: &mut Cx<'_>, doc: Option<&At<CacheDoc>>, host: Arch, path: Path<'_>) -> CachePolicy {
    let path = path.key("cache");
    let list = doc.and_then(|cache| cache.value.arches.as_ref());
    let arches = list.and_then(|list| arches(cx, list, host, path.key("arches"))).unwrap_or_else(|| vec![host]);
    let keep = doc.and_then(|cache| cache.value.keep.as_ref()).map_or(1, |keep| keep.value.0);
    CachePolicy { arches, keep }
}

fn runtime(cx: &mut Cx<'_>, At { node, value }: At<RuntimeDoc>, input: &Input, path: Path<'_>) -> Option<Runtime> {
    match value {
        RuntimeDoc { lima: Some(lima), podman: None } => self::lima(cx, lima.value, input, path.key("lima")),
        RuntimeDoc { lima: None, podman: Some(podman) } => self::podman(cx, podman.value, input, path.key("podman")),
        RuntimeDoc { lima: Some(_), podman: Some(podman) } => {
            cx.wrong_help(podman.node, path, "both `lima` and `podman` are here", "keep the one you want");
            None
        }
        RuntimeDoc { lima: None, podman: None } => {
            // One that is there and wrong was reported already.
            let empty = is_null(cx.tree, node) || matches!(cx.tree.view(node), super::tree::View::Map([]));
            if empty {
                let help = "write `podman: {}` for Podman on this host, or `lima:` for a virtual machine";
                cx.wrong_help(node, path, "exactly one of `lima` and `podman` is needed", help);
            }
            None
        }
    }
}

fn lima(cx: &mut Cx<'_>, doc: LimaDoc, input: &Input, path: Path<'_>) -> Option<Runtime> {
    let instance = doc.instance.as_ref().and_then(|instance| {
        checked(cx, instance, path.key("instance"), |name| {
            // Lima: `^[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*$`, at most 76 bytes.
            let ok = name.len() <= 76
                && name
                    .split(['.', '_', '-'])
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric()));
            let why = "Lima takes letters and digits, with single `.`, `_` and `-` between them";
            if ok { Ok(name.to_owned()) } else { Err(format!("`{name}` is not an instance name: {why}")) }
        })
    });
    let template = doc.template.as_ref().and_then(|at| file_path(cx, &input.dir, at, path.key("template")));
    let home = doc.home.as_ref().and_then(|at| file_path(cx, &input.dir, at, path.key("home")));
    Some(Runtime::Lima {
        instance: instance?,
        template: template?,
        home,
        transport: doc.transport.map(|word| word.value.0).unwrap_or_default(),
        on_template_change: doc.on_template_change.map(|word| word.value.0).unwrap_or_default(),
    })
}

fn podman(cx: &mut Cx<'_>, doc: PodmanDoc, input: &Input, path: Path<'_>) -> Option<Runtime> {
    let Some(socket) = doc.socket else { return Some(Runtime::Podman { socket: None }) };
    let vars = cx.vars;
    let socket = checked(cx, &socket, path.key("socket"), |text| match text.split_once("://") {
        Some(("unix", socket)) if socket.starts_with('/') => Ok(PathBuf::from(socket)),
        Some(("unix", _)) => Err(format!("`{text}` needs an absolute path, like unix:///run/podman/podman.sock")),
        Some(_) => Err(format!("`{text}` is not a unix socket, the only way in: write unix:// and an absolute path")),
        None => expand(text, &input.dir, vars),
    });
    socket.map(|socket| Runtime::Podman { socket: Some(socket) })
}

// ------------------------------------------------------------------------------------------------------------ agents

struct Agents<'a> {
    lines: Lines<'a>,
    file: &'a str,
    dir: &'a FilePath,
    owner: Option<&'a Name>,
    cache_arches: &'a [Arch],
    host_arch: Arch,
    env_files: EnvFiles,
    names: HashMap<ContainerName, (String, NodeId)>,
    ports: Taken,
    seen: HashSet<String>,
    agents: BTreeMap<AgentName, Agent>,
}

impl Agents<'_> {
    fn add(&mut self, cx: &mut Cx<'_>, key: NodeId, name: &str, node: NodeId, path: Path<'_>) {
        let agent_name = AgentName::new(name).map_err(|err| cx.wrong(key, path, err.to_string())).ok();
        let Some(doc) = AgentDoc::decode(cx, node, path) else { return };
        let state = doc.state.as_ref().map(|state| state.value.0).unwrap_or_default();
        let source = doc.source.as_ref().map(|source| source.value.0).unwrap_or_default();
        let version = doc.version.as_ref().and_then(|version| {
            let at = At { node: version.node, value: Word(version.value.0.clone()) };
            checked(cx, &at, path.key("version"), check_version)
        });
        let image = self.image(cx, &doc, source, node, path);
        if let (Some(image), Some(Version::Exact(version)), Some(at)) = (&image, &version, &doc.image)
            && ImageRef::join(image, version).is_err()
        {
            cx.wrong(at.node, path.key("image"), "image and version together are no image reference");
        }
        let pins = doc.sha256.map(|pins| self.pins(cx, pins, source, path.key("sha256"))).unwrap_or_default();
        let arches = match &doc.arches {
            Some(list) if !is_null(cx.tree, list.node) => arches(cx, list, self.host_arch, path.key("arches")),
            _ => Some(self.cache_arches.to_vec()),
        };
        let container_path = path.key("container");
        let container = doc.container.map(|container| container.value).unwrap_or_default();
        let named_at = container.name.as_ref().map_or(key, |name| name.node);
        // A name that is no DNS label was reported; its container is still worth checking.
        let stand_in = || AgentName::new("agent").ok();
        let Some(for_name) = agent_name.clone().or_else(stand_in) else { return };
        let resolved =
            container::resolve(cx, self.dir, &mut self.env_files, self.owner, &for_name, container, container_path);
        let Some((container, ports)) = resolved else { return };
        if !self.seen.insert(name.to_owned()) {
            // The same key again, which was reported: its name and ports are no news.
            return;
        }
        self.claim_name(cx, &container.name, name, named_at, container_path);
        if state != AgentState::Absent {
            self.claim_ports(cx, name, &ports, container_path);
        }
        let (Some(agent_name), Some(version), Some(arches)) = (agent_name, version, arches) else { return };
        let (line, column) = self.lines.position(cx.tree.span(key).start);
        let place = Place { file: self.file.to_owned(), line, column };
        let suspend = doc.suspend.is_some_and(|flag| flag.value.0);
        self.agents
            .insert(agent_name, Agent { place, version, image, source, arches, pins, state, suspend, container });
    }

    fn image(
        &self,
        cx: &mut Cx<'_>,
        doc: &AgentDoc,
        source: ImageSource,
        node: NodeId,
        path: Path<'_>,
    ) -> Option<String> {
        match &doc.image {
            Some(image) => checked(cx, image, path.key("image"), check_repository),
            None if source == ImageSource::Manifest => None,
            None => {
                let word = if source == ImageSource::Registry { "registry" } else { "local" };
                let at = doc.source.as_ref().map_or(node, |source| source.node);
                cx.wrong(at, path, format!("the field `image` is missing, which `source: {word}` needs"));
                None
            }
        }
    }

    fn pins(
        &self,
        cx: &mut Cx<'_>,
        At { node, value: PinsDoc { arm64, x64 } }: At<PinsDoc>,
        source: ImageSource,
        path: Path<'_>,
    ) -> BTreeMap<Arch, Sha256Digest> {
        let mut pins = BTreeMap::new();
        for (arch, pin) in [(Arch::Arm64, arm64), (Arch::X64, x64)] {
            let Some(pin) = pin else { continue };
            if let Some(digest) = checked(cx, &pin, path.key(arch.as_str()), Sha256Digest::parse) {
                pins.insert(arch, digest);
            }
        }
        if !pins.is_empty() && source != ImageSource::Manifest {
            let help = "to pin an image of a registry, write its digest as the version: \"sha256:…\"";
            cx.wrong_help(node, path, "these pins hash tarballs, which only `source: manifest` has", help);
        }
        pins
    }

    fn claim_name(&mut self, cx: &mut Cx<'_>, container: &ContainerName, agent: &str, node: NodeId, path: Path<'_>) {
        if let Some((other, first)) = self.names.get(container) {
            let message = format!("the container name `{container}` is taken by agent `{}`", cut(other));
            let draft = Draft::at(cx.tree.span(node), path.key("name").to_string(), message);
            cx.problems.add(draft.also(cx.tree.span(*first), "taken"));
            return;
        }
        self.names.insert(container.clone(), (agent.to_owned(), node));
    }

    fn claim_ports(&mut self, cx: &mut Cx<'_>, agent: &str, ports: &[(usize, At<Port>)], path: Path<'_>) {
        let ports_path = path.key("ports");
        for (index, At { node, value: port }) in ports {
            let holder = Holder { agent: agent.to_owned(), node: *node };
            let Some(other) = self.ports.take(port, holder) else { continue };
            let whose =
                if other.agent == agent { "this agent".to_owned() } else { format!("agent `{}`", cut(&other.agent)) };
            let message = format!("the host port {}/{} is taken by {whose}", port.host_port, port.protocol);
            let draft = Draft::at(cx.tree.span(*node), ports_path.index(*index).to_string(), message);
            cx.problems.add(draft.also(cx.tree.span(other.node), "taken"));
        }
    }
}

/// A version is an image's tag (the OCI distribution spec's grammar), a digest, or `latest`.
fn check_version(text: &str) -> Result<Version, String> {
    if text == "latest" {
        return Ok(Version::Latest);
    }
    if let Some(hex) = text.strip_prefix("sha256:") {
        return match Sha256Digest::parse(hex) {
            Ok(digest) => Ok(Version::Exact(format!("sha256:{digest}"))),
            Err(_) => Err(format!("`{text}` is not a digest: expected `sha256:` and 64 hex digits")),
        };
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
        && text.len() <= 128;
    if ok {
        return Ok(Version::Exact(text.to_owned()));
    }
    Err(format!("`{text}` is not a version: it is the image's tag, so letters, digits, `_`, `.` and `-`, at most 128"))
}

fn check_repository(text: &str) -> Result<String, String> {
    let last = text.rsplit('/').next().unwrap_or_default();
    if let Some((repository, tag)) =
        text.split_once('@').or_else(|| last.contains(':').then(|| text.rsplit_once(':')).flatten())
    {
        return Err(format!("`{text}` has a tag: write `image: {repository}` and `version: \"{tag}\"`"));
    }
    let (host, path) = match text.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("", text),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("`{text}` is not an image repository: it must be lower case"));
    }
    let part_ok = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let host_ok = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if host_ok && text.len() <= 255 && path.split('/').all(part_ok) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not an image repository, like ghcr.io/openclaw/openclaw"))
}
