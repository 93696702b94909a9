//! `cache sync`: the manifest is fetched, the artifacts are verified, and only then the local manifest is written.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{Cache, Progress, Store, StoreError};
use crate::backend::Transferred;
use crate::model::{
    AgentName, Arch, Artifact, ArtifactKey, Manifest, ManifestError, ManifestSource, Sha256Digest, Version,
};
use crate::trust::Signed;

/// What is to be in the cache.
#[derive(Debug, Clone)]
pub struct SyncRequest {
    /// Where the manifest is published.
    pub manifest: ManifestSource,
    /// Which of its artifacts.
    pub wanted: SyncWanted,
}

/// Which artifacts of a manifest.
#[derive(Debug, Clone)]
pub enum SyncWanted {
    /// All that it offers for these architectures.
    All(Vec<Arch>),
    /// Those of these agents.
    Agents(Vec<SyncAgent>),
}

/// One agent whose artifacts are wanted.
#[derive(Debug, Clone)]
pub struct SyncAgent {
    /// Its name in the manifest.
    pub agent: AgentName,
    /// The version it must have there.
    pub version: Version,
    /// For which architectures.
    pub arches: Vec<Arch>,
    /// What the tarballs must hash to, whatever the manifest says.
    pub pins: BTreeMap<Arch, Sha256Digest>,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyncReport {
    /// What had to be fetched.
    pub downloaded: Vec<ArtifactKey>,
    /// Where the bytes of these came from.
    pub transferred: BTreeMap<ArtifactKey, Transferred>,
    /// Where the manifest lies.
    pub manifest_path: PathBuf,
    /// What the manifest's signature says, where one was wanted.
    pub signed: Option<Arc<Signed>>,
    /// Nothing had to be fetched.
    pub skipped: bool,
}

impl SyncReport {
    /// Of all that was fetched together.
    pub fn in_all(&self) -> Transferred {
        self.transferred.values().fold(Transferred::default(), |all, one| Transferred {
            received: all.received + one.received,
            reused: all.reused + one.reused,
        })
    }
}

impl SyncWanted {
    /// The artifacts to fetch, each once.
    ///
    /// # Errors
    /// When one that is wanted is not on offer, is pinned to other bytes, or its entry is broken.
    pub fn select(&self, manifest: &Manifest) -> Result<Vec<Artifact>, ManifestError> {
        let mut artifacts = Vec::new();
        match self {
            Self::All(arches) => {
                for agent in manifest.agents.keys() {
                    let offered = manifest.arches(agent);
                    for arch in arches.iter().filter(|arch| offered.contains(arch)) {
                        artifacts.push(manifest.artifact(agent, *arch)?);
                    }
                }
                // An empty cache is not what anybody asked for.
                if let (true, Some(agent), Some(arch)) =
                    (artifacts.is_empty(), manifest.agents.keys().next(), arches.first())
                {
                    artifacts.push(manifest.artifact(agent, *arch)?);
                }
            }
            Self::Agents(agents) => {
                for SyncAgent { agent, version, arches, pins } in agents {
                    for arch in arches {
                        artifacts.push(manifest.select(agent, version, *arch)?.pinned_by(pins, agent, *arch)?);
                    }
                }
            }
        }
        let mut seen = std::collections::BTreeSet::new();
        artifacts.retain(|artifact| seen.insert(artifact.key.clone()));
        Ok(artifacts)
    }
}

impl Cache {
    /// Brings everything wanted into the cache, side by side, and then writes the local manifest. `watch` is told of
    /// each artifact before it is looked at, with the progress of its bytes.
    ///
    /// # Errors
    /// When the manifest is unavailable (a sync does not go on with an old one), or an artifact. The other artifacts are
    /// still brought in; the gravest error is reported: wrong bytes before what only the user can help before what may
    /// pass.
    pub async fn sync(
        &self,
        request: &SyncRequest,
        watch: impl Fn(&Artifact, &Arc<Progress>),
    ) -> Result<SyncReport, StoreError> {
        let manifest = self.published(&request.manifest).await?;
        self.accept(&manifest, &request.manifest).await?;
        let artifacts = request
            .wanted
            .select(&manifest)
            .map_err(|err| StoreError::Manifest { at: request.manifest.to_string(), err })?;
        let locks = artifacts.iter().map(|artifact| {
            let progress = Progress::new(artifact.size_bytes);
            watch(artifact, &progress);
            async move {
                let from = request.manifest.artifact(&artifact.key);
                let fetched = self.fetch(artifact, &from, Arc::clone(&progress)).await?;
                Ok(fetched.then(|| (artifact.key.clone(), progress.transferred())))
            }
        });
        // As many as download at once, and as many again that are looked at meanwhile.
        let outcomes: Vec<_> = stream::iter(locks).buffered(self.0.options.parallel.max(1) * 2).collect().await;
        let (mut downloaded, mut transferred) = (Vec::new(), BTreeMap::new());
        let mut gravest: Option<StoreError> = None;
        for outcome in outcomes {
            match outcome {
                Ok(None) => {}
                Ok(Some((key, from))) => {
                    transferred.insert(key.clone(), from);
                    downloaded.push(key);
                }
                Err(err) if gravest.as_ref().is_none_or(|known| gravity(&err) > gravity(known)) => gravest = Some(err),
                Err(_) => {}
            }
        }
        if let Some(err) = gravest {
            return Err(err);
        }
        self.commit_manifest(&manifest, Some(&request.manifest)).await?;
        let (skipped, manifest_path, signed) = (downloaded.is_empty(), self.manifest_path(), manifest.signed);
        Ok(SyncReport { downloaded, transferred, manifest_path, signed, skipped })
    }
}

fn gravity(err: &StoreError) -> u8 {
    match err {
        StoreError::DigestMismatch { .. } => 2,
        err if !err.is_retryable() => 1,
        _ => 0,
    }
}
