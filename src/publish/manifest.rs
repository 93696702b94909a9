//! A manifest from what lies in a dist directory, whole or by a slice that is merged into a baseline.

mod baseline;
mod document;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::bundle::{Bundle, BundleAgent, BundleError};
use super::dist::{self, DistError, Hashed};
use super::packing::Packing;
use crate::model::ids::clean;
use crate::model::labels::LAYERS_LIST;
use crate::model::{Arch, ArtifactKey, Manifest, ManifestError};
use baseline::Baseline;
use document::document;

/// Which part of the manifest is rebuilt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// All of it.
    Full,
    /// One agent. All else is the baseline's.
    Agent(String),
}

impl FromStr for Slice {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        match text.split_once(':') {
            None if text == "full" => Ok(Self::Full),
            Some(("agents", name)) if !name.is_empty() => Ok(Self::Agent(name.to_owned())),
            _ => Err(PublishError::UnknownSlice(clean(text, 100))),
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slice::Full => f.write_str("full"),
            Slice::Agent(name) => write!(f, "agents:{name}"),
        }
    }
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A tarball cannot be used.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// Tarballs, or their sidecars, are not there. The first of them.
    #[error("missing tarball inputs for {agent}/{arch}")]
    MissingInputs {
        /// Of which agent.
        agent: String,
        /// For which architecture.
        arch: Arch,
        /// The first file that is not there.
        path: PathBuf,
        /// How many more of agents and architectures lack theirs.
        more: usize,
    },
    /// Both would have the same name in the manifest.
    #[error("`{}` and `{}` are both there: which one is meant?", one.display(), other.display())]
    TwoTarballs {
        /// One of them.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// A slice is merged into something.
    #[error("--slice {0} requires --merge-from")]
    NoBaseline(Slice),
    /// There is no such slice.
    #[error("unknown slice: {0}")]
    UnknownSlice(String),
    /// The baseline is no manifest.
    #[error("the baseline {at} is not a manifest: {why}")]
    Baseline {
        /// Where it lies.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// What came of it is nothing that a fetcher could read.
    #[error("the manifest would be of no use: {0}")]
    Unreadable(#[from] ManifestError),
    /// `SOURCE_DATE_EPOCH` is none.
    #[error("$SOURCE_DATE_EPOCH is `{0}`: expected seconds since 1970")]
    SourceDate(String),
}

/// When a manifest is written: `SOURCE_DATE_EPOCH` (reproducible-builds.org) where that is set, else now.
///
/// # Errors
/// When the variable holds something else.
pub fn written_at(source_date_epoch: Option<&str>, now: SystemTime) -> Result<SystemTime, PublishError> {
    let Some(text) = source_date_epoch else { return Ok(now) };
    let wrong = || PublishError::SourceDate(clean(text, 100));
    let seconds = text.trim().parse::<u64>().map_err(|_| wrong())?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(wrong)
}

/// A tarball, with what is beside it.
#[derive(Debug, Clone)]
pub struct Tarball {
    /// Its architecture.
    pub arch: Arch,
    /// Its key.
    pub key: ArtifactKey,
    /// Where it lies.
    pub path: PathBuf,
    /// What it is.
    pub hashed: Hashed,
}

impl Tarball {
    /// The key of the list of its members, where there is one.
    pub fn layers_key(&self) -> Option<String> {
        self.hashed.layers.is_some().then(|| format!("{}{LAYERS_LIST}", self.key))
    }
}

/// What goes into a manifest: hashed, and compared with the sidecars.
#[derive(Debug)]
pub struct Inputs {
    bundle: Arc<Bundle>,
    slice: Slice,
    made: Vec<(BundleAgent, Vec<Tarball>)>,
}

impl Inputs {
    /// Hashes what a slice wants of a dist directory, once all of it is there.
    ///
    /// # Errors
    /// When anything is missing, or not right.
    pub fn read(bundle: Arc<Bundle>, dist_dir: &Path, slice: &Slice) -> Result<Self, PublishError> {
        let wanted: Vec<&BundleAgent> = match slice {
            Slice::Full => bundle.agents.iter().collect(),
            Slice::Agent(name) => vec![bundle.agent(name)?],
        };
        let made = hash_all(&wanted, dist_dir)?;
        Ok(Self { bundle, slice: slice.clone(), made })
    }

    /// The tarballs.
    pub fn tarballs(&self) -> impl Iterator<Item = &Tarball> {
        self.made.iter().flat_map(|(_, tarballs)| tarballs)
    }

    /// Makes the manifest's bytes: two-space-indented JSON with a final newline. `baseline` says where the manifest lies that a
    /// slice is merged into, and what it holds; without one, there is nothing but the slice.
    ///
    /// # Errors
    /// When the baseline is none, or what comes of it is nothing that a fetcher could read.
    pub fn manifest(&self, baseline: Option<(&str, &[u8])>, written_at: SystemTime) -> Result<Vec<u8>, PublishError> {
        let baseline = match (&self.slice, baseline) {
            (Slice::Agent(_), Some((at, bytes))) => Some(Baseline::parse(at, bytes)?),
            _ => None,
        };
        let bytes = document(&self.bundle, &self.made, baseline, written_at);
        // Read as every fetcher will.
        let manifest = Manifest::parse(&bytes)?;
        for (agent, tarballs) in &self.made {
            for tarball in tarballs {
                manifest.artifact(agent.name.as_str(), tarball.arch)?;
            }
        }
        Ok(bytes)
    }

    /// Whether a manifest names all that is here, as it is.
    pub fn stand_in(&self, manifest: &Manifest) -> bool {
        self.made.iter().all(|(agent, tarballs)| {
            let named = manifest.agent(agent.name.as_str());
            named.is_ok_and(|named| (&named.image, &named.version) == (&agent.image, &agent.version))
                && tarballs.iter().all(|tarball| {
                    let named = manifest.artifact(agent.name.as_str(), tarball.arch);
                    named.is_ok_and(|named| (named.key, named.sha256) == (tarball.key.clone(), tarball.hashed.sha256))
                })
        })
    }
}

/// Makes a manifest of what lies in a dist directory, see [`Inputs::manifest`].
///
/// # Errors
/// When anything that it would name is not there or not right. Nothing is written.
pub fn manifest(
    bundle: Arc<Bundle>,
    dist_dir: &Path,
    slice: &Slice,
    baseline: Option<(&str, &[u8])>,
    written_at: SystemTime,
) -> Result<Vec<u8>, PublishError> {
    match (slice, baseline) {
        (Slice::Agent(_), None) => return Err(PublishError::NoBaseline(slice.clone())),
        // Before much is hashed for nothing.
        (Slice::Agent(name), Some((at, bytes))) => {
            bundle.agent(name)?;
            Baseline::parse(at, bytes)?;
        }
        (Slice::Full, _) => {}
    }
    Inputs::read(bundle, dist_dir, slice)?.manifest(baseline, written_at)
}

/// Hashes what is wanted of the dist directory, once all of it is there.
fn hash_all(wanted: &[&BundleAgent], dist_dir: &Path) -> Result<Vec<(BundleAgent, Vec<Tarball>)>, PublishError> {
    let inputs = wanted.iter().flat_map(|agent| Arch::ALL.map(|arch| Input::find(agent, arch, dist_dir)));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let mut missing = Vec::new();
    for input in &inputs {
        missing.extend(input.lacks()?.map(|path| (input, path)));
    }
    if let Some((input, path)) = missing.first() {
        let (agent, path) = (input.agent.name.to_string(), path.clone());
        return Err(PublishError::MissingInputs { agent, arch: input.arch, path, more: missing.len() - 1 });
    }
    let paths: Vec<_> = inputs.iter().map(|input| input.path.clone()).collect();
    let hashed = dist::verified_all(&paths)?;
    let mut made: Vec<(BundleAgent, Vec<Tarball>)> = Vec::new();
    for (Input { agent, arch, packing, path }, hashed) in inputs.into_iter().zip(hashed) {
        let tarball = Tarball { arch, key: agent.key(arch, packing), path, hashed };
        match made.last_mut() {
            Some((last, tarballs)) if last.name == agent.name => tarballs.push(tarball),
            _ => made.push((agent.clone(), vec![tarball])),
        }
    }
    Ok(made)
}

/// A tarball that is wanted.
pub(super) struct Input<'b> {
    pub(super) agent: &'b BundleAgent,
    pub(super) arch: Arch,
    pub(super) packing: Packing,
    pub(super) path: PathBuf,
}

impl<'b> Input<'b> {
    /// The one that is there, however it is packed; else the one that could be.
    pub(super) fn find(agent: &'b BundleAgent, arch: Arch, dist_dir: &Path) -> Result<Self, PublishError> {
        let place = |packing| (packing, dist::tarball_path(dist_dir, agent, arch, packing));
        let mut there = Vec::new();
        for (packing, path) in Packing::ALL.map(place) {
            if is_there(&path)? {
                there.push((packing, path));
            }
        }
        match <[_; 2]>::try_from(there) {
            Ok([(_, one), (_, other)]) => Err(PublishError::TwoTarballs { one, other }),
            Err(there) => {
                let (packing, path) = there.into_iter().next().unwrap_or_else(|| place(Packing::default()));
                Ok(Self { agent, arch, packing, path })
            }
        }
    }

    /// The first file of it that is not there.
    pub(super) fn lacks(&self) -> Result<Option<PathBuf>, PublishError> {
        for path in [self.path.clone(), dist::sidecar_path(&self.path)] {
            if !is_there(&path)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }
}

/// What may not be looked at is not said to be missing.
fn is_there(path: &Path) -> Result<bool, PublishError> {
    path.try_exists().map_err(|err| DistError::Unreadable { path: path.to_owned(), err }.into())
}

#[cfg(test)]
mod tests;
