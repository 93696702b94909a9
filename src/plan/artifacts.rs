//! Which tarballs are wanted, and which of them must be fetched. The manifest is written once they are there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, ActionKind, Note, Plan, Reason, Waiting, WaitingOn};
use crate::model::wanted::{ManifestCause, resolve_artifact};
use crate::model::{Agent, AgentName, AgentState, Artifact, Desired, ImageSource, Observed, Seen, Version};

/// What became of the artifact each agent runs from.
pub(super) enum Fetched {
    /// Its bytes are in the cache and proved.
    Cached(Artifact),
    /// A step of this plan fetches it.
    Coming(Artifact),
    /// It cannot be told or had.
    Blocked(WaitingOn),
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
        let Ok(offer) = published.agent(agent.artifact_name(name).as_str()) else { continue };
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
