//! What nothing needs any more: older versions of this file's agents in the cache, and their images.
//!
//! Roots are recomputed from what was seen each time, never remembered: what is desired, what runs, and what the last
//! good manifest lists. Beside those, as many older versions are kept per agent as the state file says.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Plan, Reason, wanted_artifacts};
use crate::model::{AgentName, Arch, ArtifactKey, CachedArtifact, Desired, Observed};

pub(super) fn plan(desired: &Desired, observed: &Observed, plan: &mut Plan) {
    let (Some(artifacts), Some(guest)) = (observed.artifacts.present(), observed.guest.present()) else { return };
    if observed.published.unknown().is_some() || observed.local.unknown().is_some() {
        return;
    }
    let mut roots: BTreeSet<ArtifactKey> =
        wanted_artifacts(desired, observed).into_iter().map(|wanted| wanted.artifact.key).collect();
    for manifest in [observed.published.present(), observed.local.present()].into_iter().flatten() {
        for agent in manifest.agents.keys() {
            roots.extend(Arch::ALL.iter().filter_map(|&arch| Some(manifest.artifact(agent, arch).ok()?.key)));
        }
    }
    let in_use = guest.artifacts_in_use();

    let mut names: BTreeSet<&str> = desired.agents.keys().map(AgentName::as_str).collect();
    for manifest in [observed.published.present(), observed.local.present()].into_iter().flatten() {
        names.extend(manifest.agents.keys().map(String::as_str));
    }
    let mut idle: BTreeMap<(&AgentName, &str), Vec<(&ArtifactKey, &CachedArtifact)>> = BTreeMap::new();
    for (key, cached) in artifacts {
        // What is not proved may be what a container was made from.
        if roots.contains(key) || cached.digest.is_none_or(|digest| in_use.contains(&digest)) {
            continue;
        }
        let Some((agent, arch)) = owner_of(key, &names) else { continue };
        if let Some((agent, _)) = desired.agents.get_key_value(agent) {
            idle.entry((agent, arch)).or_default().push((key, cached));
        }
    }
    let used_images: BTreeSet<_> = guest.containers.values().map(|container| &container.image).collect();
    for ((agent, _), mut versions) in idle {
        versions.sort_by(|(key_a, a), (key_b, b)| b.modified.cmp(&a.modified).then(key_b.cmp(key_a)));
        for (key, cached) in versions.into_iter().skip(desired.cache.keep as usize) {
            // Another tarball may yield the same image.
            let only = |image: &&crate::model::ImageId| {
                !artifacts.iter().any(|(other, at)| other != key && at.image.as_ref() == Some(*image))
            };
            if let Some(image) = cached.image.as_ref().filter(|image| !used_images.contains(image)).filter(only) {
                // An image that somebody gave another name is wanted by that somebody.
                let mut named = guest.images.iter().filter(|(_, id)| *id == image);
                if let (Some((reference, _)), None) = (named.next(), named.next()) {
                    let action = Action::PruneImage { image: image.clone(), reference: reference.clone() };
                    plan.step(agent.clone(), action, Reason::Superseded);
                }
            }
            plan.step(agent.clone(), Action::PruneArtifact { key: key.clone() }, Reason::Superseded);
        }
    }
}

/// The agent and architecture in `vm/images/<agent>-<version>-<arch>.tar.gz`, the longest known agent name first, since
/// both names and versions may have dashes.
fn owner_of<'a>(key: &'a ArtifactKey, names: &BTreeSet<&'a str>) -> Option<(&'a str, &'a str)> {
    let stem = key.file_name().strip_suffix(".tar.gz")?;
    let (rest, arch) = stem.rsplit_once('-')?;
    let starts = |name: &&str| rest.strip_prefix(*name).is_some_and(|rest| rest.starts_with('-') && rest.len() > 1);
    let agent = names.iter().copied().filter(starts).max_by_key(|name| name.len())?;
    Some((agent, arch))
}
