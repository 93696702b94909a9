//! What is mounted into a container.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::Surroundings;
use crate::model::spec::MountSource;
use crate::model::{Mount, Text};
use crate::state::decode::{At, Cx, List, Path, cut, near};
use crate::state::document::{MountDoc, MountEntry};
use crate::state::resolve::{checked, expand, file_path, refuse};
use crate::state::scalar::{Choice, Str, Word, Words};
use crate::state::tree::NodeId;
use crate::state::variables::text;

/// The mounts, in the order of the file. Those that are wrong were reported and are missing.
pub(super) fn resolve(
    cx: &mut Cx<'_>,
    around: &Surroundings<'_>,
    list: Option<At<List<MountEntry>>>,
    path: Path<'_>,
) -> Vec<Mount> {
    let path = path.key("mounts");
    let mut targets = BTreeSet::new();
    let mut mounts = Vec::new();
    for (index, At { node, value }) in list.map(|list| list.value.0).unwrap_or_default() {
        let path = path.index(index);
        let found = match value {
            MountEntry::Short(word) => short(cx, around, &At { node, value: word }, path),
            MountEntry::Long(doc) => long(cx, around, node, doc, path),
        };
        let Some((mount, target)) = found else { continue };
        if !targets.insert(mount.target.expose().to_owned()) {
            let help = "another mount has this target";
            refuse(cx, &target.at, target.path(&path), "is mounted twice in this container", help);
            continue;
        }
        mounts.push(mount);
    }
    mounts
}

/// Where a mount's target is written.
struct Target {
    at: At<Word>,
    in_mapping: bool,
}

impl Target {
    fn path<'p>(&self, of_mount: &'p Path<'p>) -> Path<'p> {
        if self.in_mapping { of_mount.key("target") } else { *of_mount }
    }
}

fn long(
    cx: &mut Cx<'_>,
    around: &Surroundings<'_>,
    node: NodeId,
    doc: MountDoc,
    path: Path<'_>,
) -> Option<(Mount, Target)> {
    let MountDoc { source, volume, tmpfs, target, read_only, size, mode, selinux, propagation, idmap } = doc;
    let is_tmpfs = tmpfs.as_ref().is_some_and(|flag| flag.value.0);
    let kinds = usize::from(source.is_some()) + usize::from(volume.is_some()) + usize::from(is_tmpfs);
    if kinds != 1 && !["source", "volume", "tmpfs"].iter().any(|key| crate::state::decode::has_key(cx.tree, node, key))
    {
        // As for a field that is missing.
        crate::state::record::missing_key(cx, node, path, "source");
    } else if kinds > 1 {
        cx.wrong_help(node, path, "a mount has one of `source`, `volume` and `tmpfs`", "write a mount for each");
    } else if kinds == 0 && tmpfs.is_some() {
        cx.wrong(node, path.key("tmpfs"), "`tmpfs: false` mounts nothing: name a `source` or a `volume`");
    }
    for (field, there) in [("size", size.as_ref().map(|size| size.node)), ("mode", mode.as_ref().map(|mode| mode.node))]
    {
        if let Some(node) = there.filter(|_| !is_tmpfs) {
            cx.wrong(node, path.key(field), format!("`{field}` is of a mount with `tmpfs: true` alone"));
        }
    }
    if let Some(propagation) = propagation.as_ref().filter(|_| source.is_none()) {
        cx.wrong(
            propagation.node,
            path.key("propagation"),
            "`propagation` is of a bind mount alone: one with a `source`",
        );
    }
    let mode = mode.and_then(|mode| checked(cx, &mode, path.key("mode"), check_mode));
    let from = match (&source, &volume) {
        (Some(source), None) => bind(cx, around, source, path.key("source")).map(MountSource::Bind),
        (None, Some(volume)) => named(cx, around, volume, path.key("volume")).map(MountSource::Volume),
        (None, None) if is_tmpfs => Some(MountSource::Tmpfs { size: size.map(|size| size.value.0), mode }),
        _ => None,
    };
    let target = target?;
    let from_env = target.value.0.from_env;
    let clean = checked(cx, &target, path.key("target"), check_target)?;
    let mount = Mount {
        source: from?,
        target: text(Str { value: clean, from_env }, false),
        read_only: read_only.is_some_and(|flag| flag.value.0),
        selinux: selinux.map(|At { value: Choice(relabel), .. }| relabel),
        propagation: propagation.map(|At { value: Choice(propagation), .. }| propagation),
        idmap: idmap.is_some_and(|flag| flag.value.0),
    };
    Some((mount, Target { at: target, in_mapping: true }))
}

fn bind(cx: &mut Cx<'_>, around: &Surroundings<'_>, source: &At<Word>, path: Path<'_>) -> Option<Text> {
    let resolved = match around.in_vm {
        true => checked(cx, source, path, guest_path)?,
        false => file_path(cx, source, path)?,
    };
    Some(text(Str { value: resolved.to_string_lossy().into_owned(), from_env: source.value.0.from_env }, false))
}

/// The engine's name of one of the top-level volumes.
fn named(cx: &mut Cx<'_>, around: &Surroundings<'_>, volume: &At<Word>, path: Path<'_>) -> Option<String> {
    let name = volume.value.0.value.as_str();
    if let Some(known) = around.volumes.get(name) {
        return Some(known.clone());
    }
    let shown = cut(cx.tree.text(volume.node)).into_owned();
    let help = match near(name, around.volumes.keys().map(String::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("write `volumes: {{{shown}: {{}}}}` at the top of the file"),
    };
    cx.wrong_help(volume.node, path, format!("there is no volume `{shown}` among the top-level `volumes`"), help);
    None
}

/// `SOURCE:TARGET[:OPTIONS]`, as Compose and `podman run --volume` have it.
fn short(cx: &mut Cx<'_>, around: &Surroundings<'_>, at: &At<Word>, path: Path<'_>) -> Option<(Mount, Target)> {
    let vars = cx.vars;
    let Str { value, from_env } = at.value.0.clone();
    let split = checked(cx, at, path, |_| Line::parse(&value))?;
    let part = |value: &str| text(Str { value: value.to_owned(), from_env }, false);
    let target = checked(cx, at, path, |_| check_target(split.target))?;
    let source = if split.source.starts_with(['/', '.', '~']) {
        if split.source.starts_with('.') {
            cx.note_path(at.node);
        }
        let dir = cx.dir(at.node);
        let found = checked(cx, at, path, |_| match around.in_vm {
            true => guest_path(split.source),
            false => expand(split.source, dir, vars),
        })?;
        MountSource::Bind(part(&found.to_string_lossy()))
    } else {
        let whole = cut(&value).into_owned();
        if let Some(known) = around.volumes.get(split.source) {
            MountSource::Volume(known.clone())
        } else {
            let shown = cut(split.source);
            let help = format!(
                "write `volumes: {{{shown}: {{}}}}` at the top of the file, or `./{}` for the directory beside it",
                if from_env { "…".into() } else { whole }
            );
            let message = match from_env {
                true => "it names a volume that is not among the top-level `volumes`".to_owned(),
                false => format!("there is no volume `{shown}` among the top-level `volumes`"),
            };
            cx.wrong_help(at.node, path, message, help);
            return None;
        }
    };
    let mut mount = Mount::new(source, part(&target), false);
    for option in split.options {
        if let Some(propagation) = meant(option) {
            mount.propagation = Some(propagation);
            continue;
        }
        if let Some(relabel) = meant(option) {
            mount.selinux = Some(relabel);
            continue;
        }
        match option {
            "ro" => mount.read_only = true,
            "rw" | "" => {}
            "idmap" => mount.idmap = true,
            other => {
                let message = match from_env {
                    true => "unknown option of a mount".to_owned(),
                    false => format!("unknown option `{}` of a mount", cut(other)),
                };
                let help = "known here: `ro`, `rw`, `z`, `Z`, `idmap`, `rprivate`, `rshared`, `rslave`";
                cx.wrong_help(at.node, path, message, help);
                return None;
            }
        }
    }
    if mount.propagation.is_some() && mount.bind_source().is_none() {
        cx.wrong(at.node, path, "propagation is of a bind mount alone");
        return None;
    }
    Some((mount, Target { at: at.clone(), in_mapping: false }))
}

/// What one of a type's words means.
fn meant<T: Words>(word: &str) -> Option<T> {
    T::WORDS.iter().find(|(known, _)| *known == word).map(|(_, meant)| *meant)
}

/// The short form, taken apart.
struct Line<'l> {
    source: &'l str,
    target: &'l str,
    options: std::str::Split<'l, char>,
}

impl<'l> Line<'l> {
    fn parse(line: &'l str) -> Result<Self, String> {
        let mut parts = line.splitn(3, ':');
        let (source, target) = (parts.next().unwrap_or_default(), parts.next());
        let Some(target) = target else {
            let message = "expected `SOURCE:TARGET[:OPTIONS]` or a mapping";
            return Err(match line.starts_with('/') {
                true => format!("{message}, found `{line}`: a mount names what is mounted, like `data:{line}`"),
                false => format!("{message}, found `{line}`"),
            });
        };
        if source.is_empty() {
            return Err(format!("expected `SOURCE:TARGET[:OPTIONS]`, found `{line}`: the source is missing"));
        }
        Ok(Self { source, target, options: parts.next().unwrap_or_default().split(',') })
    }
}

/// Permissions in octal digits, as YAML reads them with or without quotes.
fn check_mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if (3..=5).contains(&digits.len()) && mode <= 0o7777 => Ok(mode),
        _ => Err(format!("`{text}` is not a mode: write three or four octal digits, like \"0700\"")),
    }
}

/// A path of the virtual machine: there is no home directory and no state file there for it to be relative to.
fn guest_path(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') {
        true => Ok(PathBuf::from(text)),
        false => {
            Err(format!("`{text}` is not an absolute path: with `runtime.lima`, a mount's source is in the machine"))
        }
    }
}

pub(super) fn check_target(target: &str) -> Result<String, String> {
    if !target.starts_with('/') {
        return Err(format!("`{target}` is not an absolute path in the container"));
    }
    if target.split('/').any(|part| part == ".." || part == ".") {
        return Err(format!("`{target}` has `.` or `..` in it: write the path itself"));
    }
    if target.contains(':') {
        return Err(format!("`{target}` has a colon, which Podman takes for the start of options"));
    }
    let parts: Vec<_> = target.split('/').filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(format!("`{target}` would hide the whole image: name a directory in it"));
    }
    Ok(format!("/{}", parts.join("/")))
}
