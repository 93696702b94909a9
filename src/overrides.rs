//! Versions that somebody went back to (`steadfast rollback`): a small file beside the journal. Each holds for as long as the state
//! file says of its agent what it said then; whatever else it says ends it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::files::{self, regular, regular::NotOpened};
use crate::model::{
    Agent, AgentName, Arch, CanonicalSpec, Desired, HostKey, ImageRef, ImageSource, RolledBackTo, SPEC_VERSION,
    Sha256Digest, Version,
};

/// Its name in the directory of a state file's state.
const FILE: &str = "rollbacks.json";
/// The version of its layout.
const VERSION: u32 = 1;
/// Nothing that is kept takes more.
const MOST_BYTES: u64 = 16 * 1024 * 1024;
/// Stands for the image, which is compared by itself.
const NO_IMAGE: &str = "localhost/none:0";

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u32,
    agents: BTreeMap<AgentName, Override>,
}

/// A version that somebody went back to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Override {
    version: String,
    /// What its tarballs hash to, as far as it is known.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pins: BTreeMap<Arch, Sha256Digest>,
    since: String,
    /// What the state file said of the agent then.
    said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    version: String,
    image: Option<String>,
    source: String,
    pins: BTreeMap<Arch, Sha256Digest>,
    spec: CanonicalSpec,
    spec_version: u32,
}

fn word(source: ImageSource) -> &'static str {
    match source {
        ImageSource::Manifest => "manifest",
        ImageSource::Registry => "registry",
        ImageSource::Local => "local",
    }
}

fn no_image() -> ImageRef {
    ImageRef::new(NO_IMAGE).unwrap_or_else(|_| unreachable!("it is an image reference"))
}

impl Said {
    fn of(agent: &Agent, key: &HostKey) -> Self {
        Self {
            version: agent.version.to_string(),
            image: agent.image.clone(),
            source: word(agent.source).to_owned(),
            pins: agent.pins.clone(),
            spec: CanonicalSpec::new(&agent.container, &no_image(), None, key),
            spec_version: SPEC_VERSION,
        }
    }

    fn is_still_said(&self, agent: &Agent, key: &HostKey) -> bool {
        self.version == agent.version.to_string()
            && (&self.image, self.source.as_str(), &self.pins) == (&agent.image, word(agent.source), &agent.pins)
            && self.spec.changes(self.spec_version, &agent.container, &no_image(), key, None).is_empty()
    }
}

/// Where they are kept.
pub(crate) fn path(desired: &Desired) -> PathBuf {
    desired.state_dir().join(FILE)
}

/// Has each agent that somebody went back with want that version, where the state file still says what it said then.
pub(crate) fn apply(desired: &mut Desired) {
    let key = desired.key.clone();
    for (name, over) in read(&path(desired)).agents {
        let Some(agent) = desired.agents.get_mut(&name) else { continue };
        if over.said.is_still_said(agent, &key) {
            let version = std::mem::replace(&mut agent.version, Version::Exact(over.version));
            agent.pins = over.pins;
            agent.rolled_back = Some(RolledBackTo { says: version, since: over.since });
        }
    }
}

/// Forgets those that the state file has ended.
pub(crate) fn sweep(desired: &Desired) {
    let path = path(desired);
    let mut document = read(&path);
    let before = document.agents.len();
    document.agents.retain(|name, over| {
        let agent = desired.agents.get(name);
        agent.and_then(|agent| agent.rolled_back.as_ref()).is_some_and(|back| back.since == over.since)
    });
    if document.agents.len() < before
        && let Err(err) = write(&path, document)
    {
        tracing::warn!(path = %path.display(), error = %err, "cannot forget a rollback that the state file has ended");
    }
}

/// Goes back to a version of an agent, or with none to what the state file says.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn keep(
    desired: &Desired,
    name: &AgentName,
    agent: &Agent,
    back: Option<(String, BTreeMap<Arch, Sha256Digest>)>,
    since: String,
) -> std::io::Result<()> {
    let path = path(desired);
    let mut document = read(&path);
    match back {
        Some((version, pins)) => {
            // Of one that was gone back with before, the state file's own words are kept there.
            let before = document.agents.remove(name).filter(|_| agent.rolled_back.is_some());
            let said = before.map_or_else(|| Said::of(agent, &desired.key), |before| before.said);
            document.agents.insert(name.clone(), Override { version, pins, since, said });
        }
        None => drop(document.agents.remove(name)),
    }
    write(&path, document)
}

fn write(path: &Path, document: Document) -> std::io::Result<()> {
    let document = Document { schema_version: VERSION, ..document };
    let mut text = serde_json::to_string_pretty(&document).map_err(std::io::Error::other)?;
    text.push('\n');
    files::replace(path, true, |mut file| file.write_all(text.as_bytes()))
}

fn read(path: &Path) -> Document {
    let text = match regular::read(path, MOST_BYTES) {
        Ok(text) => text.unwrap_or_default(),
        Err(NotOpened::Io(err)) if err.kind() == std::io::ErrorKind::NotFound => return Document::default(),
        Err(err) => {
            let err = std::io::Error::from(err);
            tracing::warn!(path = %path.display(), error = %err, "cannot read which versions somebody went back to; going on without");
            return Document::default();
        }
    };
    match serde_json::from_slice::<Document>(&text) {
        Ok(document) if document.schema_version == VERSION => document,
        _ => {
            tracing::warn!(path = %path.display(), "which versions somebody went back to cannot be understood; going on without");
            Document::default()
        }
    }
}
