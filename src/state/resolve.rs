//! From the decoded document to the desired state: defaults, paths, and what fields mean together.

mod runtime;

use runtime::runtime;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Component, Path as FilePath, PathBuf};
use std::time::Duration;

use super::agents::{self, Agents, Made, Resolved};
use super::decode::{At, Cx, Decode, List, Path, Table, cut, is_null};
use super::document::{ArchWord, CacheDoc, StateDoc};
use super::problem::Draft;
use super::scalar::{Choice, Loose, Str, Word};
use super::source::Places;
use super::tree::View;
use super::{Context, Loaded, exposure, shared};
use crate::model::text::url_with_password;
use crate::model::{
    Agent, AgentName, AgentState, Arch, CachePolicy, Desired, ImageSource, Location, ManifestSource, NO_MANIFEST, Name,
    RootClaim,
};
use crate::trust::{LONGEST_SHOWN, Trust, TrustedKey};

const DEFAULT_REFRESH: Duration = Duration::from_secs(3600);
const LEAST_REFRESH: Duration = Duration::from_secs(1);
const LEAST_RESTART_AFTER: Duration = Duration::from_secs(30);
const DEFAULT_RESTART_AFTER: Duration = Duration::from_secs(300);

/// Resolves the whole document. `None` when something is missing that cannot be done without; problems tell the rest.
pub(super) fn resolve<'a>(cx: &mut Cx<'a>, context: &Context<'_>) -> Option<Loaded> {
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
    let root = root(cx, &doc, context, path);
    let at = manifest(cx, &doc, context, path);
    let keys = public_keys(cx, &doc, at.is_some(), path);
    let manifest_refresh = manifest_refresh(cx, &doc, path);
    let cache = cache(cx, doc.cache.as_ref(), context.host_arch, path);
    let in_vm = doc.runtime.as_ref().is_some_and(|runtime| runtime.value.lima.is_some());
    let runtime = doc.runtime.and_then(|runtime| self::runtime(cx, runtime, path.key("runtime")));

    let volumes = shared::volumes(cx, name.as_ref(), doc.volumes, path.key("volumes"));
    let networks = shared::networks(cx, name.as_ref(), doc.networks, path.key("networks"));

    let places = Places::new(cx.sources);
    let mut all = Agents::new(places, name.as_ref(), &cache.arches, context.host_arch)
        .in_vm(in_vm)
        .sharing(&volumes.names, &networks.names);
    if let Some(At { node, .. }) = doc.defaults {
        all.check_defaults(cx, node, path.key("defaults"));
    }
    if let Some(At { value: Table(entries), .. }) = doc.templates {
        let path = path.key("templates");
        entries.iter().for_each(|entry| all.check(cx, entry.at.node, path.key(&entry.name)));
    }
    if let Some(At { value: Table(entries), .. }) = doc.agents {
        let path = path.key("agents");
        for entry in entries {
            all.add(cx, entry.key, &entry.name, entry.at.node, path);
        }
    }
    let Resolved { agents, made, env_files } = all.finish();
    if !cx.problems.is_empty() {
        cx.problems.concern(env_files.into_paths());
        return None;
    }
    if at.is_none() {
        warn_of_no_manifest(cx, &made, &agents);
    }
    let (name, root, runtime) = (name?, root?, runtime?);
    exposure::warn(cx, &root, &env_files, &made, &agents, in_vm);
    let env_files = env_files.into_paths();
    let trust = keys.map(|keys| Trust { owner: name.clone(), keys });
    let manifest = at.map(|at| ManifestSource { at, trust });
    let key = (context.key)(&root);
    let host_arch = context.host_arch;
    let (claim, meaning) = (RootClaim::default(), super::identity::meaning(cx.tree));
    let desired = Desired {
        name,
        root,
        manifest,
        manifest_refresh,
        cache,
        runtime,
        volumes: volumes.specs,
        networks: networks.specs,
        agents,
        host_arch,
        key,
        claim,
        meaning,
    };
    Some(Loaded { desired, env_files, warnings: Vec::new() })
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
            let message = match string.from_env || url_with_password(&string.value).is_some() {
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

/// The absolute path a string of a file means: `~` is the home directory, relative paths are relative to that file.
pub(super) fn file_path<T: HasStr>(cx: &mut Cx<'_>, at: &At<T>, path: Path<'_>) -> Option<PathBuf> {
    let (vars, dir) = (cx.vars, cx.dir(at.node));
    cx.note_path(at.node);
    checked(cx, at, path, |text| expand(text, dir, vars))
}

pub(super) fn expand(text: &str, dir: &FilePath, vars: &BTreeMap<String, String>) -> Result<PathBuf, String> {
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

fn root(cx: &mut Cx<'_>, doc: &StateDoc, context: &Context<'_>, path: Path<'_>) -> Option<PathBuf> {
    // The field is checked even where a flag wins, so that a file is valid or not whatever the flags.
    let field = doc.root.as_ref().map(|root| file_path(cx, root, path.key("root")));
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

/// A scheme is what stands before `:`; a path has a `/` first, or no `:` at all.
fn has_scheme(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b)))
}

fn location(text: &str, dir: &FilePath, vars: &BTreeMap<String, String>) -> Result<Location, String> {
    if has_scheme(text) { Location::parse(text) } else { expand(text, dir, vars).map(Location::File) }
}

fn manifest(cx: &mut Cx<'_>, doc: &StateDoc, context: &Context<'_>, path: Path<'_>) -> Option<Location> {
    let path = path.key("manifest");
    let path = path.key("url");
    let vars = cx.vars;
    let field = doc.manifest.as_ref().and_then(|manifest| manifest.value.url.as_ref());
    let field = field.map(|url| {
        let dir = cx.dir(url.node);
        if !has_scheme(&url.value.0.value) {
            cx.note_path(url.node);
        }
        checked(cx, url, path, |text| location(text, dir, vars))
    });
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

/// The keys that the manifest may be signed with. `None` when nobody asks for a signature.
fn public_keys(cx: &mut Cx<'_>, doc: &StateDoc, has_manifest: bool, path: Path<'_>) -> Option<Vec<TrustedKey>> {
    let path = path.key("manifest");
    let field = doc.manifest.as_ref()?.value.public_keys.as_ref()?;
    let path = path.key("publicKeys");
    if matches!(cx.tree.view(field.node), View::List([])) || is_null(cx.tree, field.node) {
        let help = "leave the field out where nobody signs the manifest";
        cx.wrong_help(field.node, path, "at least one key is needed", help);
        return None;
    }
    if !has_manifest && doc.manifest.as_ref().is_some_and(|manifest| manifest.value.url.is_none()) {
        let help = "write `manifest.url`, or set $STEADFAST_MANIFEST_URL; or leave the keys out";
        cx.wrong_help(field.node, path, "there is no manifest for these keys", help);
    }
    let mut keys = Vec::<(usize, TrustedKey)>::new();
    for (index, word) in &field.value.0 {
        let path = path.index(*index);
        if word.value.str().value.len() > LONGEST_SHOWN {
            // The secret one, perhaps.
            cx.problems.mask(cx.tree.span(word.node));
        }
        let Some(key) = checked(cx, word, path, TrustedKey::parse) else { continue };
        match keys.iter().find(|(_, other)| *other == key) {
            Some((first, _)) => {
                let message = format!("key {} is already `manifest.publicKeys[{first}]`", key.id());
                cx.wrong_help(word.node, path, message, "remove one of the two");
            }
            None => keys.push((*index, key)),
        }
    }
    Some(keys.into_iter().map(|(_, key)| key).collect())
}

/// Agents whose image nothing could bring.
fn warn_of_no_manifest(cx: &mut Cx<'_>, made: &[Made], agents: &BTreeMap<AgentName, Agent>) {
    let path = Path::ROOT.key("agents");
    for made in made {
        let name = made.name(cx.tree);
        let Some(agent) = agents.get(&*name) else { continue };
        if agent.source == ImageSource::Manifest && agent.state != AgentState::Absent {
            made.report(cx, &name, path);
            let draft = Draft::at(cx.tree.span(made.key()), path.key(&name).to_string(), NO_MANIFEST.to_owned());
            cx.problems.warn(draft.help(agent.no_manifest()).planned());
            agents::end(cx);
        }
    }
}

fn manifest_refresh(cx: &mut Cx<'_>, doc: &StateDoc, path: Path<'_>) -> Duration {
    let path = path.key("manifest");
    let Some(refresh) = doc.manifest.as_ref().and_then(|manifest| manifest.value.refresh.as_ref()) else {
        return DEFAULT_REFRESH;
    };
    if refresh.value.0 < LEAST_REFRESH {
        cx.wrong(refresh.node, path.key("refresh"), "the manifest cannot be asked for more often than every 1s");
    }
    refresh.value.0
}

// ------------------------------------------------------------------------------------------------- cache and runtime

pub(super) fn arches(
    cx: &mut Cx<'_>,
    list: &At<List<Choice<ArchWord>>>,
    host: Arch,
    path: Path<'_>,
) -> Option<Vec<Arch>> {
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
