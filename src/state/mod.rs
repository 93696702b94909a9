//! The state file: YAML in, [`Desired`] out, or every problem of the file at once.
//!
//! ```text
//! bytes ──read──▶ Input ──tree──▶ positions ──layers──▶ positions ──decode──▶ document ──resolve──▶ Desired
//! ```
//!
//! `tree` alone knows YAML, `layers` what lies on what, `decode` and `document` what the fields look like, `resolve` what they mean together.
//! `watch` tells when any of it changes. What to do about it belongs elsewhere.

mod agents;
mod config;
mod container;
mod decode;
mod document;
mod env_file;
mod exposure;
mod identity;
mod layers;
mod ports;
mod problem;
mod read;
mod record;
mod resolve;
mod rollout;
mod scalar;
mod schema;
mod sessions;
mod shared;
mod snippet;
mod source;
mod starter;
mod substitute;
mod syntax;
mod template;
mod tree;
mod variables;
pub(crate) mod watch;
mod words;
mod workspaces;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::{Arch, Desired, HostKey};

pub(crate) use agents::{check_repository, check_version};
pub use config::Config;
pub use identity::identity;
pub use problem::{Invalid, Problem, ReadError, StateError};
pub use read::{Input, is_handed_over, read};
pub(crate) use schema::generate as generate_schema;
pub use schema::{manifest_schema, pretty, schema};
pub use starter::{name_after, starter};

/// The most bytes of a state file (16 MiB).
pub const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What a state file is resolved against, beside itself.
pub struct Context<'a> {
    /// The process environment.
    pub vars: BTreeMap<String, String>,
    /// From `--root`; wins over the file's `root`, which wins over `$STEADFAST_ROOT` and `~/.steadfast`.
    pub root: Option<PathBuf>,
    /// From `--manifest-url`; wins over the file's `manifest.url`, which wins over `$STEADFAST_MANIFEST_URL`.
    pub manifest_url: Option<String>,
    /// This machine's architecture.
    pub host_arch: Arch,
    /// The key for hashing sensitive values, from the resolved root. Asked only when the file is valid.
    pub key: &'a dyn Fn(&Path) -> HostKey,
}

/// A state file that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What it wants.
    pub desired: Desired,
    /// Absolute paths of the env files it names, for who watches them. Sorted, each once.
    pub env_files: Vec<PathBuf>,
    /// What is valid and probably not meant, in the order of the file.
    pub warnings: Vec<Problem>,
}

/// Parses, checks and resolves a state file. Reads the env files and the Lima template it names, and nothing else; where the
/// directories lead that agents can write to, it looks.
///
/// # Errors
/// [`StateError::Invalid`] with every problem of the file.
pub fn load(input: &Input, context: &Context<'_>) -> Result<Loaded, StateError> {
    load_all(std::slice::from_ref(input), context)
}

/// As [`load`], of several files, each merged upon those before it: mappings merge, lists and all else replace. Paths in each
/// are relative to it, and each problem points into the file that it is in.
///
/// # Errors
/// As [`load`].
pub fn load_all(inputs: &[Input], context: &Context<'_>) -> Result<Loaded, StateError> {
    read_all(inputs, context, false).map(|(loaded, _)| loaded)
}

/// As [`load_all`], and what the files come to: merged, with all that agents take up under each of them.
///
/// # Errors
/// As [`load`].
pub fn expand(inputs: &[Input], context: &Context<'_>) -> Result<(Loaded, Config), StateError> {
    let (loaded, config) = read_all(inputs, context, true)?;
    Ok((loaded, config.unwrap_or_default()))
}

fn read_all(inputs: &[Input], context: &Context<'_>, is_written: bool) -> Result<(Loaded, Option<Config>), StateError> {
    let sources = source::Sources::of(inputs)?;
    let mut problems = problem::Problems::default();
    let parsed = tree::Tree::parse_all(&sources, &mut problems);
    let whole = parsed.and_then(|(tree, roots)| {
        let tree = layers::merge_files(tree, &roots, &sources, &mut problems)?;
        Some(layers::inherit(tree, &roots, &context.vars, &mut problems))
    });
    let Some((tree, inherited)) = whole else { return Err(problems.into_error(&sources, false).into()) };
    problems.set_inherited(inherited);
    let mut cx = decode::Cx::new(&tree, &sources, &context.vars, problems);
    cx.written = is_written.then(config::Written::default);
    let loaded = resolve::resolve(&mut cx, context);
    match loaded {
        Some(loaded) if cx.problems.is_empty() => {
            let config = cx.written.take().map(|written| Config::of(&cx, &written));
            Ok((Loaded { warnings: cx.problems.into_warnings(&sources), ..loaded }, config))
        }
        _ => Err(cx.problems.into_error(&sources, true).into()),
    }
}

/// The environment variables that state files refer to, and whether they can do without each: whether every reference has
/// a default. A file that is broken refers to none.
pub fn variables(inputs: &[Input]) -> BTreeMap<String, bool> {
    let mut variables = BTreeMap::new();
    for input in inputs {
        let Some(tree) = tree::Tree::parse(&input.text, &mut problem::Problems::default()) else { continue };
        for (name, has_default) in tree.scalars().flat_map(substitute::references) {
            *variables.entry(name.to_owned()).or_insert(true) &= has_default;
        }
    }
    variables
}

/// Where the root is when no state file is read: `root` (from `--root`), else `$STEADFAST_ROOT`, else `~/.steadfast`.
/// `None` when the home directory is needed and `$HOME` is not set.
pub fn default_root(root: Option<&Path>, vars: &BTreeMap<String, String>) -> Option<PathBuf> {
    resolve::root_without_file(root, vars)
}
