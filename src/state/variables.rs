//! Variables that a command gets: from an `env` mapping, and from env files.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use super::decode::{At, Cx, Entry, Path, Table};
use super::document::{OneOrMany, Pairs};
use super::env_file;
use super::problem::Draft;
use super::resolve::file_path;
use super::scalar::{Loose, Str, Word};
use super::tree::NodeId;
use crate::model::Text;
use crate::model::text::{names_a_secret, url_with_password};

/// The most bytes all agents of a file may take from env files together.
const MAX_ENV_BYTES: usize = 64 * 1024 * 1024;

type Variables = Arc<Vec<(String, String)>>;

/// The env files read so far: a file that many agents name is read once.
#[derive(Debug, Default)]
pub(super) struct EnvFiles {
    /// With where it was named first. `None`: it is broken, and that was reported.
    read: BTreeMap<PathBuf, (NodeId, Option<Variables>)>,
    bytes: usize,
    /// What is looked at is no agent's: its files are not looked for.
    pub(super) unread: bool,
}

impl EnvFiles {
    /// Every path that was looked at.
    pub(super) fn into_paths(self) -> Vec<PathBuf> {
        self.read.into_keys().collect()
    }

    /// Each path that was looked at, and where the state file names it first.
    pub(super) fn named(&self) -> impl Iterator<Item = (&FilePath, NodeId)> {
        self.read.iter().map(|(file, (node, _))| (file.as_path(), *node))
    }

    /// A path that came `from_env` may hold a secret like any such value: errors tell it as it was written.
    fn get(
        &mut self,
        cx: &mut Cx<'_>,
        node: NodeId,
        from_env: bool,
        path: Path<'_>,
        file: PathBuf,
    ) -> Option<Variables> {
        if self.unread {
            return None;
        }
        if let Some((_, read)) = self.read.get(&file) {
            return read.clone();
        }
        let span = cx.tree.span(node);
        let written = cx.tree.text(node);
        let draft = |wrong: env_file::Wrong| {
            let draft = |message: String| Draft::at(span.clone(), path.to_string(), message);
            let draft = match wrong.at {
                Some((line, _)) if from_env => draft(format!("line {line} of `{written}`: {}", wrong.message)),
                Some(at) => draft(wrong.message).elsewhere(&file, at),
                None if from_env => draft(wrong.message.replace(&file.display().to_string(), written)),
                None => draft(wrong.message),
            };
            match wrong.help {
                Some(help) => draft.help(help),
                None => draft,
            }
        };
        let variables = match env_file::read(&file) {
            Ok(read) => {
                read.warnings.into_iter().for_each(|warning| cx.problems.warn(draft(warning)));
                Some(Arc::new(read.variables))
            }
            Err(wrong) => {
                wrong.into_iter().for_each(|wrong| cx.problems.add(draft(wrong)));
                None
            }
        };
        self.read.insert(file, (node, variables.clone()));
        variables
    }
}

/// A string of the file as the model keeps it.
pub(super) fn text(string: Str, secret: bool) -> Text {
    if string.from_env || secret || url_with_password(&string.value).is_some() {
        Text::sensitive(string.value)
    } else {
        Text::plain(string.value)
    }
}

/// The variables of a container: those of its env files, of which later ones win, and its own, which win over all.
pub(super) fn of_container(
    cx: &mut Cx<'_>,
    env_files: &mut EnvFiles,
    entries: Option<At<Pairs>>,
    files: Option<At<OneOrMany<Word>>>,
    path: Path<'_>,
) -> BTreeMap<String, Text> {
    let mut env = Vec::new();
    let files_path = path.key("envFile");
    for (index, file) in files.iter().flat_map(|files| &files.value.0.0) {
        let is_list = files.as_ref().is_some_and(|files| files.node != file.node);
        let path = if is_list { files_path.index(*index) } else { files_path };
        let Some(file_path) = file_path(cx, file, path) else { continue };
        let Some(variables) = env_files.get(cx, file.node, file.value.0.from_env, path, file_path) else { continue };
        env_files.bytes += variables.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if env_files.bytes > MAX_ENV_BYTES {
            let most = crate::sizes::limit(MAX_ENV_BYTES);
            cx.wrong(file.node, path, format!("the env files of all agents together are larger than {most}"));
        } else {
            env.extend(variables.iter().map(|(name, value)| (name.clone(), Text::sensitive(value))));
        }
    }
    let entries = entries.map(|At { node, value: Pairs(table) }| At { node, value: table });
    env.extend(read(cx, entries, path.key("env")));
    // The last of a name wins. Built in one go the map takes half the memory of one that grew.
    env.into_iter().collect()
}

/// The variables of an `env` mapping, in its order.
pub(super) fn read(
    cx: &mut Cx<'_>,
    entries: Option<At<Table<Loose>>>,
    path: Path<'_>,
) -> impl Iterator<Item = (String, Text)> + use<> {
    let entries = entries.map(|table| table.value.0).unwrap_or_default();
    for entry in &entries {
        if is_secret(entry) && !entry.at.value.0.from_env {
            cx.problems.mask(cx.tree.span(entry.at.node));
        }
        if !env_file::is_name(&entry.name) {
            let message =
                "a variable's name has letters, digits, `_`, `.` and `-` only, and does not start with a digit";
            cx.wrong(entry.key, path.key(&entry.name), message);
        }
    }
    entries.into_iter().map(|entry| {
        let secret = is_secret(&entry);
        (entry.name, text(entry.at.value.0, secret))
    })
}

fn is_secret(entry: &Entry<Loose>) -> bool {
    names_a_secret(&entry.name) || url_with_password(&entry.at.value.0.value).is_some()
}
