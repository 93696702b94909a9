//! What the state file wants, checked and resolved.

mod location;

pub use location::{Location, ManifestSource};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::canonical::HostKey;
use super::ids::{AgentName, Arch, Name, SessionName, Sha256Digest, WorkspaceName};
use super::labels::{Ownership, RootClaim};
use super::manifest::Artifact;
use super::rollout::Rollout;
use super::session::{SessionSpec, WorkspaceSpec};
use super::shared::{NetworkSpec, VolumeSpec};
use super::spec::ContainerSpec;
use super::vm::{Forward, VmMake, VmSpec};

/// The whole desired state.
#[derive(Debug, Clone)]
pub struct Desired {
    /// Who owns what is made from this file.
    pub name: Name,
    /// Absolute path of the directory that holds `cache` and `state`.
    pub root: PathBuf,
    /// Where the manifest is published, and who must have signed it. `None` when neither file nor environment names one.
    pub manifest: Option<ManifestSource>,
    /// How often `run` asks whether there is a newer manifest, for agents at `latest`. From 1 second to a year; default 1 hour.
    pub manifest_refresh: Duration,
    /// How the cache is kept.
    pub cache: CachePolicy,
    /// Where containers run.
    pub runtime: Runtime,
    /// Volumes that agents mount, by their names in the engine.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Networks that agents are on, by their names in the engine.
    pub networks: BTreeMap<String, NetworkSpec>,
    /// The agents by name.
    pub agents: BTreeMap<AgentName, Agent>,
    /// This machine's architecture.
    pub host_arch: Arch,
    /// The key for hashing sensitive values.
    pub key: HostKey,
    /// Which containers of this name are this root's.
    pub claim: RootClaim,
    /// What the file says, hashed, before the environment and the place it lies in add to it: the same for two that differ
    /// in layout and comments alone.
    pub meaning: Sha256Digest,
}

impl Desired {
    /// Whose containers are looked for.
    pub fn ownership(&self) -> Ownership {
        Ownership { name: self.name.clone(), root: self.claim.clone() }
    }

    /// The directory of this state file's own state below its root.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state").join(self.name.as_str())
    }

    /// The virtual machine that is wanted, if one is.
    pub fn vm(&self) -> Option<&VmSpec> {
        match &self.runtime {
            Runtime::Lima(spec) => Some(spec),
            Runtime::Podman { .. } => None,
        }
    }

    /// Ports of this host that lead into the virtual machine.
    pub fn forwards(&self) -> BTreeSet<Forward> {
        let kept = self.agents.values().filter(|agent| agent.state != AgentState::Absent);
        kept.flat_map(|agent| agent.container.ports.iter().map(Forward::of)).collect()
    }

    /// All that is needed to make the virtual machine, if one is wanted.
    pub fn vm_make(&self) -> Option<VmMake> {
        Some(VmMake {
            spec: self.vm()?.clone(),
            owner: self.ownership(),
            forwards: self.forwards(),
            images: self.root.join("cache/vm/images"),
        })
    }
}

/// How the cache is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePolicy {
    /// The architectures that are fetched, unless an agent says otherwise. Never empty.
    pub arches: Vec<Arch>,
    /// Older versions kept per agent beside what is in use. Default 1.
    pub keep: u32,
}

/// Where containers run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Runtime {
    /// In a Lima virtual machine.
    Lima(Box<VmSpec>),
    /// In Podman on this host.
    Podman {
        /// Path of its API socket. `None`: `$CONTAINER_HOST`, `$DOCKER_HOST`, then the usual rootless and rootful ones.
        socket: Option<PathBuf>,
    },
}

/// How Podman in a virtual machine is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transport {
    /// The first of the two below that answers.
    #[default]
    Auto,
    /// Its unix socket, forwarded.
    Api,
    /// `limactl shell INSTANCE -- podman …`.
    Shell,
}

/// What happens when the template of a virtual machine changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TemplateChange {
    /// It is reported.
    #[default]
    Warn,
    /// The machine is recreated; what is in it is lost.
    Recreate,
}

/// A line and column of the state file, both counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it; `-` for standard input.
    pub file: String,
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// What is wrong where an agent's image is to come from a manifest and there is none.
pub const NO_MANIFEST: &str = "no manifest is configured, which its image is to come from";

/// One agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Where it stands in the state file.
    pub place: Place,
    /// Which version.
    pub version: Version,
    /// That somebody went back to that version, and what the state file says instead.
    pub rolled_back: Option<RolledBackTo>,
    /// Image repository without tag; `None` takes the manifest's. Always set unless `source` is the manifest.
    pub image: Option<String>,
    /// Where the image comes from.
    pub source: ImageSource,
    /// What the manifest calls it, where that is not the agent's own name: see [`Agent::artifact_name`].
    pub artifact: Option<AgentName>,
    /// The architectures to fetch. Never empty.
    pub arches: Vec<Arch>,
    /// What the tarballs must hash to, by architecture, whatever the manifest says.
    pub pins: BTreeMap<Arch, Sha256Digest>,
    /// What is to become of its container.
    pub state: AgentState,
    /// Observe and report, change nothing.
    pub suspend: bool,
    /// How its container is replaced.
    pub rollout: Rollout,
    /// The container.
    pub container: ContainerSpec,
    /// Source trees that are to be in it.
    pub workspaces: BTreeMap<WorkspaceName, WorkspaceSpec>,
    /// Commands that are to run in it.
    pub sessions: BTreeMap<SessionName, SessionSpec>,
}

impl Agent {
    /// Whether both want the same container, wherever they stand in the file and whatever is to be in it.
    pub fn wants_same(&self, other: &Self) -> bool {
        let Self {
            place: _,
            version,
            // The version tells.
            rolled_back: _,
            image,
            source,
            artifact,
            arches,
            pins,
            state,
            suspend,
            // What is replaced already goes on as it began.
            rollout: _,
            container,
            workspaces: _,
            sessions: _,
        } = self;
        (version, image, source, arches) == (&other.version, &other.image, &other.source, &other.arches)
            && (artifact, pins, state, suspend, container)
                == (&other.artifact, &other.pins, &other.state, &other.suspend, &other.container)
    }

    /// What to write where its `source` is the manifest and none is configured: [`NO_MANIFEST`].
    pub fn no_manifest(&self) -> String {
        match &self.image {
            Some(image) => {
                let tag = if self.version.to_string().starts_with("sha256:") { '@' } else { ':' };
                format!(
                    "write `source: registry` to pull `{image}{tag}{}`, or `source: local` for an image that is there \
                     already; `manifest.url` or $STEADFAST_MANIFEST_URL names a manifest of tarballs",
                    self.version
                )
            }
            None => "write `image:` with `source: registry` to pull it, or `source: local` for an image that is there \
                     already; `manifest.url` or $STEADFAST_MANIFEST_URL names a manifest of tarballs"
                .to_owned(),
        }
    }

    /// What the manifest calls it; `name` is its own. Several agents may run from one artifact.
    pub fn artifact_name<'a>(&'a self, name: &'a AgentName) -> &'a AgentName {
        self.artifact.as_ref().unwrap_or(name)
    }

    /// The architecture its container runs at: the host's where it is listed, else the first listed.
    pub fn run_arch(&self, host: Arch) -> Arch {
        if self.arches.contains(&host) { host } else { self.arches.first().copied().unwrap_or(host) }
    }
}

/// That somebody went back to an earlier version: the state file says another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolledBackTo {
    /// What the state file says.
    pub says: Version,
    /// Since when (RFC 3339).
    pub since: String,
}

/// Which version of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Version {
    /// This one.
    Exact(String),
    /// Whatever the manifest offers. With another source, the tag `latest`.
    Latest,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Version::Exact(version) => f.write_str(version),
            Version::Latest => f.write_str("latest"),
        }
    }
}

/// Where an image comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageSource {
    /// A tarball of the manifest, through the cache.
    #[default]
    Manifest,
    /// `podman pull`, when it is not there yet.
    Registry,
    /// It must be there.
    Local,
}

/// What is to become of an agent's container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AgentState {
    /// It runs.
    #[default]
    Running,
    /// It exists and does not run.
    Stopped,
    /// It does not exist.
    Absent,
}

impl fmt::Display for AgentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AgentState::Running => "running",
            AgentState::Stopped => "stopped",
            AgentState::Absent => "absent",
        })
    }
}

/// An artifact some agent wants in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// For which agent.
    pub agent: AgentName,
    /// For which architecture.
    pub arch: Arch,
    /// The artifact.
    pub artifact: Artifact,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ArtifactKey;

    #[test]
    fn signatures_lie_beside_what_is_signed() {
        let at = |text: &str| match Location::parse(text).unwrap().signature() {
            Location::Http(url) => url.to_string(),
            Location::File(path) => path.display().to_string(),
        };
        assert_eq!(at("https://c.example/vm/manifest.json?t=1#x"), "https://c.example/vm/manifest.json.minisig?t=1");
        assert_eq!(at("file:///srv/pub/vm/manifest.json"), "/srv/pub/vm/manifest.json.minisig");
    }

    #[test]
    fn what_lies_beside_an_artifact_has_the_same_base() {
        let key = |text: &str| ArtifactKey::new(text).unwrap();
        let (own, other) = (key("vm/images/a b-1-x64.tar.gz"), key("vm/lists/ä.json"));
        for manifest in
            ["https://c.example/p%20q/vm/manifest.json?t=1", "http://c.example/m.json", "/srv/pub/vm/manifest.json"]
        {
            let manifest = Location::parse(manifest).unwrap();
            assert_eq!(manifest.artifact(&own).beside(&own, &other), Some(manifest.artifact(&other)), "{manifest}");
            assert_eq!(manifest.artifact(&other).beside(&own, &other), None);
        }
    }

    #[test]
    fn artifacts_lie_beside_the_manifest() {
        let key = ArtifactKey::new("vm/images/a-1-x64.tar.gz").unwrap();
        let at = |text: &str| Location::parse(text).unwrap().artifact(&key).to_string();
        assert_eq!(at("https://c.example/vm/manifest.json?t=1#x"), "https://c.example/vm/images/a-1-x64.tar.gz");
        assert_eq!(at("https://c.example/p/vm/manifest.json"), "https://c.example/p/vm/images/a-1-x64.tar.gz");
        assert_eq!(at("http://c.example/p/m.json"), "http://c.example/p/vm/images/a-1-x64.tar.gz");
        assert_eq!(at("file:///srv/pub/vm/manifest.json"), "/srv/pub/vm/images/a-1-x64.tar.gz");
        assert_eq!(at("/srv/pub/m.json"), "/srv/pub/vm/images/a-1-x64.tar.gz");
    }

    #[test]
    fn a_location_hides_what_may_be_a_token() {
        let shown = Location::parse("https://u:canary@c.example/vm/manifest.json?sig=canary").unwrap().to_string();
        assert_eq!(shown, "https://u:***@c.example/vm/manifest.json?***");
        let shown = Location::parse("https://canary@c.example/vm/manifest.json").unwrap().to_string();
        assert_eq!(shown, "https://***@c.example/vm/manifest.json");
        assert!(Location::parse("ftp://x/y").unwrap_err().contains("not supported"));
        assert!(Location::parse("vm/manifest.json").is_err());
    }
}
