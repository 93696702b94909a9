//! The published manifest: JSON that lists agents, versions and artifacts. Untrusted input.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::ids::{Arch, ArtifactKey, IdError, Sha256Digest, clean, found};
use super::observed::CachedArtifact;

/// The largest manifest that is read, in bytes (4 MiB).
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// The manifest schema this build understands.
pub const MANIFEST_SCHEMA_VERSION: u64 = 2;

/// A parsed manifest. What it says of an artifact is checked when that artifact is asked for, since the entries of
/// agents and architectures that nobody wants may hold anything.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// When the publisher wrote it, as it stands there (RFC 3339 by convention, not checked).
    pub updated_at: String,
    /// Agents by name.
    pub agents: BTreeMap<String, ManifestAgent>,
    document: Value,
}

/// One agent as the manifest offers it.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestAgent {
    /// Image repository without tag, e.g. `ghcr.io/openclaw/openclaw`.
    pub image: String,
    /// The version on offer; with `image` it makes the image reference.
    pub version: String,
    tarballs: BTreeMap<String, Value>,
}

/// One image tarball, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Its key in the manifest and its path below the cache.
    pub key: ArtifactKey,
    /// What its bytes must hash to.
    pub sha256: Sha256Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
}

impl Artifact {
    /// The key of the file that holds these bytes where other bytes lie under the artifact's own key, which belong to
    /// another publisher.
    pub fn key_beside(&self) -> ArtifactKey {
        self.key.beside(&self.sha256)
    }

    /// The file that holds it: the one with its bytes, else the one in its place.
    pub fn find_in<'a>(
        &self,
        files: &'a BTreeMap<ArtifactKey, CachedArtifact>,
    ) -> Option<(&'a ArtifactKey, &'a CachedArtifact)> {
        let has_bytes = |(_, file): &(&ArtifactKey, &CachedArtifact)| file.digest == Some(self.sha256);
        let own = files.get_key_value(&self.key);
        own.filter(has_bytes).or_else(|| files.get_key_value(&self.key_beside()).filter(has_bytes)).or(own)
    }

    /// Whether a file holds its bytes, and that is proved.
    pub fn is_in(&self, files: &BTreeMap<ArtifactKey, CachedArtifact>) -> bool {
        self.find_in(files).is_some_and(|(_, file)| file.digest == Some(self.sha256))
    }
}

/// Why a manifest, or the part of it that is wanted, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_BYTES`].
    #[error("manifest is larger than {} MiB", MAX_MANIFEST_BYTES / (1024 * 1024))]
    TooLarge,
    /// Not JSON, or not the JSON of a manifest.
    #[error("manifest is not valid: {0}")]
    Invalid(String),
    /// Another schema.
    #[error("manifest has schemaVersion {found}, this build reads {MANIFEST_SCHEMA_VERSION}")]
    SchemaVersion {
        /// The value found there, as JSON.
        found: String,
    },
    /// The agent is not listed.
    #[error("the manifest has no agent `{agent}`; it offers {}", listed(offered))]
    NoAgent {
        /// The wanted agent.
        agent: String,
        /// The agents on offer.
        offered: Vec<String>,
    },
    /// The agent is listed at another version.
    #[error("the manifest offers `{agent}` at version {}, not {wanted}", clean(offered, 100))]
    OtherVersion {
        /// The wanted agent.
        agent: String,
        /// The wanted version.
        wanted: String,
        /// The version on offer.
        offered: String,
    },
    /// The agent is not published for this architecture.
    #[error("the manifest has no {arch} tarball of `{agent}`; it has {}", listed(offered))]
    NoArch {
        /// The wanted agent.
        agent: String,
        /// The wanted architecture.
        arch: Arch,
        /// The architectures on offer.
        offered: Vec<String>,
    },
    /// The state file pins other bytes.
    #[error("the manifest's {arch} tarball of `{agent}` has sha256 {offered}, the state file pins {pinned}")]
    Pinned {
        /// The wanted agent.
        agent: String,
        /// The wanted architecture.
        arch: Arch,
        /// What the manifest says.
        offered: Sha256Digest,
        /// What the state file says.
        pinned: Sha256Digest,
    },
    /// The wanted entry is broken.
    #[error("the manifest's {arch} tarball of `{agent}` is not valid: {why}")]
    Artifact {
        /// The wanted agent.
        agent: String,
        /// The wanted architecture.
        arch: Arch,
        /// What is wrong.
        why: String,
    },
}

/// How many words of a manifest an error lists.
const MAX_LISTED: usize = 10;

fn listed(words: &[String]) -> String {
    if words.is_empty() {
        return "none".into();
    }
    let shown = words.iter().take(MAX_LISTED).map(|word| found(word)).collect::<Vec<_>>().join(", ");
    match words.len().saturating_sub(MAX_LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What a parser says may repeat what it found.
fn invalid(err: &serde_json::Error) -> String {
    clean(&err.to_string(), 300)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawManifest {
    updated_at: String,
    agents: BTreeMap<String, RawAgent>,
}

#[derive(Deserialize)]
struct RawAgent {
    image: String,
    version: String,
    tarballs: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArtifact {
    key: String,
    sha256: String,
    size_bytes: u64,
}

impl Manifest {
    /// Parses published bytes.
    ///
    /// # Errors
    /// When the bytes are too many, not JSON, of another schema, or lack a field every manifest has.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        let document: Value = serde_json::from_slice(bytes).map_err(|err| ManifestError::Invalid(invalid(&err)))?;
        match document.get("schemaVersion") {
            Some(version) if version.as_u64() == Some(MANIFEST_SCHEMA_VERSION) => {}
            Some(other) => return Err(ManifestError::SchemaVersion { found: clean(&other.to_string(), 100) }),
            None => return Err(ManifestError::Invalid("it has no schemaVersion".into())),
        }
        let raw = RawManifest::deserialize(&document).map_err(|err| ManifestError::Invalid(invalid(&err)))?;
        let agents = raw
            .agents
            .into_iter()
            .map(|(name, agent)| {
                (name, ManifestAgent { image: agent.image, version: agent.version, tarballs: agent.tarballs })
            })
            .collect();
        Ok(Self { updated_at: raw.updated_at, agents, document })
    }

    /// The bytes that go into `cache/vm/manifest.json`: two-space-indented JSON in the published order, every field
    /// kept, with a final newline.
    pub fn to_pretty(&self) -> String {
        format!("{:#}\n", self.document)
    }

    /// The agent of this name.
    ///
    /// # Errors
    /// When it is not listed.
    pub fn agent(&self, agent: &str) -> Result<&ManifestAgent, ManifestError> {
        self.agents.get(agent).ok_or_else(|| ManifestError::NoAgent {
            agent: agent.to_owned(),
            offered: self.agents.keys().cloned().collect(),
        })
    }

    /// The checked artifact of `agent` for `arch`.
    ///
    /// # Errors
    /// When agent or architecture are missing, or the entry is broken.
    pub fn artifact(&self, agent: &str, arch: Arch) -> Result<Artifact, ManifestError> {
        let tarballs = &self.agent(agent)?.tarballs;
        let entry = tarballs.get(arch.as_str()).ok_or_else(|| ManifestError::NoArch {
            agent: agent.to_owned(),
            arch,
            offered: tarballs.keys().cloned().collect(),
        })?;
        let broken = |why: String| ManifestError::Artifact { agent: agent.to_owned(), arch, why };
        let raw = RawArtifact::deserialize(entry).map_err(|err| broken(invalid(&err)))?;
        let id = |err: IdError| broken(err.to_string());
        Ok(Artifact {
            key: ArtifactKey::new(raw.key).map_err(id)?,
            sha256: Sha256Digest::parse(&raw.sha256).map_err(id)?,
            size_bytes: raw.size_bytes,
        })
    }

    /// The architectures `agent` is published for, of those this build knows.
    pub fn arches(&self, agent: &str) -> Vec<Arch> {
        let Ok(agent) = self.agent(agent) else { return Vec::new() };
        Arch::ALL.into_iter().filter(|arch| agent.tarballs.contains_key(arch.as_str())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: &str = r#"{"schemaVersion":2,"updatedAt":"2026-04-24T00:00:00.000Z","agents":{"openclaw":{"image":"ghcr.io/openclaw/openclaw","version":"2026.4.12","tarballs":{"arm64":{"key":"vm/images/openclaw-2026.4.12-arm64.tar.gz","sha256":"unused","sizeBytes":1},"x64":{"key":"vm/images/openclaw-2026.4.12-x64.tar.gz","sha256":"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","sizeBytes":16}}}},"later":{"z":1,"a":2}}"#;

    #[test]
    fn only_the_wanted_entry_must_be_good() {
        let manifest = Manifest::parse(PUBLISHED.as_bytes()).unwrap();
        assert_eq!(manifest.artifact("openclaw", Arch::X64).unwrap().size_bytes, 16);
        let err = manifest.artifact("openclaw", Arch::Arm64).unwrap_err().to_string();
        assert_eq!(
            err,
            "the manifest's arm64 tarball of `openclaw` is not valid: `unused` is not a sha256: expected 64 hex digits"
        );
        let err = manifest.artifact("other", Arch::X64).unwrap_err().to_string();
        assert_eq!(err, "the manifest has no agent `other`; it offers `openclaw`");
    }

    #[test]
    fn a_hostile_manifest_does_not_fill_the_screen() {
        let word = format!("\u{1b}[2J{}", "x".repeat(100_000));
        let agent = serde_json::json!({"image": "i", "version": "1", "tarballs": {}});
        let agents: serde_json::Map<_, _> = (0..30).map(|n| (format!("{n:02}{word}"), agent.clone())).collect();
        let document = serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": agents});
        let manifest = Manifest::parse(document.to_string().as_bytes()).unwrap();
        let first = manifest.agents.keys().next().unwrap().clone();
        let other = ManifestError::OtherVersion { agent: "a".into(), wanted: "1".into(), offered: word.clone() };
        let no_agent = manifest.agent("other").unwrap_err();
        assert!(no_agent.to_string().ends_with(" and 20 more"), "{no_agent}");
        let schema = Manifest::parse(serde_json::json!({"schemaVersion": word}).to_string().as_bytes()).unwrap_err();
        let no_arch = ManifestError::NoArch { agent: "a".into(), arch: Arch::X64, offered: vec![first] };
        for err in [other, no_agent, schema, no_arch] {
            let text = err.to_string();
            assert!(text.len() < 2000 && !text.contains(char::is_control), "{} bytes", text.len());
        }
    }

    #[test]
    fn the_copy_keeps_order_and_unknown_fields() {
        let pretty = Manifest::parse(PUBLISHED.as_bytes()).unwrap().to_pretty();
        assert!(pretty.starts_with("{\n  \"schemaVersion\": 2,\n  \"updatedAt\""), "{pretty}");
        assert!(pretty.ends_with("\"later\": {\n    \"z\": 1,\n    \"a\": 2\n  }\n}\n"), "{pretty}");
        assert_eq!(Manifest::parse(pretty.as_bytes()).unwrap().to_pretty(), pretty);
    }

    #[test]
    fn what_is_not_a_manifest_is_said_plainly() {
        let error = |text: &str| Manifest::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(r#"{"schemaVersion":3}"#), "manifest has schemaVersion 3, this build reads 2");
        assert_eq!(error("{}"), "manifest is not valid: it has no schemaVersion");
        assert!(error("<html>").starts_with("manifest is not valid: expected value at line 1"));
        assert!(error(r#"{"schemaVersion":2,"updatedAt":"x"}"#).contains("missing field `agents`"));
        let huge = vec![b' '; MAX_MANIFEST_BYTES + 1];
        assert_eq!(Manifest::parse(&huge).unwrap_err(), ManifestError::TooLarge);
    }
}
