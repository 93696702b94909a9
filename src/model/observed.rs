//! What is really there, as one observation found it.

mod owner;
pub(crate) mod shared;

pub use owner::{Owner, Whose};
pub use shared::{NetworkState, SharedState, VolumeState};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, SystemTime};

use super::ids::{AgentName, ArtifactKey, ContainerId, ContainerName, ImageId, ImageRef, Sha256Digest};
use super::inside::Inside;
use super::manifest::Manifest;
use super::ports::PortRange;
use super::spec::{HealthCheck, Resources, Volume};
use super::vm::{Reach, VmState};

/// The outcome of one observation. "Not there" and "could not observe" are different: the second never deletes or creates.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen<T> {
    /// It is there.
    Present(T),
    /// It is not there.
    Absent,
    /// It could not be looked at.
    Unknown {
        /// The reason, as a sentence for people.
        why: String,
    },
}

impl<T> Seen<T> {
    /// The value, when it is there.
    pub fn present(&self) -> Option<&T> {
        match self {
            Seen::Present(value) => Some(value),
            Seen::Absent | Seen::Unknown { .. } => None,
        }
    }

    /// The reason, when it could not be looked at.
    pub fn unknown(&self) -> Option<&str> {
        match self {
            Seen::Unknown { why } => Some(why),
            Seen::Present(_) | Seen::Absent => None,
        }
    }
}

/// Everything one pass looked at.
#[derive(Debug, Clone)]
pub struct Observed {
    /// The manifest at its published place. `Absent` when the state file needs none.
    pub published: Seen<Manifest>,
    /// The last good manifest, in the cache.
    pub local: Seen<Manifest>,
    /// Every artifact file in the cache.
    pub artifacts: Seen<BTreeMap<ArtifactKey, CachedArtifact>>,
    /// The virtual machine. `Absent` when none is there, and when none is wanted.
    pub vm: Seen<VmState>,
    /// How Podman in the virtual machine is reached.
    pub reach: Reach,
    /// Podman: our containers, those with a wanted name, and the images.
    pub guest: Seen<Guest>,
    /// Podman's volumes and networks. `Absent` where nobody looked: the state file declares none.
    pub shared: Seen<SharedState>,
    /// Images that were loaded from the cache, and were in no engine before that.
    pub loaded: BTreeMap<ImageId, LoadedImage>,
    /// Images with a name that is wanted here, of which agents of other state files are made.
    pub others: BTreeSet<ImageId>,
    /// What is inside of the containers that were looked into: those of agents with sessions or workspaces.
    pub inside: BTreeMap<AgentName, Inside>,
    /// How many bytes of artifacts that are wanted and not in the cache would travel, where that is less than all of them.
    pub transfers: BTreeMap<ArtifactKey, u64>,
}

impl Observed {
    /// An observation of a machine with nothing on it, and of no Podman.
    pub fn nothing() -> Self {
        Self {
            published: Seen::Absent,
            local: Seen::Absent,
            artifacts: Seen::Present(BTreeMap::new()),
            vm: Seen::Absent,
            reach: Reach::default(),
            guest: Seen::Absent,
            shared: Seen::Absent,
            loaded: BTreeMap::new(),
            others: BTreeSet::new(),
            inside: BTreeMap::new(),
            transfers: BTreeMap::new(),
        }
    }
}

/// An image that was loaded from a tarball and was not there before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The tarball.
    pub artifact: Sha256Digest,
    /// The name it was loaded for.
    pub reference: ImageRef,
}

/// An artifact file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachedArtifact {
    /// Its length in bytes.
    pub size: u64,
    /// The sha256 of its bytes, proved by the index or by hashing; `None` when neither was needed in this observation.
    pub digest: Option<Sha256Digest>,
    /// The image that loading it yields, where that is remembered.
    pub image: Option<ImageId>,
    /// When it was last written.
    pub modified: SystemTime,
}

/// An artifact file with its key. What `cache list` shows.
pub type CachedFile = (ArtifactKey, CachedArtifact);

/// Podman's side of an observation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Guest {
    /// Podman's version, e.g. `4.3.1`.
    pub version: String,
    /// When it was looked at. What is told of moments in it is compared with this, never with a clock.
    pub looked_at: Option<SystemTime>,
    /// Every image name (tag or digest, fully qualified) with the image it points to.
    pub images: BTreeMap<ImageRef, ImageId>,
    /// Every image, named or not.
    pub image_store: BTreeMap<ImageId, ImageState>,
    /// Containers that carry our name, and foreign ones that have a wanted name.
    pub containers: BTreeMap<ContainerName, ContainerState>,
}

/// The images of an engine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Images {
    /// As [`Guest::images`].
    pub names: BTreeMap<ImageRef, ImageId>,
    /// As [`Guest::image_store`].
    pub store: BTreeMap<ImageId, ImageState>,
}

/// An image in an engine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageState {
    /// Its length in bytes.
    pub size: u64,
    /// Its tags. The digests that Podman lists beside them are no names that anybody gave it.
    pub tags: BTreeSet<ImageRef>,
    /// How many containers were made from it, whoever made them. `None` where that is not told.
    pub containers: Option<u64>,
}

impl Guest {
    /// The tarballs that containers of ours were made from.
    pub fn artifacts_in_use(&self) -> BTreeSet<Sha256Digest> {
        let made_from = self.containers.values().filter_map(|container| match &container.owner {
            Owner::Ours { spec: Some(spec), .. } => spec.artifact,
            Owner::Ours { .. } | Owner::Foreign(_) => None,
        });
        made_from.collect()
    }
}

/// One container.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerState {
    /// Its id.
    pub id: ContainerId,
    /// Whose it is.
    pub owner: Owner,
    /// The image it was made from.
    pub image: ImageId,
    /// The name of that image at creation, as Podman keeps it.
    pub image_name: String,
    /// Where it stands in its life.
    pub phase: Phase,
    /// When it was last started.
    pub started_at: Option<SystemTime>,
    /// When its process last ended, if it ever did. A container that runs and has ended was started again.
    pub ended_at: Option<SystemTime>,
    /// The pid of its first process on Podman's machine, while it runs.
    pub pid: Option<u32>,
    /// How often Podman restarted it by itself, where the observation tells.
    pub restarts: Option<u32>,
    /// Ports it publishes.
    pub ports: Vec<PortRange>,
    /// When Podman restarts it by itself, in Podman's word; told by an inspection alone (Podman 4.3 to 5).
    pub restart: Option<String>,
    /// The verdict of its health check, when it has one and the observation tells.
    pub health: Option<Health>,
    /// What it may take of its machine; told by an inspection alone.
    pub resources: Option<Resources>,
    /// When its health was last checked; told by an inspection alone.
    pub checked_at: Option<SystemTime>,
    /// What its last health check came to; told by an inspection alone.
    pub last_check: Option<CheckResult>,
    /// The health check it has, the state file's or its image's; told by an inspection alone.
    pub check: Option<HealthCheck>,
    /// How its process ended lately without anybody's asking. Looked up only where it did.
    pub exits: Option<RecentExits>,
    /// Values as they are in the live container; looked up only where the label cannot be compared.
    pub live: Option<Live>,
}

/// The ends of a container's process within the last [`RecentExits::WITHIN`] which nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentExits {
    /// How many. Podman restarted it after each, or is about to.
    pub count: u32,
    /// The exit code of the last one, where it is known.
    pub code: Option<i32>,
    /// How long its process had lived before it ended the last time; [`RecentExits::WITHIN`] where it had lived for longer.
    pub last_life: Duration,
}

impl RecentExits {
    /// How far back is looked.
    pub const WITHIN: Duration = Duration::from_secs(120);
}

/// What one run of a health check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The exit code of its command; Podman 4.3 keeps 1 for all but 0.
    pub code: i32,
    /// What its command printed.
    pub output: String,
}

/// Where a container stands in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Frozen by somebody.
    Paused,
    /// On its way down; Podman moves it on.
    Stopping,
    /// Its process ended.
    Exited {
        /// The exit code.
        code: i32,
    },
    /// Being removed; Podman moves it on.
    Removing,
    /// A word this build does not know.
    Other(String),
}

/// The verdict of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// No verdict yet.
    Starting,
    /// The last check passed.
    Healthy,
    /// As many checks in a row failed as `retries` says.
    Unhealthy,
    /// A word this build does not know.
    Other(String),
}

/// Values as they are in a live container.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// Environment, Podman's own additions included.
    pub env: BTreeMap<String, String>,
    /// Command without entrypoint.
    pub command: Option<Vec<String>>,
    /// Bind mounts by target: `source` or `source:ro`.
    pub mounts: BTreeMap<String, String>,
    /// `host:address` lines.
    pub add_hosts: Option<Vec<String>>,
    /// Health check command.
    pub health_test: Option<Vec<String>>,
    /// Volumes of the engine that are mounted in it.
    pub volumes: Vec<Volume>,
}

/// Any of the values may be a secret: only what they belong to is shown.
impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("env", &self.env.keys())
            .field("mounts", &self.mounts.keys())
            .finish_non_exhaustive()
    }
}

impl Live {
    /// The live value of a canonical field; `None` when live inspection does not tell.
    pub fn field(&self, field: &str) -> Option<Vec<String>> {
        if let Some(variable) = field.strip_prefix("container.env.") {
            return self.env.get(variable).map(|value| vec![value.clone()]);
        }
        if let Some(target) = field.strip_prefix("container.mounts[") {
            return self.mounts.get(target.strip_suffix(']')?).map(|source| vec![source.clone()]);
        }
        match field {
            "container.command" => self.command.clone(),
            "container.healthcheck.test" => self.health_test.clone(),
            "container.addHosts" => self.add_hosts.clone().map(|mut hosts| {
                hosts.sort();
                hosts
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
impl ContainerState {
    /// One of which nothing else is known.
    pub(crate) fn bare(id: ContainerId, owner: Owner, phase: Phase) -> Self {
        Self {
            id,
            owner,
            image: "feed".into(),
            image_name: String::new(),
            phase,
            started_at: None,
            ended_at: None,
            pid: None,
            restarts: None,
            ports: Vec::new(),
            restart: None,
            resources: None,
            health: None,
            checked_at: None,
            last_check: None,
            check: None,
            exits: None,
            live: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_values_do_not_print() {
        let value = || "canary".to_owned();
        let live = Live {
            env: [("TOKEN".to_owned(), value())].into(),
            command: Some(vec![value()]),
            mounts: [("/data".to_owned(), value())].into(),
            add_hosts: Some(vec![value()]),
            health_test: Some(vec![value()]),
            volumes: Vec::new(),
        };
        assert_eq!(format!("{live:?}"), r#"Live { env: ["TOKEN"], mounts: ["/data"], .. }"#);
    }
}
