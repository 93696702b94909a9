//! What may go. Which artifacts are needed is decided by the caller, afresh each time; here is only the choice among
//! the others, and the removal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::partial::{blocking, try_hold};
use super::paths::{failed, remove_file};
use super::quarantine::{found, remove_all};
use super::{Cache, StoreError};
use crate::model::labels::TEMPORARY;
use crate::model::{Arch, ArtifactKey, CachedArtifact};

/// The copy of a manifest that was last written so long ago may be of a place that nobody uses any more (30 days).
const FORGOTTEN: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// A temporary file older than this has no living owner: writing a manifest or an index takes milliseconds.
const STALE_TEMPORARY: Duration = Duration::from_secs(60 * 60);

/// An unfinished download is resumed by whoever wants it again; after so long nobody is taken to.
const STALE_PARTIAL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// What is to be kept.
#[derive(Debug, Clone, Default)]
pub struct GcRequest {
    /// Artifacts that are desired, or whose image runs. Those of the last good manifest, and those in flight, are kept
    /// in any case.
    pub roots: BTreeSet<ArtifactKey>,
    /// The names of agents, to tell where a file name's version begins.
    pub agents: BTreeSet<String>,
    /// How many older versions to keep per agent and architecture beside the roots.
    pub keep: u32,
    /// Only say what would go.
    pub dry_run: bool,
}

/// Something that went, or would.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Garbage {
    /// Its path.
    pub path: PathBuf,
    /// The artifact, when it is one or an unfinished download of one.
    pub key: Option<ArtifactKey>,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What [`Cache::gc`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// What went (or would, when it was only asked): artifacts, abandoned downloads, quarantined and temporary files.
    pub removed: Vec<Garbage>,
    /// What would have gone, but is being read or written right now.
    pub busy: Vec<ArtifactKey>,
    /// How many artifacts stay.
    pub kept: usize,
}

impl GcReport {
    /// Bytes that became free, or would.
    pub fn freed(&self) -> u64 {
        self.removed.iter().map(|garbage| garbage.bytes).sum()
    }
}

/// The artifacts that may go, oldest version last kept first: those that are no roots, except the `keep` most recently
/// written per agent and architecture. Files not named `<name>-<version>-<arch>`, whatever comes after a dot behind that, are
/// not ours to judge and stay.
pub fn gc_candidates(
    files: &BTreeMap<ArtifactKey, CachedArtifact>,
    roots: &BTreeSet<ArtifactKey>,
    agents: &BTreeSet<String>,
    keep: u32,
) -> Vec<ArtifactKey> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (key, file) in files.iter().filter(|(key, _)| !roots.contains(*key)) {
        if let Some(group) = group(key, agents) {
            groups.entry(group).or_default().push((file.modified, key));
        }
    }
    let keep = usize::try_from(keep).unwrap_or(usize::MAX);
    let mut candidates = Vec::new();
    for versions in groups.values_mut() {
        versions.sort_by(|a, b| b.cmp(a));
        candidates.extend(versions.iter().skip(keep).map(|(_, key)| (*key).clone()));
    }
    candidates.sort();
    candidates
}

/// Agent and architecture of a file name. Both agents and versions may have dashes in them: a known agent decides,
/// else the version begins at the first digit after a dash.
fn group<'a>(key: &'a ArtifactKey, agents: &BTreeSet<String>) -> Option<(&'a str, Arch)> {
    let (stem, arch) = key.version_and_arch()?;
    let known = agents
        .iter()
        .filter(|agent| stem.strip_prefix(agent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.starts_with('-')))
        .map(String::len)
        .max();
    let begins = |at: &usize| {
        let rest = &stem[at + 1..];
        rest.strip_prefix('v').unwrap_or(rest).starts_with(|c: char| c.is_ascii_digit())
    };
    let guess = || stem.match_indices('-').map(|(at, _)| at).find(begins).or_else(|| stem.rfind('-'));
    let end = known.or_else(guess).filter(|end| *end > 0)?;
    Some((&stem[..end], arch))
}

impl Cache {
    /// Removes what nobody needs: artifacts beyond what is kept, downloads that nobody went on with for 7 days and no
    /// root wants, quarantined files, temporary files of killed processes. What is being read or written stays.
    ///
    /// # Errors
    /// When the cache cannot be read, or a file in it cannot be removed.
    pub async fn gc(&self, request: GcRequest) -> Result<GcReport, StoreError> {
        let cache = self.clone();
        blocking(move |_| cache.collect(request)).await
    }

    fn collect(&self, request: GcRequest) -> Result<GcReport, StoreError> {
        let GcRequest { mut roots, mut agents, keep, dry_run } = request;
        // What was accepted for a state file goes only with what says so.
        let accepted = self.accepted_copies();
        let mut forgotten = self.manifest_copies(true)?;
        forgotten.retain(|(path, _)| !accepted.contains(path));
        for path in forgotten.iter().map(|(path, _)| path).filter(|_| !dry_run) {
            remove_file(path)?;
        }
        for manifest in self.manifests() {
            roots.extend(manifest.listed().flat_map(|artifact| [artifact.key_beside(), artifact.key]));
            agents.extend(manifest.agents.into_keys());
        }
        let files = self.list_files()?;
        let garbage = forgotten.into_iter().map(|(path, bytes)| Garbage { path, key: None, bytes });
        let mut report = GcReport { kept: files.len(), removed: garbage.collect(), ..GcReport::default() };
        for key in gc_candidates(&files, &roots, &agents, keep) {
            let bytes = files.get(&key).map_or(0, |file| file.size);
            if dry_run || self.remove_artifact(&key)? {
                report.kept -= 1;
                report.removed.push(Garbage { path: self.0.layout.artifact(&key), key: Some(key), bytes });
            } else {
                report.busy.push(key);
            }
        }
        self.collect_partials(&roots, dry_run, &mut report)?;
        let leftovers = [self.quarantined()?, self.stale_temporaries()?, self.stale_lists()?];
        for (path, bytes) in leftovers.into_iter().flatten() {
            if !dry_run {
                remove_all(&path)?;
            }
            report.removed.push(Garbage { path, key: None, bytes });
        }
        if !dry_run && !report.removed.is_empty() {
            let there = self.list_files()?;
            self.0.index.try_update(|index| index.retain_files(|key| there.contains_key(key)));
        }
        Ok(report)
    }

    fn collect_partials(
        &self,
        roots: &BTreeSet<ArtifactKey>,
        dry_run: bool,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        for (path, metadata) in self.0.layout.walk()? {
            let Some(key) = self.0.layout.key_of_partial(&path).filter(|key| !roots.contains(key)) else { continue };
            let (partial, sidecar) = (self.0.layout.partial(&key), self.0.layout.sidecar(&key));
            let orphan = path == sidecar && found(&partial)?.is_none();
            if path == sidecar && !orphan {
                continue; // goes with its partial
            }
            // The lock is held while the files go, so that nobody takes them up in between.
            if !orphan && !older_than(&metadata, STALE_PARTIAL) {
                continue;
            }
            let lock = if orphan { None } else { try_hold(&self.0.layout, &partial)? };
            if !orphan && lock.is_none() {
                report.busy.push(key);
                continue;
            }
            if !dry_run {
                remove_file(&sidecar)?;
                remove_file(&partial)?;
            }
            report.removed.push(Garbage { path, key: Some(key), bytes: metadata.len() });
        }
        Ok(())
    }

    fn quarantined(&self) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let directory = self.0.layout.quarantine();
        self.0.layout.guard(&directory.join("x"))?;
        files_in(&directory, |_, _| true)
    }

    /// Copies of the manifests of places: those that nobody has written for long, or the others. Where a forgotten one is
    /// still in use, it is recreated.
    pub(super) fn manifest_copies(&self, forgotten: bool) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let wanted = |name: &str, metadata: &fs::Metadata| {
            name.ends_with(".json") && older_than(metadata, FORGOTTEN) == forgotten
        };
        let directory = self.0.layout.manifests();
        self.0.layout.guard(&directory.join("x"))?;
        files_in(&directory, wanted)
    }

    fn stale_temporaries(&self) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let stale =
            |name: &str, metadata: &fs::Metadata| name.starts_with(TEMPORARY) && older_than(metadata, STALE_TEMPORARY);
        let cache = self.0.layout.cache();
        let mut found = files_in(&cache, stale)?;
        found.extend(files_in(&cache.join("vm"), stale)?);
        Ok(found)
    }
}

/// Whether the file was last written longer ago than this.
pub(super) fn older_than(metadata: &fs::Metadata, limit: Duration) -> bool {
    let age = metadata.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
    age.is_some_and(|age| age > limit)
}

pub(super) fn files_in(
    directory: &Path,
    wanted: impl Fn(&str, &fs::Metadata) -> bool,
) -> Result<Vec<(PathBuf, u64)>, StoreError> {
    let entries = match fs::read_dir(directory) {
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(failed("list", directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed("list", directory))?;
        let Ok(metadata) = entry.metadata() else { continue };
        if wanted(&entry.file_name().to_string_lossy(), &metadata) {
            found.push((entry.path(), metadata.len()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ArtifactKey {
        ArtifactKey::new(format!("vm/images/{name}")).unwrap()
    }

    fn files(names: &[&str]) -> BTreeMap<ArtifactKey, CachedArtifact> {
        let at = |age: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64);
        let file = |age| CachedArtifact { size: 1, digest: None, image: None, modified: at(age) };
        names.iter().enumerate().map(|(age, name)| (key(name), file(age))).collect()
    }

    fn go(names: &[&str], roots: &[&str], agents: &[&str], keep: u32) -> Vec<String> {
        let roots = roots.iter().map(|name| key(name)).collect();
        let agents = agents.iter().map(|agent| (*agent).to_owned()).collect();
        let candidates = gc_candidates(&files(names), &roots, &agents, keep);
        candidates.iter().map(|key| key.file_name().to_owned()).collect()
    }

    #[test]
    fn the_newest_others_are_kept_per_agent_and_arch() {
        let names = ["a-1-x64.tar.gz", "a-2-x64.tar.gz", "a-3-x64.tar.gz", "a-1-arm64.tar.gz", "b-1-x64.tar.gz"];
        assert_eq!(go(&names, &["a-3-x64.tar.gz"], &[], 1), ["a-1-x64.tar.gz"]);
        assert_eq!(go(&names, &["a-1-x64.tar.gz"], &[], 1), ["a-2-x64.tar.gz"]);
        assert_eq!(go(&names, &[], &[], 3), Vec::<String>::new());
        assert_eq!(go(&names, &["a-3-x64.tar.gz"], &[], 0).len(), 4);
    }

    #[test]
    fn dashes_in_names_and_versions_are_distinguished_by_the_known_agents() {
        let names = ["a-1-x64.tar.gz", "a-1-b-2-x64.tar.gz", "a-1-b-rc-1-x64.tar.gz"];
        assert_eq!(go(&names, &[], &["a", "a-1-b"], 1), ["a-1-b-2-x64.tar.gz"]);
        assert_eq!(go(&["tool-main-x64.tar.gz", "tool-next-x64.tar.gz"], &[], &[], 1), ["tool-main-x64.tar.gz"]);
    }

    #[test]
    fn files_of_another_shape_stay() {
        let names = ["notes.txt", "a-1-sparc.tar.gz", "x64.tar.gz", "-1-x64.tar.gz", "a-1-x64b.tar.zst"];
        assert_eq!(go(&names, &[], &[], 0), Vec::<String>::new());
    }

    #[test]
    fn old_versions_go_whatever_their_names_end_in() {
        for ending in [".tar.gz", ".tar.zst", ".tar", ".tgz", ".oci.tar", ""] {
            let names = ["1", "2", "3"].map(|version| format!("a-1.{version}-x64{ending}"));
            let names = names.each_ref().map(String::as_str);
            assert_eq!(go(&names, &names[2..], &["a"], 1), names[..1], "{ending}");
        }
        // Bytes of another publisher under the same key are a version beside it.
        let names = ["a-1-x64.0123456789abcdef.tar.gz", "a-1-x64.tar.gz", "a-2-x64.tar.zst"];
        assert_eq!(go(&names, &names[2..], &["a"], 1), names[..1]);
    }
}
