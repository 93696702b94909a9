//! The key of an artifact, checked where it enters.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Arch, IdError, Sha256Digest, found};
use crate::model::labels::{PARTIAL, PARTIAL_SIDECAR, TEMPORARY};
use crate::visible::acts;

/// The key of an artifact in the manifest, e.g. `vm/images/openclaw-2026.4.12-arm64.tar.gz`: a relative, normal path
/// below `vm/`, safe to join to the cache directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ArtifactKey(String);

fn lies_below(path: &str, upper: &str) -> bool {
    path.strip_prefix(upper).is_some_and(|rest| rest.starts_with('/'))
}

impl ArtifactKey {
    /// Checks that the key stays below `vm/` whatever the manifest says.
    ///
    /// # Errors
    /// When it is absolute, has `..`, `.`, an empty segment, a backslash or a control character, lies elsewhere, or has a
    /// place that the cache needs itself.
    pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
        let text = text.into();
        let refuse = |why: &str| Err(IdError(format!("artifact key {} {why}", found(&text))));
        if text.len() > 512 {
            return refuse("is longer than 512 bytes");
        }
        if text.starts_with('/') {
            return refuse("is absolute; keys are relative to the cache");
        }
        if text.contains('\\') || text.chars().any(acts) {
            return refuse("has a backslash or a control character");
        }
        if Path::new(&text).components().any(|part| !matches!(part, Component::Normal(_)))
            || text.split('/').any(|part| part.is_empty() || part == "." || part == "..")
        {
            return refuse("has `..`, `.` or an empty segment; keys must be plain paths");
        }
        if !text.starts_with("vm/") {
            return refuse("is not below `vm/`");
        }
        const MANIFEST: &str = "VM/MANIFEST.JSON";
        // To macOS, names that differ in case are the same, and some letters have two lower cases.
        let folded = if text.is_ascii() { text.to_ascii_uppercase() } else { text.to_uppercase() };
        if folded == MANIFEST {
            return refuse("is the manifest itself");
        }
        if lies_below(&folded, MANIFEST) {
            return refuse("lies below the manifest itself");
        }
        if folded == "VM/IMAGES" {
            return refuse("is the directory that tarballs lie in");
        }
        let ends = [PARTIAL, PARTIAL_SIDECAR].map(str::to_uppercase);
        if folded.split('/').any(|part| ends.iter().any(|end| part.ends_with(end.as_str()))) {
            return refuse("has a segment that ends like an unfinished download");
        }
        let beginning = TEMPORARY.to_uppercase();
        if folded.split('/').any(|part| part.starts_with(&beginning)) {
            return refuse("has a segment that begins like a temporary file");
        }
        Ok(Self(text))
    }

    /// Whether this key's file would lie in a directory of this path.
    pub fn is_below(&self, path: &str) -> bool {
        lies_below(&self.0, path)
    }

    /// The key as published.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last path segment.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Of a file named `<agent>-<version>-<arch>`, whatever follows the architecture after a dot: what stands before it,
    /// and the architecture.
    pub fn version_and_arch(&self) -> Option<(&str, Arch)> {
        let (end, arch, _) = self.arch_ends_at()?;
        Some((self.file_name().get(..end).filter(|stem| !stem.is_empty())?, arch))
    }

    /// Where in the file name the dash before the architecture stands, and where the architecture ends.
    fn arch_ends_at(&self) -> Option<(usize, Arch, usize)> {
        let name = self.file_name();
        let found = Arch::ALL.into_iter().flat_map(|arch| {
            let word = format!("-{arch}");
            let ends: Vec<_> = name.match_indices(&word).map(|(at, word)| (at, arch, at + word.len())).collect();
            ends
        });
        found.filter(|(_, _, end)| name.get(*end..).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))).max()
    }

    /// The key beside this one for bytes with this digest. It names the same agent, version and architecture.
    pub fn beside(&self, digest: &Sha256Digest) -> ArtifactKey {
        let short = &digest.to_string()[..16];
        let name = self.file_name();
        let at = self.arch_ends_at().map_or(name.len(), |(_, _, end)| end);
        let directory = self.0.strip_suffix(name).unwrap_or_default();
        let (before, after) = name.split_at(at);
        let fits = name.len() + short.len() < 255;
        let key = fits.then(|| Self::new(format!("{directory}{before}.{short}{after}")).ok()).flatten();
        key.unwrap_or_else(|| Self(format!("vm/images/{digest}")))
    }

    /// Where this artifact lies in a cache directory.
    pub fn path_in(&self, cache: &Path) -> PathBuf {
        cache.join(&self.0)
    }
}

impl fmt::Display for ArtifactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ArtifactKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl TryFrom<String> for ArtifactKey {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::new(text)
    }
}

impl From<ArtifactKey> for String {
    fn from(key: ArtifactKey) -> String {
        key.0
    }
}
