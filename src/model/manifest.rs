//! The published manifest: JSON that lists agents, versions and artifacts. Untrusted input.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::debug;

use super::desired::Version;
use super::hashing::Hashing;
use super::ids::{AgentName, Arch, ArtifactKey, IdError, Sha256Digest, clean, found};
use super::layers::Layers;
use super::observed::CachedArtifact;
use crate::trust::Signed;

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

/// Why a manifest, or the part of it that is wanted, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Longer than [`MAX_MANIFEST_BYTES`].
    #[error("manifest is larger than {}", crate::sizes::limit(MAX_MANIFEST_BYTES))]
    TooLarge,
    /// Its copy would be longer than [`MAX_COPY_BYTES`].
    #[error("manifest is larger than {} once it is indented: it nests too deeply", crate::sizes::limit(MAX_COPY_BYTES))]
    CopyTooLarge,
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
fn settle(agents: &mut BTreeMap<String, ManifestAgent>) {
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
        settle(&mut agents);
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

    fn copy(manifest: &Manifest) -> String {
        let mut bytes = Vec::new();
        manifest.write_copy(&mut bytes).unwrap();
        assert_eq!(manifest.copy_sha256(), Sha256Digest::of(&bytes));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_copy_keeps_order_and_unknown_fields() {
        let published = Manifest::parse(PUBLISHED.as_bytes()).unwrap();
        let pretty = copy(&published);
        assert!(pretty.starts_with("{\n  \"schemaVersion\": 2,\n  \"updatedAt\""), "{pretty}");
        assert!(pretty.ends_with("\"later\": {\n    \"z\": 1,\n    \"a\": 2\n  }\n}\n"), "{pretty}");
        let again = Manifest::parse_copy(pretty.as_bytes()).unwrap();
        assert_eq!(copy(&again), pretty);
        assert_eq!(again, published);
    }

    /// A manifest with the fields every one has, and one more.
    fn with_field(field: &str) -> String {
        format!(r#"{{"schemaVersion":2,"updatedAt":"","agents":{{}},"more":{field}}}"#)
    }

    #[test]
    fn numbers_and_empty_values_are_kept_as_they_are() {
        let field =
            r#"[0.1,1.0,-0.0,1e-7,123456789.12345679,4.35,18446744073709551615,-9223372036854775808,[],{},"",null]"#;
        let pretty = copy(&Manifest::parse(with_field(field).as_bytes()).unwrap());
        let kept: String = pretty.split_once("\"more\":").unwrap().1.split_whitespace().collect();
        assert_eq!(kept, format!("{field}}}"));
        assert_eq!(copy(&Manifest::parse_copy(pretty.as_bytes()).unwrap()), pretty);
    }

    #[test]
    fn the_copy_of_a_large_manifest_can_be_read_again() {
        let entry = serde_json::json!({"key": "vm/images/a-1-x64.tar.gz", "sha256": "0".repeat(64), "sizeBytes": 1});
        let agents: serde_json::Map<_, _> = (0..13_000)
            .map(|n| {
                let agent =
                    serde_json::json!({"image": "i", "version": "1", "tarballs": {"x64": entry, "arm64": entry}});
                (format!("agent-{n}"), agent)
            })
            .collect();
        let document = serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": agents}).to_string();
        assert!(document.len() > 3_000_000 && document.len() < MAX_MANIFEST_BYTES);
        let published = Manifest::parse(document.as_bytes()).unwrap();
        let pretty = copy(&published);
        assert!(pretty.len() > MAX_MANIFEST_BYTES);
        assert_eq!(Manifest::parse_copy(pretty.as_bytes()).unwrap(), published);
    }

    #[test]
    fn what_only_nests_is_refused_before_it_is_written() {
        let zeros = vec!["0"; 16 * 1024].join(",");
        let nested = format!("{}[{zeros}]{}", "[".repeat(100), "]".repeat(100));
        let fits = Manifest::parse(with_field(&nested).as_bytes()).unwrap();
        assert!(copy(&fits).len() > 100 * zeros.len() / 2);
        let zeros = vec!["0"; 2_000_000].join(",");
        let nested = format!("{}[{zeros}]{}", "[".repeat(100), "]".repeat(100));
        let err = Manifest::parse(with_field(&nested).as_bytes()).unwrap_err();
        assert_eq!(err, ManifestError::CopyTooLarge);
        let too_deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let err = Manifest::parse(with_field(&too_deep).as_bytes()).unwrap_err().to_string();
        assert!(err.contains("recursion limit exceeded"), "{err}");
    }

    /// What is said of each agent's only tarball.
    fn said_of(keys: &[(&str, u8)]) -> Vec<Option<String>> {
        let name = |at: usize| format!("a{at}");
        let agents = keys.iter().enumerate().map(|(at, (key, byte))| {
            let entry =
                serde_json::json!({"key": key, "sha256": Sha256Digest::from_bytes([*byte; 32]), "sizeBytes": 1});
            (name(at), serde_json::json!({"image": "i", "version": "1", "tarballs": {"x64": entry}}))
        });
        let agents: serde_json::Map<_, _> = agents.collect();
        let document = serde_json::json!({"schemaVersion": 2, "updatedAt": "", "agents": agents});
        let manifest = Manifest::parse(document.to_string().as_bytes()).unwrap();
        (0..keys.len()).map(|at| manifest.artifact(&name(at), Arch::X64).err().map(|err| err.to_string())).collect()
    }

    #[test]
    fn a_key_in_the_way_of_another_is_refused_and_the_others_are_not() {
        let said = said_of(&[("vm/a/b", 1), ("vm/a", 2), ("vm/a.b", 3), ("vm/a/c/d", 4), ("vm/ab", 5)]);
        let below = |agent: &str, key: &str| {
            Some(format!(
                "the manifest's x64 tarball of `{agent}` is not valid: artifact key `{key}` lies below `vm/a`, which is \
                 another tarball's key"
            ))
        };
        assert_eq!(said, [below("a0", "vm/a/b"), None, None, below("a3", "vm/a/c/d"), None]);
        let said = said_of(&[("vm/a", 1), ("vm/a", 2), ("vm/b", 3), ("vm/b", 3)]);
        assert!(said[0].as_ref().unwrap().ends_with("`vm/a` is also the key of a tarball with another sha256"));
        assert!(said[1].is_some());
        assert_eq!(said[2..], [None, None], "the same bytes may be named twice");
    }

    /// What is read of the layers of the first of these tarballs, each with its key and its `layers`.
    fn layers_of(entries: &[(&str, &str)]) -> Option<Layers> {
        let agents: Vec<_> = entries
            .iter()
            .enumerate()
            .map(|(at, (key, layers))| {
                let sha256 = Sha256Digest::from_bytes([at as u8; 32]);
                format!(
                    r#""a{at}":{{"image":"i","version":"1","tarballs":{{"x64":{{"key":"{key}","sha256":"{sha256}","sizeBytes":1{layers}}}}}}}"#
                )
            })
            .collect();
        let text = format!(r#"{{"schemaVersion":2,"updatedAt":"","agents":{{{}}}}}"#, agents.join(","));
        let manifest = Manifest::parse(text.as_bytes()).unwrap();
        (0..entries.len()).map(|at| manifest.artifact(&format!("a{at}"), Arch::X64).unwrap().layers).next().flatten()
    }

    #[test]
    fn layers_are_read_and_broken_ones_cost_a_whole_download_and_no_artifact() {
        let digest = "ab".repeat(32);
        let listed = |key: &str| format!(r#","layers":{{"key":"{key}","sha256":"{digest}"}}"#);
        let good = listed("vm/a.layers.json");
        let layers = layers_of(&[("vm/a", &good)]).unwrap();
        assert_eq!((layers.key.as_str(), layers.sha256.to_string()), ("vm/a.layers.json", digest.clone()));
        assert_eq!(layers_of(&[("vm/a", "")]), None);
        let twice = format!("{good}{good}");
        let outside = listed("../a.layers.json");
        let short = good.replace(&digest, "ab");
        for bad in
            [r#","layers":7"#, r#","layers":null"#, r#","layers":{}"#, r#","layers":[]"#, &twice, &outside, &short]
        {
            assert_eq!(layers_of(&[("vm/a", bad)]), None, "{bad}");
        }
        // Keys that clash with others: with its own tarball, with another, below one, above one, with another list.
        for (layers, other, others) in [
            ("vm/a", "vm/b", ""),
            ("vm/b", "vm/b", ""),
            ("vm/b/l", "vm/b", ""),
            ("vm/l", "vm/l/b", ""),
            ("vm/l", "vm/b", &good.replace("vm/a.layers.json", "vm/l").replace("ab", "cd")),
        ] {
            assert_eq!(layers_of(&[("vm/a", &listed(layers)), (other, others)]), None, "{layers} {other}");
        }
        assert!(layers_of(&[("vm/a", &good), ("vm/b", &good)]).is_some(), "the same list may be named twice");
    }

    #[test]
    fn ten_thousand_agents_are_looked_up_quickly() {
        let keys: Vec<_> = (0..10_000).map(|n| format!("vm/images/a/{n}/x64.tar.gz")).collect();
        let keys: Vec<_> = keys.iter().map(|key| (key.as_str(), 1)).collect();
        let began = std::time::Instant::now();
        assert!(said_of(&keys).iter().all(Option::is_none));
        // A comparison of each with each takes minutes.
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "{:?}", began.elapsed());
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
