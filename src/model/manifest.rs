//! The published manifest: JSON that lists agents, versions and artifacts. Untrusted input.

mod clash;
mod error;

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::debug;

use super::desired::Version;
use super::hashing::Hashing;
use super::ids::{AgentName, Arch, ArtifactKey, IdError, Sha256Digest, clean};
use super::layers::Layers;
use super::observed::CachedArtifact;
use crate::trust::Signed;
pub use error::ManifestError;

/// The largest published manifest that is read, in bytes (4 MiB).
pub(crate) const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// The largest local copy of one, in bytes (16 MiB): indenting makes an honest manifest half as large again, and one that
/// only nests a hundred times larger.
pub(crate) const MAX_COPY_BYTES: usize = 16 * 1024 * 1024;

/// The manifest schema this build understands.
pub(crate) const MANIFEST_SCHEMA_VERSION: u64 = 2;

/// A parsed manifest. What is wrong with an entry is said when that one is asked for, since the entries of agents and
/// architectures that nobody wants may hold anything.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// When the publisher wrote it, as it stands there (RFC 3339 by convention, not checked).
    pub updated_at: String,
    /// Agents by name.
    pub agents: BTreeMap<String, ManifestAgent>,
    /// What its signature says, where one was wanted and is right for it.
    pub signed: Option<Arc<Signed>>,
    /// It was accepted, and what it names is not all there yet: the cached manifest is still an older one.
    pub is_pending: bool,
    text: Arc<str>,
    copy: Sha256Digest,
}

impl PartialEq for Manifest {
    /// Two say the same when their copies are the same, however they were spaced when they were published and whoever signed
    /// them.
    fn eq(&self, other: &Self) -> bool {
        self.copy == other.copy
    }
}

/// One agent as the manifest offers it.
#[derive(Debug, Clone)]
pub struct ManifestAgent {
    /// Image repository without tag, e.g. `ghcr.io/openclaw/openclaw`.
    pub image: String,
    /// The version on offer; with `image` it makes the image reference.
    pub version: String,
    tarballs: BTreeMap<String, Result<Artifact, String>>,
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
    /// Where its members are listed, where they are. Without it, it is fetched whole.
    pub layers: Option<Layers>,
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

    /// Refuses other bytes than those that `pins` name.
    ///
    /// # Errors
    /// [`ManifestError::Pinned`].
    pub fn pinned_by(
        self,
        pins: &BTreeMap<Arch, Sha256Digest>,
        agent: &AgentName,
        arch: Arch,
    ) -> Result<Self, ManifestError> {
        match pins.get(&arch) {
            Some(pin) if *pin != self.sha256 => {
                Err(ManifestError::Pinned { agent: agent.to_string(), arch, offered: self.sha256, pinned: *pin })
            }
            _ => Ok(self),
        }
    }

    /// Whether a file holds its bytes, and that is proved.
    pub fn is_in(&self, files: &BTreeMap<ArtifactKey, CachedArtifact>) -> bool {
        self.find_in(files).is_some_and(|(_, file)| file.digest == Some(self.sha256))
    }
}

/// What a parser says may repeat what it found. Where a field is wrong it counts from the beginning of an entry, which helps
/// nobody.
fn invalid(err: &serde_json::Error) -> String {
    let said = err.to_string();
    let why = said.rsplit_once(" at line ").map_or(said.as_str(), |(why, _)| why);
    clean(if err.is_data() { why } else { &said }, 300)
}

/// What is read first: all else depends on it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawHead<'a> {
    #[serde(borrow)]
    schema_version: Option<&'a RawValue>,
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
    tarballs: BTreeMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawArtifact {
    key: String,
    sha256: String,
    size_bytes: u64,
}

/// Read apart from the rest, which is good without it.
#[derive(Deserialize)]
struct RawListed {
    layers: Option<RawLayers>,
}

#[derive(Deserialize)]
struct RawLayers {
    key: String,
    sha256: String,
}

impl Layers {
    fn parse(entry: &RawValue) -> Result<Option<Self>, String> {
        let raw: RawListed = serde_json::from_str(entry.get()).map_err(|err| invalid(&err))?;
        let Some(raw) = raw.layers else { return Ok(None) };
        let id = |err: IdError| err.to_string();
        let (key, sha256) = (ArtifactKey::new(raw.key).map_err(id)?, Sha256Digest::parse(&raw.sha256).map_err(id)?);
        Ok(Some(Self { key, sha256 }))
    }
}

impl Artifact {
    fn parse(entry: &RawValue) -> Result<Self, String> {
        let raw: RawArtifact = serde_json::from_str(entry.get()).map_err(|err| invalid(&err))?;
        let id = |err: IdError| err.to_string();
        Ok(Self {
            key: ArtifactKey::new(raw.key).map_err(id)?,
            sha256: Sha256Digest::parse(&raw.sha256).map_err(id)?,
            size_bytes: raw.size_bytes,
            layers: Layers::parse(entry).unwrap_or_else(|why| {
                debug!(%why, "the layers of a tarball's entry are not valid; it is fetched whole");
                None
            }),
        })
    }
}

/// Passes on what is written, up to a limit, and keeps what failed: on the way through serde only its words are left.
struct Bounded<W> {
    to: W,
    left: usize,
    failed: Option<io::Error>,
}

impl<W: Write> Write for Bounded<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match self.left.checked_sub(bytes.len()) {
            Some(left) => {
                self.left = left;
                self.to.write_all(bytes)
            }
            None => Err(io::ErrorKind::FileTooLarge.into()),
        };
        written.map(|()| bytes.len()).map_err(|err| {
            let kind = err.kind();
            self.failed = Some(err);
            kind.into()
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Two-space-indented JSON in the published order, every field kept, with a final newline; value by value, so that what
/// nests deeply takes no more memory than its text.
fn indent(text: &str, to: &mut impl Write) -> io::Result<()> {
    // What is written comes in pieces of a byte or two.
    let mut to = Bounded { to: BufWriter::new(to), left: MAX_COPY_BYTES, failed: None };
    let mut published = serde_json::Deserializer::from_str(text);
    let indented = serde_transcode::transcode(&mut published, &mut serde_json::Serializer::pretty(&mut to));
    if let Some(err) = to.failed {
        return Err(err);
    }
    indented?;
    to.write_all(b"\n")?;
    to.flush()
}

impl Manifest {
    /// Parses published bytes.
    ///
    /// # Errors
    /// When the bytes are too many, not JSON, of another schema, lack a field every manifest has, or could not be kept as
    /// a copy.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ManifestError::TooLarge);
        }
        Self::parse_copy(bytes)
    }

    /// Parses the bytes of a local copy, which may be larger than what was published.
    ///
    /// # Errors
    /// As [`Manifest::parse`].
    pub fn parse_copy(bytes: &[u8]) -> Result<Self, ManifestError> {
        let broken = |err: serde_json::Error| ManifestError::Invalid(invalid(&err));
        if bytes.len() > MAX_COPY_BYTES {
            return Err(ManifestError::CopyTooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(|err| ManifestError::Invalid(err.to_string()))?;
        let mut copy = Hashing::new(io::sink());
        indent(text, &mut copy).map_err(|err| match err.kind() {
            io::ErrorKind::FileTooLarge => ManifestError::CopyTooLarge,
            _ => ManifestError::Invalid(clean(&err.to_string(), 300)),
        })?;
        let has_fields = text.trim_start().starts_with('{');
        let head = has_fields.then(|| serde_json::from_str::<RawHead<'_>>(text)).transpose().map_err(broken)?;
        match head.and_then(|head| head.schema_version).map(RawValue::get) {
            Some(version) if version.parse() == Ok(MANIFEST_SCHEMA_VERSION) => {}
            Some(other) => return Err(ManifestError::SchemaVersion { found: clean(other, 100) }),
            None => return Err(ManifestError::Invalid("it has no schemaVersion".into())),
        }
        let raw: RawManifest = serde_json::from_str(text).map_err(broken)?;
        let offered = raw.agents.into_iter().map(|(name, RawAgent { image, version, tarballs })| {
            let tarballs = tarballs.into_iter().map(|(arch, entry)| (arch, Artifact::parse(&entry))).collect();
            (name, ManifestAgent { image, version, tarballs })
        });
        let mut agents = offered.collect();
        clash::settle(&mut agents);
        Ok(Self {
            updated_at: raw.updated_at,
            agents,
            signed: None,
            is_pending: false,
            text: text.into(),
            copy: copy.finish().1,
        })
    }

    /// Writes the bytes that go into `cache/vm/manifest.json`: two-space-indented JSON in the published order, every field
    /// kept, with a final newline; at most [`MAX_COPY_BYTES`].
    ///
    /// # Errors
    /// What `to` says.
    pub fn write_copy(&self, mut to: impl Write) -> io::Result<()> {
        indent(&self.text, &mut to)
    }

    /// What the bytes of [`Manifest::write_copy`] hash to.
    pub fn copy_sha256(&self) -> Sha256Digest {
        self.copy
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
        let broken = |why| ManifestError::Artifact { agent: agent.to_owned(), arch, why };
        entry.clone().map_err(broken)
    }

    /// As [`Manifest::artifact`], of the version that is wanted.
    ///
    /// # Errors
    /// As there, and when another version is on offer.
    pub fn select(&self, agent: &AgentName, version: &Version, arch: Arch) -> Result<Artifact, ManifestError> {
        let offered = &self.agent(agent.as_str())?.version;
        match version {
            Version::Exact(wanted) if wanted != offered => Err(ManifestError::OtherVersion {
                agent: agent.to_string(),
                wanted: wanted.clone(),
                offered: offered.clone(),
            }),
            _ => self.artifact(agent.as_str(), arch),
        }
    }

    /// Every artifact, agent by agent, of the architectures that this build knows.
    pub fn artifacts(&self) -> impl Iterator<Item = Result<Artifact, ManifestError>> {
        self.agents.keys().flat_map(|agent| self.arches(agent).into_iter().map(|arch| self.artifact(agent, arch)))
    }

    /// The artifacts whose entry is good.
    pub fn listed(&self) -> impl Iterator<Item = Artifact> {
        self.artifacts().filter_map(Result::ok)
    }

    /// The architectures `agent` is published for, of those this build knows.
    pub fn arches(&self, agent: &str) -> Vec<Arch> {
        let Ok(agent) = self.agent(agent) else { return Vec::new() };
        Arch::ALL.into_iter().filter(|arch| agent.tarballs.contains_key(arch.as_str())).collect()
    }
}

#[cfg(test)]
mod tests;
