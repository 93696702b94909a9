//! Entries of a manifest that are at odds with each other: files that cannot lie side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tracing::debug;

use super::{Artifact, ManifestAgent};
use crate::model::ids::{ArtifactKey, found};

/// Why a key cannot be that of a file, for what other entries of the manifest say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Clash {
    /// It would lie in a directory where another's file lies.
    Below(ArtifactKey),
    /// Other bytes have the same key.
    OtherBytes,
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Clash::Below(upper) => {
                write!(f, "lies below {}, which is another tarball's key", found(upper.as_str()))
            }
            Clash::OtherBytes => f.write_str("is also the key of a tarball with another sha256"),
        }
    }
}

/// The keys of lists that are also a tarball's, or lie below one or above one, or are another list's. Nothing of a tarball is to
/// blame for that: it is fetched whole.
fn no_lists(artifacts: &[&Artifact]) -> BTreeSet<ArtifactKey> {
    let tarballs: BTreeSet<_> = artifacts.iter().map(|artifact| artifact.key.as_str()).collect();
    let mut lists = BTreeMap::new();
    let mut refused = BTreeSet::new();
    for layers in artifacts.iter().filter_map(|artifact| artifact.layers.as_ref()) {
        let key = layers.key.as_str();
        let above = key.match_indices('/').any(|(at, _)| tarballs.contains(&key[..at]));
        let below = format!("{key}/");
        let has_below = tarballs.range(below.as_str()..).next().is_some_and(|next| next.starts_with(&below));
        let is_others = *lists.entry(key).or_insert(layers.sha256) != layers.sha256;
        if above || has_below || is_others || tarballs.contains(key) {
            refused.insert(layers.key.clone());
        }
    }
    refused
}

/// The keys that cannot be files beside the others. What is no artifact takes no place, and clashes with nothing.
fn clashes(mut artifacts: Vec<&Artifact>) -> BTreeMap<ArtifactKey, Clash> {
    // No key has a control character: so what lies below a key follows it at once.
    let place = |artifact: &&Artifact| artifact.key.as_str().replace('/', "\0");
    artifacts.sort_by_cached_key(place);
    let mut clashes = BTreeMap::new();
    let mut last: Option<&Artifact> = None;
    for artifact in artifacts {
        match last {
            Some(last) if last.key == artifact.key => {
                if last.sha256 != artifact.sha256 {
                    clashes.insert(artifact.key.clone(), Clash::OtherBytes);
                }
            }
            Some(last) if artifact.key.is_below(last.key.as_str()) => {
                clashes.insert(artifact.key.clone(), Clash::Below(last.key.clone()));
            }
            _ => last = Some(artifact),
        }
    }
    clashes
}

/// Refuses of each entry what others are at odds with.
pub(super) fn settle(agents: &mut BTreeMap<String, ManifestAgent>) {
    let (no_lists, clashes) = {
        let entries = agents.values().flat_map(|agent| agent.tarballs.values());
        let artifacts: Vec<_> = entries.filter_map(|entry| entry.as_ref().ok()).collect();
        (no_lists(&artifacts), clashes(artifacts))
    };
    for entry in agents.values_mut().flat_map(|agent| agent.tarballs.values_mut()) {
        let Ok(artifact) = entry else { continue };
        if let Some(layers) = artifact.layers.take_if(|layers| no_lists.contains(&layers.key)) {
            debug!(key = %layers.key, "the key of a list of members is another's too; the tarball is fetched whole");
        }
        if let Some(clash) = clashes.get(&artifact.key) {
            *entry = Err(format!("artifact key {} {clash}", found(artifact.key.as_str())));
        }
    }
}
