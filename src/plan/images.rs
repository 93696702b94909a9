//! Which image each agent runs, and what must happen before it is there.
//!
//! What a tarball yields is known by its image id, and containers are made from that: so a name that points to a different
//! image by now (another state file loaded its own under it, somebody tagged another) is no drift, and nobody's name is
//! taken back. A name is given where it points to nothing, and moved on only from an image that was loaded for it. Where it
//! means somebody's own image before anything of ours was made under it, that is a conflict: what the file names would not be
//! what runs. Images of other state files are theirs, and left their name.

use std::collections::{BTreeMap, BTreeSet};

use super::artifacts::Fetched;
use super::{Action, Plan, Policy, Reason, WaitingOn};
use crate::model::wanted::{NamedBy, made_under, named_by, wanted_image};
use crate::model::{
    Agent, AgentName, AgentState, Artifact, Guest, ImageId, ImageRef, ImageSource, Observed, Owner, Seen, Sha256Digest,
};

/// The image of one agent.
pub(super) struct ImageFor {
    /// Its full name, or why that cannot be told.
    pub reference: Result<ImageRef, WaitingOn>,
    /// The tarball it comes from.
    pub artifact: Option<Sha256Digest>,
    /// The image itself, or what it waits for.
    pub image: Result<ImageId, WaitingOn>,
}

pub(super) fn plan(
    observed: &Observed,
    active: &[(&AgentName, &Agent)],
    fetched: &BTreeMap<AgentName, Fetched>,
    policy: &Policy,
    hidden: Option<&WaitingOn>,
    plan: &mut Plan,
) -> BTreeMap<AgentName, ImageFor> {
    let mut planned = BTreeSet::new();
    let labelled = match observed.guest.present() {
        Some(guest) => images_by_artifact(guest),
        None => BTreeMap::new(),
    };
    let mut images = BTreeMap::new();
    for &(name, agent) in active {
        if agent.state == AgentState::Absent {
            continue;
        }
        let image = Err(hidden.cloned().unwrap_or_else(|| unseen(observed)));
        let reference = wanted_image(name, agent, observed).map_err(|cause| WaitingOn::Manifest { cause });
        let mut image = ImageFor { reference, artifact: None, image };
        if let (Ok(reference), Seen::Present(guest)) = (&image.reference, &observed.guest) {
            let has = guest.images.get(reference);
            match agent.source {
                ImageSource::Local => {
                    image.image = has.cloned().ok_or_else(|| WaitingOn::LocalImage { reference: reference.clone() });
                }
                ImageSource::Registry => {
                    image.image = has.cloned().ok_or_else(|| WaitingOn::Image { reference: reference.clone() });
                    if has.is_none() && planned.insert(reference.clone()) {
                        plan.step(
                            name.clone(),
                            Action::PullImage { reference: reference.clone() },
                            Reason::ImageMissing,
                        );
                    }
                }
                ImageSource::Manifest => {
                    let (artifact, there) = match fetched.get(name) {
                        Some(Fetched::Cached(artifact)) => (artifact, true),
                        Some(Fetched::Coming(artifact)) => (artifact, false),
                        Some(Fetched::Blocked(on)) => {
                            image.image = Err(on.clone());
                            images.insert(name.clone(), image);
                            continue;
                        }
                        None => continue,
                    };
                    image.artifact = Some(artifact.sha256);
                    let known = known_image(artifact, observed, &labelled);
                    image.image =
                        load(name, reference, artifact, there, known, guest, observed, policy, &mut planned, plan);
                }
            }
        } else if let Some(Fetched::Cached(artifact) | Fetched::Coming(artifact)) = fetched.get(name) {
            image.artifact = Some(artifact.sha256);
        }
        if let Err(on) = &image.reference {
            image.image = Err(on.clone());
        }
        images.insert(name.clone(), image);
    }
    images
}

#[expect(clippy::too_many_arguments, reason = "one decision over everything that is known of one image")]
fn load(
    name: &AgentName,
    reference: &ImageRef,
    artifact: &Artifact,
    there: bool,
    known: Option<ImageId>,
    guest: &Guest,
    observed: &Observed,
    policy: &Policy,
    planned: &mut BTreeSet<ImageRef>,
    plan: &mut Plan,
) -> Result<ImageId, WaitingOn> {
    let has = guest.images.get(reference);
    let is_known = known.is_some();
    let holder = has.filter(|has| known.as_ref() != Some(*has) && !reference.is_digest());
    let holder = holder.map(|holder| (holder, named_by(holder, reference, guest, observed)));
    let image = known.filter(|known| guest.image_store.contains_key(known));
    // What was made of our image under that name before stays as it is, whatever the name means now.
    let is_settled = || image.as_ref().is_some_and(|image| made_under(image, reference, guest));
    let reason = match (&image, has, holder) {
        (None, Some(_), _) if !is_known => Reason::ImageUnknown,
        (_, _, Some((_, NamedBy::Somebody))) if policy.adopt && !is_settled() => Reason::Adopted,
        (_, _, Some((held_by, NamedBy::Somebody))) if !is_settled() => {
            return Err(WaitingOn::ImageName { reference: reference.clone(), held_by: held_by.clone() });
        }
        (Some(image), Some(_), _) => return Ok(image.clone()),
        // A digest is no name that could be given.
        (Some(image), None, _) if reference.is_digest() => return Ok(image.clone()),
        (Some(_), None, _) => Reason::ImageUntagged,
        _ => Reason::ImageMissing,
    };
    let loadable = there || image.is_some();
    let owned = |by: &[NamedBy]| holder.filter(|(_, holder)| by.contains(holder)).map(|(image, _)| image.clone());
    let supersedes = owned(if policy.adopt { &[NamedBy::Us, NamedBy::Somebody] } else { &[NamedBy::Us] });
    let leaves = owned(&[NamedBy::AnotherFile]);
    let (artifact, reference) = (artifact.clone(), reference.clone());
    let wait = WaitingOn::Image { reference: reference.clone() };
    if planned.insert(reference.clone()) {
        let fetched = WaitingOn::Artifact { key: artifact.key.clone() };
        let action = Action::LoadImage { artifact, reference, tag: image, supersedes, leaves };
        if loadable {
            plan.step(name.clone(), action, reason);
        } else {
            plan.wait(name.clone(), &action, reason, fetched);
        }
    }
    Err(wait)
}

/// The image a tarball yields: remembered by the cache, else told by a container that was made from it.
fn known_image(
    artifact: &Artifact,
    observed: &Observed,
    labelled: &BTreeMap<Sha256Digest, ImageId>,
) -> Option<ImageId> {
    let remembered = observed
        .artifacts
        .present()
        .and_then(|artifacts| artifact.find_in(artifacts))
        .filter(|(_, cached)| cached.digest == Some(artifact.sha256))
        .and_then(|(_, cached)| cached.image.clone());
    remembered.or_else(|| labelled.get(&artifact.sha256).cloned())
}

fn images_by_artifact(guest: &Guest) -> BTreeMap<Sha256Digest, ImageId> {
    let labelled = guest.containers.values().filter_map(|container| match &container.owner {
        Owner::Ours { spec: Some(spec), .. } => Some((spec.artifact?, container.image.clone())),
        Owner::Ours { .. } | Owner::Foreign(_) => None,
    });
    labelled.collect()
}

fn unseen(observed: &Observed) -> WaitingOn {
    WaitingOn::Sight { why: observed.guest.unknown().unwrap_or("Podman was not observed").to_owned() }
}
