//! One observation of everything: cache, manifest, the virtual machine and Podman side by side.
//!
//! It cannot fail as a whole. What could not be looked at is `Unknown` with its reason, and blinds one branch only.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};

use crate::backend::{Engine, InAgent, Inside, Look, LookInside, Store, StoreError, Vm, World};
use crate::error::Chain;
use crate::model::wanted::{misnamed, wanted_artifacts};
use crate::model::{
    AgentName, AgentState, ArtifactKey, CachedArtifact, Desired, Forward, Guest, ImageSource, Manifest, Observed,
    Phase, Protocol, Seen, SharedState, VmPhase, VmState,
};
use crate::trust::TrustError;
use crate::trust::kept::KeptError;

/// What the published manifest was when it was looked at, and whether it can be used at all.
#[derive(Debug, Clone)]
pub struct Published {
    /// The manifest.
    pub manifest: Seen<Manifest>,
    /// What is wrong with it, where it is not only out of reach.
    pub fault: Option<ManifestFault>,
}

/// What is wrong with a published manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestFault {
    /// It was there and is not a manifest this build can use.
    Invalid,
    /// It is not trusted, or nobody can tell whether it is.
    Untrusted {
        /// Why, in a sentence.
        why: String,
        /// What kind of reason that is.
        cause: Distrust,
    },
}

/// Why a manifest is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// It was judged.
    Judged(TrustError),
    /// What was accepted before is lost, and only forgetting it helps.
    Lost,
    /// What was accepted before cannot be read.
    Untold {
        /// What makes it readable, where that is known.
        way_out: Option<String>,
    },
}

impl From<&KeptError> for Distrust {
    fn from(err: &KeptError) -> Self {
        match err {
            KeptError::Exposed(err) => Self::Untold { way_out: Some(err.way_out()) },
            err if err.is_lost() => Self::Lost,
            _ => Self::Untold { way_out: None },
        }
    }
}

impl ManifestFault {
    fn of(err: &StoreError) -> Option<Self> {
        let untrusted = |cause| Some(Self::Untrusted { why: Chain(err).to_string(), cause });
        match err {
            StoreError::Manifest { .. } => Some(Self::Invalid),
            StoreError::Untrusted { err, .. } => untrusted(Distrust::Judged(err.clone())),
            StoreError::Accepted(err) => untrusted(err.into()),
            _ => None,
        }
    }
}

impl Published {
    /// A manifest that nobody waits for any longer, and why.
    pub fn unseen(why: &str) -> Self {
        Self { manifest: Seen::Unknown { why: why.to_owned() }, fault: None }
    }

    /// One that nobody asks for.
    pub fn absent() -> Self {
        Self { manifest: Seen::Absent, fault: None }
    }
}

/// Observes the manifest at its published place. `Absent` when no agent needs it.
pub async fn look_at_published<S: Store>(store: &S, desired: &Desired) -> Published {
    published(store, desired, false).await
}

/// As [`look_at_published`], for who acts on it: from now on nothing older is accepted.
pub async fn accept_published<S: Store>(store: &S, desired: &Desired) -> Published {
    published(store, desired, true).await
}

async fn published<S: Store>(store: &S, desired: &Desired, accept: bool) -> Published {
    let needed =
        desired.agents.values().any(|agent| agent.source == ImageSource::Manifest && agent.state != AgentState::Absent);
    let (true, Some(from)) = (needed, &desired.manifest) else { return Published::absent() };
    let mut looked = store.published(from).await;
    if let (true, Ok(manifest)) = (accept, &looked)
        && let Err(err) = store.accept(manifest, from).await
    {
        looked = Err(err);
    }
    match looked {
        Ok(manifest) => Published { manifest: Seen::Present(manifest), fault: None },
        Err(err) => {
            tracing::warn!(error = %Chain(&err), "cannot use the published manifest");
            Published { manifest: unknown(&err), fault: ManifestFault::of(&err) }
        }
    }
}

/// Observes everything. `published` is an observation taken earlier in the same pass or convergence, which is good enough: a
/// manifest that changes meanwhile is the next one's business.
pub async fn observe<V: Vm, E: Engine + Inside, S: Store>(
    world: &World<V, E, S>,
    desired: &Desired,
    published: &Published,
) -> Observed {
    observe_with(world, desired, published, Depth { sources: true, shared: false }).await
}

/// What an observation looks at that costs more, or that is not always needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Whether the sources of workspaces are compared with what was put: that reads the names of all that is in them.
    pub sources: bool,
    /// Volumes and networks, also where the state file declares none.
    pub shared: bool,
}

/// As [`observe`], to this depth.
pub async fn observe_with<V: Vm, E: Engine + Inside, S: Store>(
    world: &World<V, E, S>,
    desired: &Desired,
    published: &Published,
    depth: Depth,
) -> Observed {
    let ((local, artifacts), (vm, guest, shared)) =
        tokio::join!(look_at_cache(&world.store, desired), look_at_engine(world, desired, depth));
    let reach = world.engine.reach();
    // What cannot be told is not taken for ours to remove.
    let loaded = world.store.loaded_images().await.unwrap_or_default();
    let published = published.manifest.clone();
    let mut observed =
        Observed { published, local, artifacts, vm, reach, guest, shared, loaded, ..Observed::nothing() };
    look_inside(world, desired, depth.sources, &mut observed).await;
    prove_wanted(world, desired, &mut observed).await;
    look_at_transfers(world, desired, &mut observed).await;
    look_at_others(world, desired, &mut observed).await;
    observed
}

/// Observes the cache alone, where Podman is out of reach for this reason.
pub async fn observe_without_engine<S: Store>(
    store: &S,
    desired: &Desired,
    published: &Published,
    why: String,
) -> Observed {
    let (local, artifacts) = look_at_cache(store, desired).await;
    let (published, guest) = (published.manifest.clone(), Seen::Unknown { why });
    Observed { published, local, artifacts, guest, ..Observed::nothing() }
}

/// The last good manifest, and every artifact.
async fn look_at_cache<S: Store>(
    store: &S,
    desired: &Desired,
) -> (Seen<Manifest>, Seen<BTreeMap<ArtifactKey, CachedArtifact>>) {
    let (local, artifacts) = tokio::join!(store.local(desired.manifest.as_ref()), store.list());
    let local = match local {
        Ok(Some(manifest)) => Seen::Present(manifest),
        Ok(None) => Seen::Absent,
        Err(err) => unknown(&err),
    };
    (local, artifacts.map_or_else(|err| unknown(&err), Seen::Present))
}

/// The machine, where one is wanted, and then Podman in it: what was found of the one says how to reach the other.
async fn look_at_engine<V: Vm, E: Engine, S>(
    world: &World<V, E, S>,
    desired: &Desired,
    depth: Depth,
) -> (Seen<VmState>, Seen<Guest>, Seen<SharedState>) {
    let both = async {
        let (guest, shared) = tokio::join!(look_at_guest(world, desired), look_at_shared(world, desired, depth));
        (guest, shared)
    };
    if desired.vm().is_none() {
        let (guest, shared) = both.await;
        return (Seen::Absent, guest, shared);
    }
    let (vm, guest) = look_at_machine(world, desired).await;
    let shared = match guest {
        Seen::Present(_) => look_at_shared(world, desired, depth).await,
        Seen::Absent | Seen::Unknown { .. } => Seen::Absent,
    };
    (vm, guest, shared)
}

/// The volumes and networks, where the state file declares any.
async fn look_at_shared<V, E: Engine, S>(world: &World<V, E, S>, desired: &Desired, depth: Depth) -> Seen<SharedState> {
    if desired.volumes.is_empty() && desired.networks.is_empty() && !depth.shared {
        return Seen::Absent;
    }
    match world.engine.shared().await {
        Ok(shared) => Seen::Present(shared),
        Err(err) => Seen::Unknown { why: Chain(&err).to_string() },
    }
}

async fn look_at_machine<V: Vm, E: Engine, S>(
    world: &World<V, E, S>,
    desired: &Desired,
) -> (Seen<VmState>, Seen<Guest>) {
    let Some(spec) = desired.vm() else { return (Seen::Absent, Seen::Absent) };
    let (early, looked) = {
        let (look, dir) = (what_to_look_for(desired), spec.home.join(spec.instance.as_str()));
        // In this order: a request is under way while a process is still being made.
        tokio::join!(world.engine.look_ahead(&look, &dir), world.vm.look())
    };
    let mut vm = match looked {
        Ok(Some(vm)) => vm,
        Ok(None) => {
            world.engine.locate(None);
            return (Seen::Absent, Seen::Absent);
        }
        Err(err) => {
            tracing::info!(kind = err.kind().as_str(), error = %Chain(&err), "cannot observe the VM");
            let why = Chain(&err).to_string();
            let guest = Seen::Unknown { why: format!("VM `{}` cannot be observed", spec.instance) };
            return (Seen::Unknown { why }, guest);
        }
    };
    // Another's is not reached into: the way there may change it.
    if let Some(whose) = vm.foreign_to(&desired.ownership()) {
        world.engine.locate(None);
        let why = format!("VM `{}` {whose}", spec.instance);
        return (Seen::Present(vm), Seen::Unknown { why });
    }
    world.engine.locate(Some(&vm));
    if vm.phase != VmPhase::Running {
        let why = format!("VM `{}` {}", spec.instance, vm.phase);
        return (Seen::Present(vm), Seen::Unknown { why });
    }
    let guest = match early.filter(|_| world.engine.reach().route.is_some()) {
        Some(guest) => Seen::Present(guest),
        None => look_at_guest(world, desired).await,
    };
    vm.forwards.extend(forwarded_otherwise(world, desired, &vm).await);
    (Seen::Present(vm), guest)
}

/// Wanted ports that lead into the machine though its configuration does not say so: somebody takes connections there.
async fn forwarded_otherwise<V: Vm, E, S>(world: &World<V, E, S>, desired: &Desired, vm: &VmState) -> Vec<Forward> {
    let mut found = Vec::new();
    for port in desired.forwards() {
        if port.protocol == Protocol::Tcp && !vm.forwards.contains(&port) && world.vm.is_connectable(&port).await {
            found.push(port);
        }
    }
    found
}

pub(crate) fn what_to_look_for(desired: &Desired) -> Look {
    let wanted = || desired.agents.values().filter(|agent| agent.state != AgentState::Absent);
    Look {
        owner: desired.ownership(),
        names: wanted().map(|agent| agent.container.name.clone()).collect(),
        health: wanted()
            .filter(|agent| agent.state == AgentState::Running && agent.container.healthcheck.is_some())
            .map(|agent| agent.container.name.clone())
            .collect(),
        key: desired.key.clone(),
    }
}

async fn look_at_guest<V, E: Engine, S>(world: &World<V, E, S>, desired: &Desired) -> Seen<Guest> {
    match world.engine.look(&what_to_look_for(desired)).await {
        Ok(guest) => Seen::Present(guest),
        Err(err) => {
            // The plan carries the reason to whoever asked.
            tracing::info!(kind = err.kind.as_str(), error = %Chain(&err), "cannot observe Podman");
            Seen::Unknown { why: Chain(&err).to_string() }
        }
    }
}

/// What is inside of the containers of agents that have sessions or workspaces, or are remembered to have had some.
async fn look_inside<V, E: Inside, S>(
    world: &World<V, E, S>,
    desired: &Desired,
    sources: bool,
    observed: &mut Observed,
) {
    let Some(guest) = observed.guest.present() else { return };
    let state_dir = desired.state_dir();
    let remembered = world.engine.remembered(&state_dir).await;
    let agents = desired.agents.iter().filter(|(name, agent)| {
        let has_some = !agent.sessions.is_empty() || !agent.workspaces.is_empty() || remembered.contains(*name);
        has_some && agent.state == AgentState::Running
    });
    let looks = agents.filter_map(|(name, agent)| {
        let seen = guest.containers.get(&agent.container.name)?;
        let is_its = seen.owner.is_of(name) && seen.phase == Phase::Running;
        let at = InAgent { agent: name.clone(), container: seen.id.clone(), state_dir: state_dir.clone() };
        let sources = agent.workspaces.values().filter(|_| sources).cloned().collect();
        let sessions = !agent.sessions.is_empty() || remembered.contains(name);
        is_its.then_some(LookInside { at, sessions, sources })
    });
    let looks: Vec<_> = looks.collect();
    let looked = looks.into_iter().map(|look| async move {
        let found = world.engine.look_inside(&look).await;
        (look.at.agent, found)
    });
    let inside: BTreeMap<AgentName, _> = stream::iter(looked).buffer_unordered(INSIDE_AT_ONCE).collect().await;
    observed.inside = inside;
}

/// So many containers are looked into at the same time.
const INSIDE_AT_ONCE: usize = 8;

/// Whether what has a wanted name, and not from us, serves agents of other state files.
async fn look_at_others<V, E: Engine, S>(world: &World<V, E, S>, desired: &Desired, observed: &mut Observed) {
    for image in misnamed(desired, observed) {
        match world.engine.has_agents(&image).await {
            Ok(false) => {}
            Ok(true) => drop(observed.others.insert(image)),
            Err(err) => {
                tracing::info!(error = %Chain(&err), "cannot tell whose an image is");
                // Nothing is taken from anybody that way.
                observed.others.insert(image);
            }
        }
    }
}

/// Files that are wanted and that the index does not prove are hashed, so that the plan can compare digests.
async fn prove_wanted<V, E, S: Store>(world: &World<V, E, S>, desired: &Desired, observed: &mut Observed) {
    let unproved: Vec<_> = match &observed.artifacts {
        Seen::Present(artifacts) => wanted_artifacts(desired, observed)
            .into_iter()
            .flat_map(|wanted| [wanted.artifact.key_beside(), wanted.artifact.key])
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

/// What of the artifacts that are wanted and missing would travel. Their publisher is asked for the lists of their parts once, and
/// only where it has just answered.
async fn look_at_transfers<V, E, S: Store>(world: &World<V, E, S>, desired: &Desired, observed: &mut Observed) {
    let (Some(artifacts), Some(at)) = (observed.artifacts.present(), &desired.manifest) else { return };
    let ask = observed.published.present().is_some();
    let missing = wanted_artifacts(desired, observed).into_iter().map(|wanted| wanted.artifact);
    let missing = missing.filter(|artifact| !artifact.is_in(artifacts));
    let costs = missing.map(|artifact| async move {
        let bytes = world.store.transfer(&artifact, &at.artifact(&artifact.key), ask).await;
        (bytes < artifact.size_bytes).then_some((artifact.key, bytes))
    });
    let mut costs = std::pin::pin!(stream::iter(costs).buffer_unordered(AT_ONCE));
    let until = tokio::time::Instant::now() + PATIENCE;
    while let Ok(Some(cost)) = tokio::time::timeout_at(until, costs.next()).await {
        observed.transfers.extend(cost);
    }
}

/// An observation waits so long for them all; what is not known by then counts as all of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many lists are asked for at the same time.
const AT_ONCE: usize = 4;

fn unknown<T>(err: &StoreError) -> Seen<T> {
    Seen::Unknown { why: Chain(err).to_string() }
}
