//! What nothing needs any more: older versions of this file's agents in the cache, and images that were loaded for it.
//!
//! Roots are recomputed from what was seen each time: what is desired, what runs, and what the last good manifest lists.
//! Beside those, as many older versions are kept per artifact as the state file says; and one while a newer one is to be fetched,
//! which may lie in it in large part. An image stays as long as its tarball does, and goes only when it was loaded by us, was
//! not there before, has no name but the one it was loaded for, and no container, whoever's, was made from it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Plan, Reason};
use crate::model::wanted::{wanted_artifacts, wanted_image};
use crate::model::{
    AgentName, Arch, ArtifactKey, CachedArtifact, Desired, Guest, ImageId, Observed, Seen, Sha256Digest,
};

pub(super) fn plan(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let (Some(artifacts), Some(guest)) = (observed.artifacts.present(), observed.guest.present()) else { return };
    if observed.published.unknown().is_some() || observed.local.unknown().is_some() {
        return;
    }
    let wanted: Vec<_> = wanted_artifacts(desired, observed).into_iter().map(|wanted| wanted.artifact).collect();
    let mut roots: BTreeSet<ArtifactKey> = wanted.iter().map(|artifact| artifact.key.clone()).collect();
    roots.extend(wanted.iter().filter_map(|artifact| artifact.find_in(artifacts)).map(|(key, _)| key.clone()));
    let manifests = || [&observed.published, &observed.local].into_iter().filter_map(Seen::present);
    for manifest in manifests() {
        roots.extend(manifest.listed().flat_map(|artifact| [artifact.key_beside(), artifact.key]));
    }
    let in_use = guest.artifacts_in_use();

    // By what the manifest calls them: the first agent of an artifact stands for all that run from it.
    let mut wanting: BTreeMap<&str, &AgentName> = BTreeMap::new();
    for (name, agent) in &desired.agents {
        wanting.entry(agent.artifact_name(name).as_str()).or_insert(name);
    }
    let mut names: BTreeSet<&str> = wanting.keys().copied().collect();
    for manifest in manifests() {
        names.extend(manifest.agents.keys().map(String::as_str));
    }
    let fetches = plan.ready.iter().filter(|step| matches!(step.action, Action::FetchArtifact { .. }));
    let fetching = fetches.filter_map(|step| desired.agents.get_key_value(step.agent.as_ref()?));
    let awaited: BTreeSet<AgentName> = fetching.map(|(name, agent)| agent.artifact_name(name).clone()).collect();
    let mut idle: BTreeMap<(&str, Arch), Vec<(&ArtifactKey, &CachedArtifact)>> = BTreeMap::new();
    for (key, cached) in artifacts {
        // What is not proved may be what a container was made from.
        if roots.contains(key) || cached.digest.is_none_or(|digest| in_use.contains(&digest)) {
            continue;
        }
        let Some((artifact, arch)) = owner_of(key, &names) else { continue };
        if wanting.contains_key(artifact) {
            idle.entry((artifact, arch)).or_default().push((key, cached));
        }
    }
    let mut leaving = BTreeSet::new();
    for ((artifact, _), mut versions) in idle {
        versions.sort_by(|(key_a, a), (key_b, b)| b.modified.cmp(&a.modified).then(key_b.cmp(key_a)));
        let keep = (desired.cache.keep as usize).max(usize::from(awaited.contains(artifact)));
        for (key, cached) in versions.into_iter().skip(keep) {
            leaving.insert(key);
            let action = Action::PruneArtifact { key: key.clone(), bytes: cached.size };
            plan.step(wanting.get(artifact).map(|agent| (*agent).clone()), action, Reason::Superseded);
        }
    }
    let staying: Vec<_> =
        artifacts.iter().filter(|(key, _)| !leaving.contains(key)).map(|(_, cached)| cached).collect();
    // The tarball of an image may be one that is not proved.
    if staying.iter().all(|cached| cached.digest.is_some()) {
        let kept =
            staying.iter().filter_map(|cached| cached.digest).chain(wanted.iter().map(|artifact| artifact.sha256));
        let kept_images = staying.iter().filter_map(|cached| cached.image.as_ref());
        prune_images(desired, observed, guest, &kept.collect(), &kept_images.collect(), plan);
    }
}

/// The images that were loaded from tarballs which are no longer kept.
fn prune_images(
    desired: &Desired,
    observed: &Observed,
    guest: &Guest,
    kept: &BTreeSet<Sha256Digest>,
    kept_images: &BTreeSet<&ImageId>,
    plan: &mut Plan,
) {
    let wanted: BTreeSet<_> =
        desired.agents.iter().filter_map(|(name, agent)| wanted_image(name, agent, observed).ok()).collect();
    for (image, loaded) in &observed.loaded {
        let Some(state) = guest.image_store.get(image) else { continue };
        let named_by_others = state.tags.iter().any(|tag| *tag != loaded.reference);
        let used = state.containers != Some(0) || guest.containers.values().any(|one| one.image == *image);
        // An agent that takes the image by its name, from wherever.
        let wanted = state.tags.iter().any(|tag| wanted.contains(tag));
        if named_by_others || used || wanted || kept.contains(&loaded.artifact) || kept_images.contains(image) {
            continue;
        }
        let tagged = state.tags.contains(&loaded.reference);
        let (image, reference) = (image.clone(), loaded.reference.clone());
        plan.step(None, Action::PruneImage { image, reference, tagged, bytes: state.size }, Reason::Superseded);
    }
}

/// The agent and architecture in `<agent>-<version>-<arch>`, whatever the name ends in: the longest known agent name first,
/// since both names and versions may have dashes.
fn owner_of<'a>(key: &ArtifactKey, names: &BTreeSet<&'a str>) -> Option<(&'a str, Arch)> {
    let (rest, arch) = key.version_and_arch()?;
    let starts = |name: &&str| rest.strip_prefix(*name).is_some_and(|rest| rest.starts_with('-') && rest.len() > 1);
    let agent = names.iter().copied().filter(starts).max_by_key(|name| name.len())?;
    Some((agent, arch))
}
