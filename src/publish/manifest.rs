//! A manifest from what lies in a dist directory, whole or by a slice that is merged into a baseline.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::bundle::{Bundle, BundleAgent, BundleError};
use super::dist::{self, DistError, Hashed};
use super::packing::Packing;
use crate::model::ids::clean;
use crate::model::manifest::{MANIFEST_SCHEMA_VERSION, MAX_MANIFEST_BYTES};
use crate::model::{Arch, Manifest, ManifestError};

/// Which part of the manifest is made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slice {
    /// All of it.
    Full,
    /// One agent. All else is the baseline's.
    Agent(String),
}

impl FromStr for Slice {
    type Err = PublishError;

    fn from_str(text: &str) -> Result<Self, PublishError> {
        match text.split_once(':') {
            None if text == "full" => Ok(Self::Full),
            Some(("agents", name)) if !name.is_empty() => Ok(Self::Agent(name.to_owned())),
            _ => Err(PublishError::UnknownSlice(clean(text, 100))),
        }
    }
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slice::Full => f.write_str("full"),
            Slice::Agent(name) => write!(f, "agents:{name}"),
        }
    }
}

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The bundle cannot be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A tarball cannot be used.
    #[error(transparent)]
    Dist(#[from] DistError),
    /// Tarballs, or their sidecars, are not there. The first of them.
    #[error("missing tarball inputs for {agent}/{arch}")]
    MissingInputs {
        /// Of which agent.
        agent: String,
        /// For which architecture.
        arch: Arch,
        /// The first file that is not there.
        path: PathBuf,
        /// How many more of agents and architectures lack theirs.
        more: usize,
    },
    /// Both would have the same name in the manifest.
    #[error("`{}` and `{}` are both there: which one is meant?", one.display(), other.display())]
    TwoTarballs {
        /// One of them.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// A slice is merged into something.
    #[error("--slice {0} requires --merge-from")]
    NoBaseline(Slice),
    /// There is no such slice.
    #[error("unknown slice: {0}")]
    UnknownSlice(String),
    /// The baseline is no manifest.
    #[error("the baseline {at} is no manifest: {why}")]
    Baseline {
        /// Where it lies.
        at: String,
        /// What is wrong with it.
        why: String,
    },
    /// What came of it is nothing that a fetcher could read.
    #[error("the manifest would be of no use: {0}")]
    Unreadable(#[from] ManifestError),
    /// `SOURCE_DATE_EPOCH` is none.
    #[error("$SOURCE_DATE_EPOCH is `{0}`: expected seconds since 1970")]
    SourceDate(String),
}

/// When a manifest is written: `SOURCE_DATE_EPOCH` (reproducible-builds.org) where that is set, else now.
///
/// # Errors
/// When the variable holds something else.
pub fn written_at(source_date_epoch: Option<&str>, now: SystemTime) -> Result<SystemTime, PublishError> {
    let Some(text) = source_date_epoch else { return Ok(now) };
    let wrong = || PublishError::SourceDate(clean(text, 100));
    let seconds = text.trim().parse::<u64>().map_err(|_| wrong())?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).ok_or_else(wrong)
}

/// The tarballs of one agent.
type Tarballs = Vec<(Arch, Packing, Hashed)>;

/// Makes the manifest's bytes: two-space-indented JSON with a final newline. `baseline` says where it lies and what it holds.
///
/// # Errors
/// When anything that it would name is not there or not right. Nothing is written.
pub fn manifest(
    bundle: &Bundle,
    dist_dir: &Path,
    slice: &Slice,
    baseline: Option<(&str, &[u8])>,
    written_at: SystemTime,
) -> Result<Vec<u8>, PublishError> {
    let wanted: Vec<&BundleAgent> = match slice {
        Slice::Full => bundle.agents.iter().collect(),
        Slice::Agent(_) if baseline.is_none() => return Err(PublishError::NoBaseline(slice.clone())),
        Slice::Agent(name) => vec![bundle.agent(name)?],
    };
    let baseline = match (slice, baseline) {
        (Slice::Agent(_), Some((at, bytes))) => Some(Baseline::parse(at, bytes)?),
        _ => None,
    };
    let made = hash_all(&wanted, dist_dir)?;
    let bytes = document(bundle, &made, baseline, written_at);
    // Read as every fetcher will.
    let manifest = Manifest::parse(&bytes)?;
    for (agent, tarballs) in &made {
        for (arch, ..) in tarballs {
            manifest.artifact(agent.name.as_str(), *arch)?;
        }
    }
    Ok(bytes)
}

/// Hashes what is wanted of the dist directory, once all of it is there.
fn hash_all<'b>(wanted: &[&'b BundleAgent], dist_dir: &Path) -> Result<Vec<(&'b BundleAgent, Tarballs)>, PublishError> {
    let inputs = wanted.iter().flat_map(|agent| Arch::ALL.map(|arch| Input::find(agent, arch, dist_dir)));
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let missing: Vec<_> = inputs.iter().filter_map(|input| Some((input, input.lacks()?))).collect();
    if let Some((input, path)) = missing.first() {
        let (agent, path) = (input.agent.name.to_string(), path.clone());
        return Err(PublishError::MissingInputs { agent, arch: input.arch, path, more: missing.len() - 1 });
    }
    let paths: Vec<_> = inputs.iter().map(|input| input.path.clone()).collect();
    let hashed = dist::verified_all(&paths)?;
    let mut made: Vec<(&BundleAgent, Tarballs)> = Vec::new();
    for (Input { agent, arch, packing, .. }, hashed) in inputs.into_iter().zip(hashed) {
        match made.last_mut() {
            Some((last, tarballs)) if last.name == agent.name => tarballs.push((arch, packing, hashed)),
            _ => made.push((agent, vec![(arch, packing, hashed)])),
        }
    }
    Ok(made)
}

/// A tarball that is wanted.
pub(super) struct Input<'b> {
    pub(super) agent: &'b BundleAgent,
    pub(super) arch: Arch,
    pub(super) packing: Packing,
    pub(super) path: PathBuf,
}

impl<'b> Input<'b> {
    /// The one that is there, however it is packed; else the one that could be.
    pub(super) fn find(agent: &'b BundleAgent, arch: Arch, dist_dir: &Path) -> Result<Self, PublishError> {
        let place = |packing| (packing, dist::tarball_path(dist_dir, agent, arch, packing));
        let there: Vec<_> = Packing::ALL.map(place).into_iter().filter(|(_, path)| path.exists()).collect();
        match <[_; 2]>::try_from(there) {
            Ok([(_, one), (_, other)]) => Err(PublishError::TwoTarballs { one, other }),
            Err(there) => {
                let (packing, path) = there.into_iter().next().unwrap_or_else(|| place(Packing::default()));
                Ok(Self { agent, arch, packing, path })
            }
        }
    }

    /// The first file of it that is not there.
    pub(super) fn lacks(&self) -> Option<PathBuf> {
        [self.path.clone(), dist::sidecar_path(&self.path)].into_iter().find(|path| !path.exists())
    }
}

/// A manifest of which a part is made anew: what stands in it is kept as it stands there.
struct Baseline {
    /// What is beside `schemaVersion`, `updatedAt` and `agents`.
    more: Vec<(String, Box<RawValue>)>,
    agents: Vec<(String, Box<RawValue>)>,
}

/// An object with its fields in their order, each as it stands there.
struct Fields(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry::<String, Box<RawValue>>()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Baseline {
    /// What schema 1 had and nobody reads any more.
    const DROPPED: [&str; 2] = ["vmVersion", "vmDisk"];

    fn parse(at: &str, bytes: &[u8]) -> Result<Self, PublishError> {
        let wrong = |why: String| PublishError::Baseline { at: at.to_owned(), why: clean(&why, 300) };
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(wrong(ManifestError::TooLarge.to_string()));
        }
        let Fields(fields) = serde_json::from_slice(bytes).map_err(|err| wrong(err.to_string()))?;
        let mut baseline = Self { more: Vec::new(), agents: Vec::new() };
        let (mut version, mut has_agents) = (None, false);
        for (name, value) in fields {
            match name.as_str() {
                "schemaVersion" => version = Some(value.get().to_owned()),
                "updatedAt" => {}
                "agents" => {
                    let Fields(agents) =
                        serde_json::from_str(value.get()).map_err(|err| wrong(format!("agents: {err}")))?;
                    // Where a name stands twice, a reader of JSON takes the last.
                    let last: BTreeMap<_, _> =
                        agents.iter().enumerate().map(|(at, (name, _))| (name.clone(), at)).collect();
                    let kept = agents.into_iter().enumerate().filter(|(at, (name, _))| last[name] == *at);
                    baseline.agents = kept.map(|(_, agent)| agent).collect();
                    has_agents = true;
                }
                name if Self::DROPPED.contains(&name) => {}
                _ => baseline.more.push((name, value)),
            }
        }
        match version.as_deref() {
            Some("1" | "2") if has_agents => Ok(baseline),
            Some("1" | "2") => Err(wrong("it has no agents".to_owned())),
            Some(other) => {
                Err(wrong(format!("it has schemaVersion {other}; 1 and {MANIFEST_SCHEMA_VERSION} are read")))
            }
            None => Err(wrong("it has no schemaVersion".to_owned())),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    image: &'a str,
    version: &'a str,
    tarballs: InOrder<Tarball>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tarball {
    key: String,
    sha256: String,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    layers: Option<Layers>,
}

/// Where the tarball's members are listed.
#[derive(Serialize)]
struct Layers {
    key: String,
    sha256: String,
}

/// A value that is made anew, or one that stands as it stood.
#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    Number(u64),
    Text(String),
    Agent(Entry<'a>),
    Kept(Box<RawValue>),
    Agents(InOrder<Part<'a>>),
}

/// An object with its fields in this order.
struct InOrder<T>(Vec<(String, T)>);

impl<T: Serialize> Serialize for InOrder<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

fn document(
    bundle: &Bundle,
    made: &[(&BundleAgent, Tarballs)],
    baseline: Option<Baseline>,
    written_at: SystemTime,
) -> Vec<u8> {
    let Baseline { more, agents: kept } = baseline.unwrap_or(Baseline { more: Vec::new(), agents: Vec::new() });
    let mut agents: BTreeMap<String, Part<'_>> =
        kept.iter().map(|(name, value)| (name.clone(), Part::Kept(value.clone()))).collect();
    agents.extend(made.iter().map(|(agent, tarballs)| (agent.name.to_string(), Part::Agent(entry(agent, tarballs)))));
    // In the bundle's order; what only the baseline has follows in its own.
    let order = bundle.agents.iter().map(|agent| agent.name.to_string()).chain(kept.into_iter().map(|(name, _)| name));
    let agents = order.filter_map(|name| agents.remove(&name).map(|part| (name, part))).collect();
    let mut fields = vec![
        ("schemaVersion".to_owned(), Part::Number(MANIFEST_SCHEMA_VERSION)),
        ("updatedAt".to_owned(), Part::Text(crate::time::rfc3339_millis(written_at))),
        ("agents".to_owned(), Part::Agents(InOrder(agents))),
    ];
    fields.extend(more.into_iter().map(|(name, value)| (name, Part::Kept(value))));
    let text = serde_json::to_string(&InOrder(fields)).expect("values that serialize");
    pretty(&text)
}

fn entry<'a>(agent: &'a BundleAgent, tarballs: &Tarballs) -> Entry<'a> {
    let tarball = |(arch, packing, hashed): &(Arch, Packing, Hashed)| {
        let key = agent.key(*arch, *packing).to_string();
        let layers =
            hashed.layers.map(|sha256| Layers { key: format!("{key}.layers.json"), sha256: sha256.to_string() });
        let sha256 = hashed.sha256.to_string();
        (arch.to_string(), Tarball { key, sha256, size_bytes: hashed.size_bytes, layers })
    };
    Entry { image: &agent.image, version: &agent.version, tarballs: InOrder(tarballs.iter().map(tarball).collect()) }
}

/// Indented by two spaces, token by token: numbers and strings stay as they are written, which no parser promises.
fn pretty(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() * 3 / 2);
    let (mut depth, mut is_fresh, mut is_string, mut is_escaped) = (0, false, false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', 2 * depth));
    };
    for byte in text.bytes() {
        if is_string {
            is_string = is_escaped || byte != b'"';
            is_escaped = !is_escaped && byte == b'\\';
            out.push(byte);
            continue;
        }
        let is_end = matches!(byte, b'}' | b']');
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ if is_end => depth -= 1,
            _ => {}
        }
        // Nothing stands between the brackets of what is empty.
        if is_fresh != is_end {
            line(&mut out, depth);
        }
        is_fresh = false;
        out.push(byte);
        match byte {
            b'{' | b'[' => {
                depth += 1;
                is_fresh = true;
            }
            b',' => line(&mut out, depth),
            b':' => out.push(b' '),
            _ => is_string = byte == b'"',
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests;
