//! A tarball from members that lie in other tarballs of the cache, and ranges for the rest.
//!
//! Nothing is believed: each member is hashed while it is copied, and the whole is proved as ever. A source that turns out not to
//! hold what its list says is not used again, so that what is fetched instead grows and comes to an end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::lists::Asking;
use super::partial::{HASH_CHUNK, Partial, blocking};
use super::paths::failed;
use super::recipe::Recipe;
use super::{Cache, Progress, StoreError};
use crate::files::{self, Lock, still_names};
use crate::model::{Artifact, ArtifactKey, LayerIndex, Layers, Location, Manifest, Member, Sha256Digest};

/// A smaller tarball is fetched whole: what it takes to find out costs as much (1 MiB).
const MIN_SIZE: u64 = 1024 * 1024;

/// In so many other tarballs members are looked for.
const MAX_SOURCES: usize = 8;

/// Another tarball of the cache.
struct Candidate {
    key: ArtifactKey,
    size: u64,
    list: Sha256Digest,
    /// Whether that list is kept.
    kept: bool,
    /// Where it is published, where a manifest in the cache says so.
    published: Option<Layers>,
}

/// What another tarball has of what is wanted.
struct Source {
    key: ArtifactKey,
    places: BTreeMap<(Sha256Digest, u64), u64>,
}

/// How an artifact is put together.
pub(super) struct Delta {
    index: LayerIndex,
    sources: Vec<Source>,
    recipe: Recipe,
    /// The source that was copied from last.
    open: Option<(ArtifactKey, File)>,
}

impl Delta {
    fn new(index: LayerIndex, sources: Vec<Source>) -> Option<Self> {
        let has = |member: &Member| sources.iter().any(|source| source.places.contains_key(&member.id()));
        let recipe = Recipe::new(index.members(), has)?;
        Some(Self { recipe, index, sources, open: None })
    }

    /// Where the range ends that is to be asked for from here.
    pub(super) fn fetched_upto(&self, at: u64) -> Option<u64> {
        self.recipe.fetched_upto(at)
    }

    /// The member to be copied from here; `None` where bytes are to be fetched, and at the end.
    fn copied_at(&self, at: u64) -> Option<&Member> {
        let members = self.index.members();
        let member = members.get(members.partition_point(|member| member.end() <= at))?;
        self.recipe.fetched_upto(at).is_none().then_some(member)
    }

    /// Goes on without a source.
    fn without(self, key: &ArtifactKey) -> Option<Self> {
        let sources = self.sources.into_iter().filter(|source| source.key != *key).collect();
        Self::new(self.index, sources)
    }
}

impl Cache {
    /// How an artifact would be put together.
    async fn delta(&self, artifact: &Artifact, from: &Location, progress: &Progress, asking: Asking) -> Option<Delta> {
        let layers = artifact.layers.as_ref().filter(|_| artifact.size_bytes >= MIN_SIZE)?;
        // A file on this machine is copied as it is.
        let Location::Http(_) = from else { return None };
        let (cache, wanted) = (self.clone(), artifact.clone());
        let candidates = blocking(move |_| cache.candidates(&wanted)).await;
        if !candidates.iter().any(|candidate| candidate.kept) {
            let best = candidates.iter().find(|candidate| candidate.published.is_some())?;
            let published = best.published.as_ref()?;
            let at = from.beside(&artifact.key, &published.key)?;
            self.list_at(published, best.size, &at, progress, asking).await?;
        }
        let at = from.beside(&artifact.key, &layers.key)?;
        let index = self.list_at(layers, artifact.size_bytes, &at, progress, asking).await?;
        let cache = self.clone();
        blocking(move |_| {
            let wanted: BTreeSet<_> = index.members().iter().map(Member::id).collect();
            let sources = candidates.iter().filter_map(|candidate| cache.source(candidate, &wanted)).collect();
            Delta::new(index, sources)
        })
        .await
    }

    /// Other tarballs whose bytes are proved and whose members are listed somewhere, those with the most alike names first: of
    /// the same agent, that is.
    fn candidates(&self, artifact: &Artifact) -> Vec<Candidate> {
        let index = self.0.index.read();
        let manifests = self.manifests();
        let listed = manifests.iter().flat_map(Manifest::listed);
        let published: BTreeMap<_, _> = listed.filter_map(|listed| Some((listed.sha256, listed.layers?))).collect();
        let mut found = Vec::new();
        for (key, file) in self.list_files().unwrap_or_default() {
            let Some(digest) = file.digest.filter(|_| key != artifact.key) else { continue };
            let published = published.get(&digest).cloned();
            let Some(list) = index.layers(&key).or(published.as_ref().map(|layers| layers.sha256)) else { continue };
            let alike = key.as_str().bytes().zip(artifact.key.as_str().bytes()).take_while(|(a, b)| a == b).count();
            let published = published.filter(|layers| layers.sha256 == list);
            found.push((
                (Reverse(alike), Reverse(file.modified)),
                Candidate { key, size: file.size, list, kept: false, published },
            ));
        }
        found.sort_by_key(|(rank, _)| *rank);
        let mut found: Vec<_> = found.into_iter().map(|(_, candidate)| candidate).take(MAX_SOURCES).collect();
        for candidate in &mut found {
            candidate.kept = self.kept_list(&candidate.list, candidate.size).is_some();
        }
        found
    }

    fn source(&self, candidate: &Candidate, wanted: &BTreeSet<(Sha256Digest, u64)>) -> Option<Source> {
        let index = self.kept_list(&candidate.list, candidate.size)?;
        let there = index.members().iter().filter(|member| wanted.contains(&member.id()));
        let places = there.map(|member| (member.id(), member.offset)).collect();
        Some(Source { key: candidate.key.clone(), places })
    }

    /// How the rest of a download is put together. `None` where it comes in one piece.
    pub(super) async fn delta_for(
        &self,
        artifact: &Artifact,
        from: &Location,
        partial: &mut Partial,
        progress: &Progress,
    ) -> Result<Option<Delta>, StoreError> {
        let Some(delta) = self.delta(artifact, from, progress, Asking::Now).await else { return Ok(None) };
        let (size, fetch) = (artifact.size_bytes, delta.recipe.transfer(partial.len));
        info!(artifact = %artifact.key, size, fetch, "parts of the artifact are in the cache; fetching the others");
        partial.label_for(artifact, from)?;
        Ok(Some(delta))
    }

    /// See [`crate::backend::Store::transfer`].
    pub(super) async fn bytes_to_fetch(&self, artifact: &Artifact, from: &Location, ask: bool) -> u64 {
        let (cache, wanted) = (self.clone(), artifact.clone());
        let here = blocking(move |_| cache.unfinished(&wanted)).await;
        let asking = if ask { Asking::Seldom } else { Asking::Never };
        match self.delta(artifact, from, &Progress::default(), asking).await {
            Some(delta) => delta.recipe.transfer(here),
            None => artifact.size_bytes.saturating_sub(here),
        }
    }

    /// Copies the members that come next, up to where bytes are to be fetched. `None` beside the partial: the rest comes in one
    /// piece.
    pub(super) async fn copy_on(
        &self,
        delta: Delta,
        mut partial: Partial,
        artifact: &Artifact,
        progress: &Arc<Progress>,
    ) -> Result<(Partial, Option<Delta>), StoreError> {
        let (cache, progress, key) = (self.clone(), Arc::clone(progress), artifact.key.clone());
        blocking(move |stop| {
            let mut delta = delta;
            while let Some(member) = delta.copied_at(partial.len).cloned() {
                let Some(source) = delta.sources.iter().find(|source| source.places.contains_key(&member.id())) else {
                    return Ok((partial, None)); // the recipe was made of these sources
                };
                let (from, at) = (source.key.clone(), source.places[&member.id()]);
                let file = match delta.open.take() {
                    Some((open, file)) if open == from => Some(file),
                    _ => cache.open_source(&from),
                };
                let before = partial.len;
                let copied = file.as_ref().map(|file| partial.copy_member(&member, file, at, stop)).transpose()?;
                if copied == Some(true) {
                    progress.reuse(partial.len - before);
                    delta.open = file.map(|file| (from, file));
                    continue;
                }
                warn!(artifact = %key, source = %from, "a cached tarball does not hold what it should; fetching that instead");
                // What it holds is to be found out anew.
                cache.0.index.try_update(|index| index.forget(&from));
                match delta.without(&from) {
                    Some(rest) => delta = rest,
                    None => return Ok((partial, None)),
                }
            }
            Ok((partial, Some(delta)))
        })
        .await
    }

    /// While it is read it is not removed by any steadfast.
    fn open_source(&self, key: &ArtifactKey) -> Option<File> {
        let path = self.0.layout.artifact(key);
        let file = self.0.layout.open(&path).ok()??;
        (files::lock(&file, Lock::Shared, Duration::ZERO).ok()? && still_names(&path, &file)).then_some(file)
    }

    /// Sees that the list of a tarball that has just come is here for the next one.
    pub(super) async fn learn_list(&self, artifact: &Artifact, from: &Location, progress: &Progress) {
        let Some(layers) = artifact.layers.as_ref().filter(|_| artifact.size_bytes >= MIN_SIZE) else { return };
        if let Some(at) = from.beside(&artifact.key, &layers.key) {
            self.list_at(layers, artifact.size_bytes, &at, progress, Asking::Now).await;
        }
    }
}

impl Partial {
    /// Copies a member, or what is missing of it. `false`, with nothing of it here, when the source does not hold it.
    fn copy_member(&mut self, member: &Member, from: &File, at: u64, stop: &AtomicBool) -> Result<bool, StoreError> {
        let begin = self.mark();
        // A member that was begun before is hashed from its beginning all the same.
        let here = self.len - member.offset;
        let mut hasher = Sha256::new();
        let mut chunk = vec![0; HASH_CHUNK];
        let mut done = 0;
        while done < member.length {
            if stop.load(Ordering::Relaxed) {
                return Err(self.refused(io::Error::other("copying was cancelled")));
            }
            let most = usize::try_from(member.length - done).map_or(HASH_CHUNK, |left| left.min(HASH_CHUNK));
            let read = match from.read_at(&mut chunk[..most], at + done) {
                Ok(0) => break,
                Ok(read) => read,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            hasher.update(&chunk[..read]);
            let known = usize::try_from(here.saturating_sub(done)).map_or(read, |known| known.min(read));
            self.append(&chunk[known..read])?;
            done += read as u64;
        }
        let is_it = done == member.length && Sha256Digest::from(hasher) == member.sha256;
        if !is_it {
            self.back_to(begin)?;
        }
        Ok(is_it)
    }

    fn refused(&self, err: io::Error) -> StoreError {
        failed("copy into", self.path())(err)
    }
}
