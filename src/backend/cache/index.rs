//! `index.json`: what is known of files without reading them. Derived; deleting it costs a re-hash and nothing else.
//!
//! An entry is believed only while the file is the very one it was made of: same device, inode, size and times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::paths::{Layout, failed};
use crate::backend::StoreError;
use crate::error::Chain;
use crate::model::{ArtifactKey, ImageId, ImageRef, LoadedImage, Sha256Digest};
use crate::mutex::guard;

const VERSION: u32 = 1;

/// An index larger than this is not ours (10,000 artifacts take about 4 MiB).
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// How many images are remembered whose tarball is no longer here.
const MAX_IMAGES: usize = 4096;

/// How many tarballs are remembered that do not hold what was wanted, and how many names of each.
const MAX_HOLDS: usize = 64;
const MAX_NAMES: usize = 100;

/// A file written to this recently may be written to again without its times changing: the kernel's clock ticks every
/// 1 to 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// As [`TICK`], on a file system that keeps whole seconds.
const COARSE_TICK: Duration = Duration::from_millis(1100);

/// Everything that changes when a file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: i64,
    ctime: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: nanos(metadata.mtime(), metadata.mtime_nsec()),
            ctime: nanos(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How many bytes the file has.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether nothing was written to the file between the two; it may have been renamed.
    pub(super) fn has_bytes_of(&self, other: &Self) -> bool {
        Self { ctime: other.ctime, ..*self } == *other
    }

    /// How long to wait until a further write to this file could not go unseen.
    pub(super) fn unsettled_for(&self, now: SystemTime) -> Option<Duration> {
        let coarse = self.mtime % 1_000_000_000 == 0 && self.ctime % 1_000_000_000 == 0;
        let tick = if coarse { COARSE_TICK } else { TICK };
        let now = i64::try_from(now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()?;
        // A file from the future (the clock was set back) is no risk: the next write brings it to the present.
        let age = u64::try_from(now.saturating_sub(self.ctime.max(self.mtime))).ok()?;
        tick.checked_sub(Duration::from_nanos(age)).filter(|wait| !wait.is_zero())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Entry {
    #[serde(flatten)]
    stamp: Stamp,
    sha256: Sha256Digest,
    /// The sha256 of the URL that it was fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    place: Option<Sha256Digest>,
    /// What the list of its members hashes to, as the manifest said that it was fetched by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    layers: Option<Sha256Digest>,
    /// For people who read the file; [`Index::image`] goes by digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<ImageId>,
}

/// Which published version the copy in the cache is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ManifestOrigin {
    /// The sha256 of its URL, which may hold a secret.
    pub(super) place: Sha256Digest,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// The sha256 of the copy.
    pub(super) copy: Sha256Digest,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    #[serde(default)]
    files: BTreeMap<ArtifactKey, Entry>,
    #[serde(default)]
    images: BTreeMap<Sha256Digest, ImageId>,
    /// Images that loading brought into an engine, and that are ours to remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    loaded: BTreeMap<ImageId, Loaded>,
    /// The names in tarballs that were found not to hold what was wanted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    holds: BTreeMap<Sha256Digest, Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<ManifestOrigin>,
}

/// See [`crate::model::LoadedImage`].
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Loaded {
    artifact: Sha256Digest,
    reference: ImageRef,
}

impl Default for Index {
    fn default() -> Self {
        let (files, images, loaded, holds) = Default::default();
        Self { version: VERSION, files, images, loaded, holds, manifest: None }
    }
}

impl Index {
    /// What the file with this stamp hashes to, where that is known.
    pub(super) fn digest(&self, key: &ArtifactKey, stamp: &Stamp) -> Option<Sha256Digest> {
        self.files.get(key).filter(|entry| entry.stamp == *stamp).map(|entry| entry.sha256)
    }

    pub(super) fn image(&self, digest: &Sha256Digest) -> Option<&ImageId> {
        self.images.get(digest)
    }

    /// Where the file with this stamp was fetched from, where that is known.
    pub(super) fn place(&self, key: &ArtifactKey, stamp: &Stamp) -> Option<Sha256Digest> {
        self.files.get(key).filter(|entry| entry.stamp == *stamp)?.place
    }

    /// `place` is the one it was fetched from just now. Bytes that are only hashed again came from where they came.
    pub(super) fn put(&mut self, key: ArtifactKey, stamp: Stamp, sha256: Sha256Digest, place: Option<Sha256Digest>) {
        let image = self.images.get(&sha256).cloned();
        let before = self.files.get(&key).filter(|entry| entry.sha256 == sha256);
        let (place, layers) = (place.or(before.and_then(|entry| entry.place)), before.and_then(|entry| entry.layers));
        self.files.insert(key, Entry { stamp, sha256, place, layers, image });
    }

    /// Which list a tarball has.
    pub(super) fn put_layers(&mut self, key: &ArtifactKey, layers: Sha256Digest) {
        if let Some(entry) = self.files.get_mut(key) {
            entry.layers = Some(layers);
        }
    }

    /// What the list of a tarball's members hashes to, where that is known.
    pub(super) fn layers(&self, key: &ArtifactKey) -> Option<Sha256Digest> {
        self.files.get(key)?.layers
    }

    /// Every list that a tarball here has.
    pub(super) fn all_layers(&self) -> BTreeSet<Sha256Digest> {
        self.files.values().filter_map(|entry| entry.layers).collect()
    }

    /// The images that are ours to remove.
    pub(super) fn loaded(&self) -> BTreeMap<ImageId, LoadedImage> {
        let loaded = |loaded: &Loaded| LoadedImage { artifact: loaded.artifact, reference: loaded.reference.clone() };
        self.loaded.iter().map(|(image, it)| (image.clone(), loaded(it))).collect()
    }

    pub(super) fn put_loaded(&mut self, image: &ImageId, artifact: Sha256Digest, reference: &ImageRef) {
        self.loaded.insert(image.clone(), Loaded { artifact, reference: reference.clone() });
    }

    pub(super) fn forget_loaded(&mut self, image: &ImageId) {
        self.loaded.remove(image);
    }

    /// The names in a tarball that was found not to hold what was wanted.
    pub(super) fn names_in(&self, digest: &Sha256Digest) -> Option<&Vec<String>> {
        self.holds.get(digest)
    }

    pub(super) fn put_names_in(&mut self, digest: Sha256Digest, names: &[String]) {
        if self.holds.len() >= MAX_HOLDS {
            self.holds.clear();
        }
        self.holds.insert(digest, names.iter().take(MAX_NAMES).cloned().collect());
    }

    pub(super) fn forget(&mut self, key: &ArtifactKey) {
        self.files.remove(key);
    }

    pub(super) fn put_image(&mut self, digest: Sha256Digest, image: &ImageId) {
        self.images.insert(digest, image.clone());
        for entry in self.files.values_mut().filter(|entry| entry.sha256 == digest) {
            entry.image = Some(image.clone());
        }
        if self.images.len() > MAX_IMAGES {
            let here: Vec<_> = self.files.values().map(|entry| entry.sha256).collect();
            self.images.retain(|known, _| *known == digest || here.contains(known));
        }
    }

    /// Forgets files for which `is_there` is false.
    pub(super) fn retain_files(&mut self, is_there: impl Fn(&ArtifactKey) -> bool) {
        self.files.retain(|key, _| is_there(key));
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|index| index.version == VERSION)
    }
}

/// The index file with the copy of it that was last read, or could not be written.
#[derive(Debug)]
pub(super) struct IndexFile {
    layout: Layout,
    /// Good while the file has this stamp; `None` while there is no file that can be opened.
    memory: Mutex<Option<(Option<Stamp>, Arc<Index>)>>,
}

impl IndexFile {
    pub(super) fn new(layout: Layout) -> Self {
        Self { layout, memory: Mutex::new(None) }
    }

    /// The index as it stands. Missing, unreadable or filled with garbage, it is empty.
    pub(super) fn read(&self) -> Arc<Index> {
        self.read_stamped().1
    }

    fn read_stamped(&self) -> (Option<Stamp>, Arc<Index>) {
        self.read_file().unwrap_or_else(|err| {
            warn!(err = %Chain(&err), "cannot read the cache index; files will be hashed again");
            (None, self.remembered(None).unwrap_or_default())
        })
    }

    fn remembered(&self, stamp: Option<Stamp>) -> Option<Arc<Index>> {
        let memory = guard(&self.memory);
        memory.as_ref().filter(|(known, _)| *known == stamp).map(|(_, index)| Arc::clone(index))
    }

    fn remember(&self, stamp: Option<Stamp>, index: &Arc<Index>) {
        *guard(&self.memory) = Some((stamp, Arc::clone(index)));
    }

    fn read_file(&self) -> Result<(Option<Stamp>, Arc<Index>), StoreError> {
        let path = self.layout.index();
        let Some(file) = self.layout.open(&path)? else {
            return Ok((None, self.remembered(None).unwrap_or_default()));
        };
        let stamp = Stamp::of(&file.metadata().map_err(failed("inspect", &path))?);
        if let Some(index) = self.remembered(Some(stamp)) {
            return Ok((Some(stamp), index));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(stamp.size.min(MAX_BYTES)).unwrap_or_default());
        file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        let index = Index::parse(&bytes).unwrap_or_else(|| {
            warn!("the cache index is not readable as one; files will be hashed again");
            Index::default()
        });
        let index = Arc::new(index);
        self.remember(Some(stamp), &index);
        Ok((Some(stamp), index))
    }

    /// Changes the index: read, changed and written under a lock, so that two processes keep each other's entries.
    /// Blocks while another process writes its own, which takes milliseconds. What cannot be written is remembered by
    /// this process, until the file changes.
    pub(super) fn update(&self, change: impl FnOnce(&mut Index)) -> Result<(), StoreError> {
        let lock = self.lock();
        let (stamp, index) = self.read_stamped();
        let mut index = Index::clone(&index);
        change(&mut index);
        let written = lock.and_then(|_lock| {
            let bytes = serde_json::to_vec_pretty(&index)
                .map_err(|err| failed("write", &self.layout.index())(std::io::Error::from(err)))?;
            self.layout.replace(&self.layout.index(), false, |mut file| file.write_all(&bytes))
        });
        if written.is_err() {
            self.remember(stamp, &Arc::new(index));
        }
        written
    }

    fn lock(&self) -> Result<File, StoreError> {
        let path = self.layout.index_lock();
        let lock = self.layout.open_or_create(&path)?;
        File::lock(&lock).map_err(failed("lock", &path))?;
        Ok(lock)
    }

    /// As [`IndexFile::update`], for what is only convenience: a cache that cannot be written to is still good to read.
    pub(super) fn try_update(&self, change: impl FnOnce(&mut Index)) {
        if let Err(err) = self.update(change) {
            warn!(err = %Chain(&err), "cannot write the cache index; files will be hashed again next time");
        }
    }
}

#[cfg(test)]
mod tests;
