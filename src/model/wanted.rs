//! What is wanted, read in the light of what was seen: which manifest counts, which artifact and which image an agent's
//! version means, and who gave an image its name.
//!
//! Nothing is decided here. An observation asks it what is worth a closer inspection, and the plan goes by it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{
    Agent, AgentName, AgentState, Arch, Artifact, ArtifactKey, CachedArtifact, Desired, Guest, ImageId, ImageRef,
    ImageSource, Manifest, ManifestError, NO_MANIFEST, Observed, Owner, Seen, Sha256Digest, Version, Wanted,
};

/// Why no manifest offers what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestCause {
    /// None is configured.
    NotConfigured {
        /// What to write.
        help: String,
    },
    /// It could not be fetched or used, and there is no earlier one.
    Unseen {
        /// Why.
        why: String,
    },
    /// It offers something else.
    NotOffered {
        /// What is missing.
        why: String,
    },
    /// What it offers is not what the state file pins.
    Pinned {
        /// Whose tarball, as the manifest calls it.
        agent: AgentName,
        /// For which architecture.
        arch: Arch,
        /// What it offers.
        offered: Sha256Digest,
        /// What is pinned.
        pinned: Sha256Digest,
    },
    /// What it offers is no image that could be asked for.
    NoReference {
        /// Why.
        why: String,
    },
}

impl ManifestCause {
    /// That no manifest was seen, for an agent that needs one.
    fn none(agent: &Agent, observed: &Observed) -> Self {
        match observed.published.unknown() {
            Some(why) => Self::Unseen { why: why.to_owned() },
            None => Self::NotConfigured { help: agent.no_manifest() },
        }
    }
}

impl fmt::Display for ManifestCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured { help } => write!(f, "{NO_MANIFEST}: {help}"),
            Self::Unseen { why } | Self::NotOffered { why } | Self::NoReference { why } => f.write_str(why),
            Self::Pinned { agent, arch, offered, pinned } => {
                write!(
                    f,
                    "the manifest's {arch} tarball of `{agent}` has sha256 {offered}, the state file pins {pinned}"
                )
            }
        }
    }
}

/// The manifest that counts: the published one, else the last good one.
pub(crate) fn effective_manifest(observed: &Observed) -> Option<&Manifest> {
    observed.published.present().or(observed.local.present())
}

/// The artifacts that are wanted in the cache, as far as they can be told.
pub(crate) fn wanted_artifacts(desired: &Desired, observed: &Observed) -> Vec<Wanted> {
    let mut seen = BTreeMap::<ArtifactKey, ()>::new();
    let mut wanted = Vec::new();
    for (name, agent) in &desired.agents {
        if agent.source != ImageSource::Manifest || agent.state == AgentState::Absent {
            continue;
        }
        for &arch in &agent.arches {
            let Ok(artifact) = resolve_artifact(name, agent, arch, observed) else { continue };
            if seen.insert(artifact.key.clone(), ()).is_none() {
                wanted.push(Wanted { agent: name.clone(), arch, artifact });
            }
        }
    }
    wanted
}

/// The artifact that is meant by an agent's version for one architecture.
///
/// Looked for in the published manifest, then in the last good one, so that a pinned version survives the publisher
/// moving on. An older version that neither offers is still known by the agent's own `sha256` pin, by the label of the
/// container that runs from it, or by the cache's index.
///
/// # Errors
/// Why nothing offers it.
pub(crate) fn resolve_artifact(
    name: &AgentName,
    agent: &Agent,
    arch: Arch,
    observed: &Observed,
) -> Result<Artifact, ManifestCause> {
    let found = offered(name, agent, arch, observed)
        .or_else(|refusal| remembered(name, agent, arch, observed).ok_or(refusal))?;
    let artifact = agent.artifact_name(name);
    found.pinned_by(&agent.pins, artifact, arch).map_err(|err| match err {
        ManifestError::Pinned { offered, pinned, .. } => {
            ManifestCause::Pinned { agent: artifact.clone(), arch, offered, pinned }
        }
        err => not_offered(&err),
    })
}

fn offered(name: &AgentName, agent: &Agent, arch: Arch, observed: &Observed) -> Result<Artifact, ManifestCause> {
    let mut refusal = None;
    for manifest in [observed.published.present(), observed.local.present()].into_iter().flatten() {
        match manifest.select(agent.artifact_name(name), &agent.version, arch) {
            Ok(artifact) => return Ok(artifact),
            Err(err) => refusal = refusal.or(Some(not_offered(&err))),
        }
        if agent.version == Version::Latest {
            break;
        }
    }
    Err(refusal.unwrap_or_else(|| ManifestCause::none(agent, observed)))
}

fn not_offered(err: &ManifestError) -> ManifestCause {
    ManifestCause::NotOffered { why: err.to_string() }
}

/// A version that nothing offers any more can be kept as long as its file is there; it could not be fetched again.
fn remembered(name: &AgentName, agent: &Agent, arch: Arch, observed: &Observed) -> Option<Artifact> {
    let Version::Exact(version) = &agent.version else { return None };
    let files = observed.artifacts.present()?;
    let own: Vec<_> = files_of(agent.artifact_name(name).as_str(), version, arch, files).collect();
    // A container may still run from what the agent was made from under another name.
    let is_other = |digest: &Sha256Digest| {
        let holds = |file: &CachedArtifact| file.digest == Some(*digest);
        files.values().any(holds) && !own.iter().any(|(_, file)| holds(file))
    };
    let labelled = || labelled(name, version, observed).filter(|digest| agent.artifact.is_none() || !is_other(digest));
    let known = agent.pins.get(&arch).copied().or_else(labelled);
    // A file that is proved to hold what is meant, else the first of that name, which is then fetched again or refused.
    let files = own;
    let proved = files.iter().find(|(_, file)| known.is_some() && file.digest == known);
    let (key, file) = proved.or(files.first())?;
    // The label before the file's own bytes: these prove only that they are what they are.
    Some(Artifact { key: (*key).clone(), sha256: known.or(file.digest)?, size_bytes: file.size, layers: None })
}

/// The files of this version, whatever their names end in.
pub(crate) fn files_of<'a>(
    agent: &str,
    version: &str,
    arch: Arch,
    files: &'a BTreeMap<ArtifactKey, CachedArtifact>,
) -> impl Iterator<Item = (&'a ArtifactKey, &'a CachedArtifact)> + use<'a> {
    let stem = format!("{agent}-{version}");
    files.iter().filter(move |(key, _)| key.version_and_arch() == Some((stem.as_str(), arch)))
}

fn labelled(name: &AgentName, version: &str, observed: &Observed) -> Option<Sha256Digest> {
    observed.guest.present()?.containers.values().find_map(|container| match &container.owner {
        Owner::Ours { agent: Some(agent), spec: Some(spec), .. } if agent == name => {
            let image = spec.image()?;
            image.ends_with(&format!(":{version}")).then_some(spec.artifact).flatten()
        }
        _ => None,
    })
}

/// The image repository an agent runs from: its own, else the manifest's.
fn repository(name: &AgentName, agent: &Agent, observed: &Observed) -> Result<String, ManifestCause> {
    if let Some(image) = &agent.image {
        return Ok(image.clone());
    }
    let manifest = effective_manifest(observed).ok_or_else(|| ManifestCause::none(agent, observed))?;
    match manifest.agent(agent.artifact_name(name).as_str()) {
        Ok(offer) => Ok(offer.image.clone()),
        Err(err) => Err(not_offered(&err)),
    }
}

/// The version an agent runs at, with `latest` resolved.
fn version(name: &AgentName, agent: &Agent, observed: &Observed) -> Result<String, ManifestCause> {
    match (&agent.version, agent.source) {
        (Version::Exact(version), _) => Ok(version.clone()),
        (Version::Latest, ImageSource::Registry | ImageSource::Local) => Ok("latest".to_owned()),
        (Version::Latest, ImageSource::Manifest) => {
            let manifest = effective_manifest(observed).ok_or_else(|| ManifestCause::none(agent, observed))?;
            match manifest.agent(agent.artifact_name(name).as_str()) {
                Ok(offer) => Ok(offer.version.clone()),
                Err(err) => Err(not_offered(&err)),
            }
        }
    }
}

/// The full name of the image an agent runs.
///
/// # Errors
/// Why nothing offers it.
pub(crate) fn wanted_image(name: &AgentName, agent: &Agent, observed: &Observed) -> Result<ImageRef, ManifestCause> {
    let repository = repository(name, agent, observed)?;
    let version = version(name, agent, observed)?;
    ImageRef::join(&repository, &version)
        .map(|reference| reference.qualified())
        .map_err(|err| ManifestCause::NoReference { why: err.to_string() })
}

/// Who gave a name to the image that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NamedBy {
    /// It was loaded for it, or a container of ours was made from it under that name.
    Us,
    /// An agent of another state file is made from it.
    AnotherFile,
    /// Nobody that is known here.
    Somebody,
}

pub(crate) fn named_by(image: &ImageId, reference: &ImageRef, guest: &Guest, observed: &Observed) -> NamedBy {
    let was_loaded = observed.loaded.get(image).is_some_and(|loaded| loaded.reference == *reference);
    if was_loaded || made_under(image, reference, guest) {
        NamedBy::Us
    } else if observed.others.contains(image) {
        NamedBy::AnotherFile
    } else {
        NamedBy::Somebody
    }
}

/// Images that have the name of a tarball's image, and were not given it here: whose they are is to be found out.
pub(crate) fn misnamed(desired: &Desired, observed: &Observed) -> BTreeSet<ImageId> {
    let Seen::Present(guest) = &observed.guest else { return BTreeSet::new() };
    let wanted = desired
        .agents
        .iter()
        .filter(|(_, agent)| agent.source == ImageSource::Manifest && agent.state != AgentState::Absent);
    let found = wanted.filter_map(|(name, agent)| {
        let reference = wanted_image(name, agent, observed).ok().filter(|reference| !reference.is_digest())?;
        let image = guest.images.get(&reference)?;
        let is_used = guest.image_store.get(image).is_none_or(|state| state.containers != Some(0));
        (is_used && named_by(image, &reference, guest, observed) == NamedBy::Somebody).then(|| image.clone())
    });
    found.collect()
}

/// Whether a container of ours was made from a tarball's image under this name.
pub(crate) fn made_under(image: &ImageId, reference: &ImageRef, guest: &Guest) -> bool {
    guest.containers.values().any(|container| match &container.owner {
        Owner::Ours { spec: Some(spec), .. } => {
            spec.artifact.is_some() && container.image == *image && spec.image() == Some(reference.as_str())
        }
        Owner::Ours { .. } | Owner::Foreign(_) => false,
    })
}
