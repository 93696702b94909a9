//! One look at everything: cache, manifest and Podman side by side.
//!
//! It cannot fail as a whole. What could not be looked at is `Unknown` with its reason, and blinds one branch only.

use std::collections::BTreeMap;

use crate::backend::{Engine, Look, Store, StoreError, World};
use crate::error::Chain;
use crate::model::{AgentState, Desired, ImageSource, Manifest, Observed, Seen};
use crate::plan::wanted_artifacts;

/// What the published manifest was when it was looked at, and whether it can be used at all.
#[derive(Debug, Clone)]
pub struct Published {
    /// The manifest.
    pub manifest: Seen<Manifest>,
    /// It was there and is not a manifest this build can use.
    pub invalid: bool,
}

/// Looks at the manifest at its published place. `Absent` when no agent needs it.
pub async fn look_at_published<S: Store>(store: &S, desired: &Desired) -> Published {
    let needed =
        desired.agents.values().any(|agent| agent.source == ImageSource::Manifest && agent.state != AgentState::Absent);
    let absent = Published { manifest: Seen::Absent, invalid: false };
    let (true, Some(at)) = (needed, &desired.manifest) else { return absent };
    match store.published(at).await {
        Ok(manifest) => Published { manifest: Seen::Present(manifest), invalid: false },
        Err(err) => {
            tracing::warn!(error = %Chain(&err), "cannot use the published manifest");
            Published { manifest: unknown(&err), invalid: matches!(err, StoreError::Manifest { .. }) }
        }
    }
}

/// Looks at everything. `published` is a look taken earlier in the same pass or convergence, which is good enough: a
/// manifest that changes meanwhile is the next one's business.
pub async fn observe<E: Engine, S: Store>(world: &World<E, S>, desired: &Desired, published: &Published) -> Observed {
    let (local, artifacts, guest) =
        tokio::join!(world.store.local(desired.manifest.as_ref()), world.store.list(), look_at_guest(world, desired));
    let local = match local {
        Ok(Some(manifest)) => Seen::Present(manifest),
        Ok(None) => Seen::Absent,
        Err(err) => unknown(&err),
    };
    let artifacts = match artifacts {
        Ok(artifacts) => Seen::Present(artifacts),
        Err(err) => unknown(&err),
    };
    let mut observed = Observed { published: published.manifest.clone(), local, artifacts, guest };
    prove_wanted(world, desired, &mut observed).await;
    observed
}

async fn look_at_guest<E: Engine, S>(world: &World<E, S>, desired: &Desired) -> Seen<crate::model::Guest> {
    let wanted = || desired.agents.values().filter(|agent| agent.state != AgentState::Absent);
    let look = Look {
        owner: desired.name.clone(),
        names: wanted().map(|agent| agent.container.name.clone()).collect(),
        health: wanted()
            .filter(|agent| agent.state == AgentState::Running && agent.container.healthcheck.is_some())
            .map(|agent| agent.container.name.clone())
            .collect(),
        key: desired.key.clone(),
    };
    match world.engine.look(&look).await {
        Ok(guest) => Seen::Present(guest),
        Err(err) => {
            // The plan carries the reason to whoever asked.
            tracing::info!(kind = err.kind.as_str(), error = %Chain(&err), "cannot look at Podman");
            Seen::Unknown { why: Chain(&err).to_string() }
        }
    }
}

/// Files that are wanted and that the index does not prove are hashed, so that the plan can compare digests.
async fn prove_wanted<E, S: Store>(world: &World<E, S>, desired: &Desired, observed: &mut Observed) {
    let unproved: Vec<_> = match &observed.artifacts {
        Seen::Present(artifacts) => wanted_artifacts(desired, observed)
            .into_iter()
            .map(|wanted| wanted.artifact.key)
            .filter(|key| artifacts.get(key).is_some_and(|cached| cached.digest.is_none()))
            .collect(),
        Seen::Absent | Seen::Unknown { .. } => return,
    };
    let mut proved = BTreeMap::new();
    for key in unproved {
        match world.store.prove(&key).await {
            Ok(digest) => {
                proved.insert(key, digest);
            }
            Err(err) => {
                observed.artifacts = unknown(&err);
                return;
            }
        }
    }
    let Seen::Present(artifacts) = &mut observed.artifacts else { return };
    for (key, digest) in proved {
        match digest {
            Some(digest) => {
                if let Some(cached) = artifacts.get_mut(&key) {
                    cached.digest = Some(digest);
                }
            }
            None => {
                artifacts.remove(&key);
            }
        }
    }
}

fn unknown<T>(err: &StoreError) -> Seen<T> {
    Seen::Unknown { why: Chain(err).to_string() }
}
