//! Which tarballs are wanted, and which of them must be fetched. The manifest is written once they are there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, ActionKind, ManifestCause, Note, Plan, Reason, Waiting, WaitingOn, effective_manifest};
use crate::model::{
    Agent, AgentName, AgentState, Arch, Artifact, ArtifactKey, CachedArtifact, Desired, ImageSource, ManifestError,
    Observed, Owner, Seen, Sha256Digest, Version,
};

/// What became of the artifact each agent runs from.
pub(super) enum Fetched {
    /// Its bytes are in the cache and proved.
    Cached(Artifact),
    /// A step of this plan fetches it.
    Coming(Artifact),
    /// It cannot be told or had.
    Blocked(WaitingOn),
}

/// The artifact that is meant by an agent's version for one architecture.
///
/// Looked for in the published manifest, then in the last good one, so that a pinned version survives the publisher
/// moving on. An older version that neither offers is still known by the agent's own `sha256` pin, by the label of the
/// container that runs from it, or by the cache's index.
///
/// # Errors
/// Why nothing offers it.
pub fn resolve_artifact(
    name: &AgentName,
    agent: &Agent,
    arch: Arch,
    observed: &Observed,
) -> Result<Artifact, ManifestCause> {
    let found = offered(name, agent, arch, observed)
        .or_else(|refusal| remembered(name, agent, arch, observed).ok_or(refusal))?;
    found.pinned_by(&agent.pins, name, arch).map_err(|err| match err {
        ManifestError::Pinned { offered, pinned, .. } => {
            ManifestCause::Pinned { agent: name.clone(), arch, offered, pinned }
        }
        err => ManifestCause::NotOffered { why: err.to_string() },
    })
}

fn offered(name: &AgentName, agent: &Agent, arch: Arch, observed: &Observed) -> Result<Artifact, ManifestCause> {
    let mut refusal = None;
    for manifest in [observed.published.present(), observed.local.present()].into_iter().flatten() {
        match manifest.select(name, &agent.version, arch) {
            Ok(artifact) => return Ok(artifact),
            Err(err) => refusal = refusal.or(Some(ManifestCause::NotOffered { why: err.to_string() })),
        }
        if agent.version == Version::Latest {
            break;
        }
    }
    Err(refusal.unwrap_or_else(|| ManifestCause::none(agent, observed)))
}

/// A version that nothing offers any more can be kept as long as its file is there; it could not be fetched again.
fn remembered(name: &AgentName, agent: &Agent, arch: Arch, observed: &Observed) -> Option<Artifact> {
    let Version::Exact(version) = &agent.version else { return None };
    let files = observed.artifacts.present()?;
    let known = agent.pins.get(&arch).copied().or_else(|| labelled(name, version, observed));
    // A file that is proved to hold what is meant, else the first of that name, which is then fetched again or refused.
    let files: Vec<_> = files_of(name.as_str(), version, arch, files).collect();
    let proved = files.iter().find(|(_, file)| known.is_some() && file.digest == known);
    let (key, file) = proved.or(files.first())?;
    // The label before the file's own bytes: these prove only that they are what they are.
    Some(Artifact { key: (*key).clone(), sha256: known.or(file.digest)?, size_bytes: file.size, layers: None })
}

/// The files of this version, whatever their names end in.
pub fn files_of<'a>(
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

pub(super) fn plan(
    desired: &Desired,
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    plan: &mut Plan,
) -> BTreeMap<AgentName, Fetched> {
    let mut outcomes = BTreeMap::new();
    let mut planned = BTreeSet::new();
    let empty = BTreeMap::new();
    let cached = match &observed.artifacts {
        Seen::Present(cached) => Ok(cached),
        Seen::Absent => Ok(&empty),
        Seen::Unknown { why } => Err(why),
    };
    for &(name, agent) in active {
        if agent.source != ImageSource::Manifest || agent.state == AgentState::Absent {
            continue;
        }
        let run_arch = agent.run_arch(desired.host_arch);
        for &arch in &agent.arches {
            let runs = arch == run_arch;
            let artifact = match resolve_artifact(name, agent, arch, observed) {
                Ok(artifact) => artifact,
                Err(cause) if runs => {
                    blocked(name, WaitingOn::Manifest { cause }, &mut outcomes, plan);
                    continue;
                }
                Err(cause) => {
                    plan.notes.push(Note::ArchMissing { agent: name.clone(), why: cause.to_string() });
                    continue;
                }
            };
            let cached = match cached {
                Ok(cached) => artifact.find_in(cached).map(|(_, file)| file),
                Err(why) => {
                    if runs {
                        blocked(name, WaitingOn::Sight { why: why.clone() }, &mut outcomes, plan);
                    }
                    continue;
                }
            };
            let reason = match cached {
                Some(cached) if cached.digest == Some(artifact.sha256) => {
                    if runs {
                        outcomes.insert(name.clone(), Fetched::Cached(artifact));
                    }
                    continue;
                }
                Some(_) => Reason::WrongBytes,
                None => Reason::NotCached,
            };
            let Some(from) = desired.manifest.as_ref().map(|manifest| manifest.artifact(&artifact.key)) else {
                let cause = ManifestCause::NotConfigured { help: agent.no_manifest() };
                if runs {
                    blocked(name, WaitingOn::Manifest { cause }, &mut outcomes, plan);
                } else {
                    plan.notes.push(Note::ArchMissing { agent: name.clone(), why: cause.to_string() });
                }
                continue;
            };
            if planned.insert(artifact.key.clone()) {
                let transfer = observed.transfers.get(&artifact.key).copied().unwrap_or(artifact.size_bytes);
                let action = Action::FetchArtifact { artifact: artifact.clone(), from, transfer };
                plan.step(name.clone(), action, reason);
            }
            if runs {
                outcomes.insert(name.clone(), Fetched::Coming(artifact));
            }
        }
    }
    plan_manifest(desired, observed, active, plan);
    outcomes
}

fn blocked(name: &AgentName, on: WaitingOn, outcomes: &mut BTreeMap<AgentName, Fetched>, plan: &mut Plan) {
    plan.waiting.push(Waiting {
        agent: Some(name.clone()),
        kind: ActionKind::FetchArtifact,
        target: name.to_string(),
        reason: Reason::NotCached,
        on: on.clone(),
    });
    outcomes.insert(name.clone(), Fetched::Blocked(on));
}

/// The local manifest is "the last whose artifacts are all present": it follows the published one, after them. Agents
/// that want nothing of it hold it up no more than those it does not offer; one that is left alone this time does.
fn plan_manifest(desired: &Desired, observed: &Observed, active: &[(&AgentName, &Agent)], plan: &mut Plan) {
    let (Some(published), Some(cached)) = (observed.published.present(), observed.artifacts.present()) else { return };
    let reason = match &observed.local {
        Seen::Present(local) if local == published && !local.is_pending => return,
        Seen::Present(_) => Reason::ManifestChanged,
        Seen::Absent => Reason::ManifestMissing,
        Seen::Unknown { .. } => return,
    };
    let mut wants_any = false;
    let mut missing = None;
    for (name, agent) in &desired.agents {
        if agent.source != ImageSource::Manifest || agent.state == AgentState::Absent {
            continue;
        }
        let Ok(offer) = published.agent(name.as_str()) else { continue };
        if matches!(&agent.version, Version::Exact(version) if *version != offer.version) {
            continue;
        }
        // One that cannot be told, or not be trusted, is nothing this manifest brings.
        for artifact in agent.arches.iter().filter_map(|arch| resolve_artifact(name, agent, *arch, observed).ok()) {
            wants_any = true;
            if artifact.is_in(cached) {
                continue;
            }
            if !active.iter().any(|(active, _)| *active == name) {
                return;
            }
            missing = missing.or(Some(artifact.key));
        }
    }
    let action = Action::SyncManifest { manifest: Box::new(published.clone()), from: desired.manifest.clone() };
    match missing {
        Some(key) => plan.wait(None, &action, reason, WaitingOn::Artifact { key }),
        None if wants_any => plan.step(None, action, reason),
        None => {}
    }
}

fn not_offered(err: &ManifestError) -> WaitingOn {
    WaitingOn::Manifest { cause: ManifestCause::NotOffered { why: err.to_string() } }
}

/// The image repository an agent runs from: its own, else the manifest's.
pub(super) fn repository(name: &AgentName, agent: &Agent, observed: &Observed) -> Result<String, WaitingOn> {
    if let Some(image) = &agent.image {
        return Ok(image.clone());
    }
    let manifest = effective_manifest(observed)
        .ok_or_else(|| WaitingOn::Manifest { cause: ManifestCause::none(agent, observed) })?;
    match manifest.agent(name.as_str()) {
        Ok(offer) => Ok(offer.image.clone()),
        Err(err) => Err(not_offered(&err)),
    }
}

/// The version an agent runs at, with `latest` resolved.
pub(super) fn version(name: &AgentName, agent: &Agent, observed: &Observed) -> Result<String, WaitingOn> {
    match (&agent.version, agent.source) {
        (Version::Exact(version), _) => Ok(version.clone()),
        (Version::Latest, ImageSource::Registry | ImageSource::Local) => Ok("latest".to_owned()),
        (Version::Latest, ImageSource::Manifest) => {
            let manifest = effective_manifest(observed)
                .ok_or_else(|| WaitingOn::Manifest { cause: ManifestCause::none(agent, observed) })?;
            match manifest.agent(name.as_str()) {
                Ok(offer) => Ok(offer.version.clone()),
                Err(err) => Err(not_offered(&err)),
            }
        }
    }
}
