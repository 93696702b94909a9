//! A small honest model of the world, for tests: containers, images, tarballs and a manifest, in memory.
//!
//! It is not a list of expected calls. It has Podman's manners where they matter (names and ports are taken, a failed
//! start leaves what was created, a stop by request ends Podman's own restarts) and no rules of steadfast's. Failures are
//! ordered beforehand; a process that is killed is a world that does not answer any more. What a program does is told by
//! its environment: `CRASH=<code>` ends at once, `SICK=<seconds>` fails its health check that long.

mod container;
mod engine;
mod faults;
mod inside;
mod state;
mod store;
mod vm;

use faults::{Broken, UnderWay};
pub use faults::{Fault, FaultPoint};
pub use inside::{FakeInside, FakeSession, FakeWorkspace};
pub use vm::FakeVm;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::{EngineMachine, ImageFacts, World};
use crate::model::labels::Labels;
use crate::model::{
    ArtifactKey, ContainerId, ContainerName, ContainerSpec, ImageId, ImageRef, LoadedImage, Manifest, Phase,
    RestartPolicy, Sha256Digest, Volume,
};
use crate::mutex::guard;

/// How long Podman takes to restart what ended.
const PODMAN_RESTARTS_IN: Duration = Duration::from_millis(150);
/// The fake world's wall clock at its [`BEGINNING`]. No moment of it may be taken for one that never was.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);
/// Before everything.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What the fake world's wall clock shows at a moment.
fn wall(at: Instant) -> SystemTime {
    // The clocks of paused runtimes are apart by hours, and all of them are shown by this one.
    let beginning = SystemTime::UNIX_EPOCH + EPOCH;
    match at.checked_duration_since(*BEGINNING) {
        Some(after) => beginning + after,
        None => beginning - BEGINNING.duration_since(at),
    }
}

/// A world. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fake {
    inner: Arc<Mutex<State>>,
    killed: Arc<Notify>,
}

/// What is in the world. Tests read and change it at will.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// Volumes and networks.
    pub shared: crate::model::SharedState,
    /// The virtual machine that Podman runs in.
    pub vm: Option<FakeVm>,
    /// There is one, or is to be: without it Podman is not there.
    pub in_vm: bool,
    /// Containers by id.
    pub containers: BTreeMap<ContainerId, FakeContainer>,
    /// Names of images.
    pub images: BTreeMap<ImageRef, ImageId>,
    /// Images, named or not.
    pub image_store: BTreeSet<ImageId>,
    /// The labels of those that have any.
    pub image_labels: BTreeMap<ImageId, Labels>,
    /// What images say of themselves, where it is more than nothing.
    pub image_facts: BTreeMap<ImageId, ImageFacts>,
    /// What Podman's machine can run; by default it does not say, and runs everything.
    pub machine: EngineMachine,
    /// What a registry offers.
    pub registry: BTreeMap<ImageRef, ImageId>,
    /// What loading the tarball of this digest yields: the image, and the names it carries.
    pub tarballs: BTreeMap<Sha256Digest, (ImageId, Vec<String>)>,
    /// The published manifest; `None` when it is unavailable.
    pub published: Option<Manifest>,
    /// The manifest in the cache.
    pub local: Option<Manifest>,
    /// Files in the cache.
    pub files: BTreeMap<ArtifactKey, FakeFile>,
    /// Files at the published place, by key.
    pub offered: BTreeMap<ArtifactKey, Sha256Digest>,
    /// Which image an artifact yields, as the cache remembers.
    pub remembered: BTreeMap<Sha256Digest, ImageId>,
    /// Which images loading brought, as the cache remembers.
    pub loaded: BTreeMap<ImageId, LoadedImage>,
    /// What is inside of containers.
    pub inside: FakeInside,
    /// Host ports that other programs hold.
    pub busy_ports: BTreeSet<u16>,
    /// Containers that somebody else pauses again as soon as they are unpaused.
    pub frozen: BTreeSet<String>,
    /// Containers that were to be made although their agent has one of that name: whoever asks was blind.
    pub blindly_made: Vec<Call>,
    /// Podman's own restarts are used up: whoever ends stays so.
    pub podman_gives_up: bool,
    /// How long calls take, by word.
    pub latency: BTreeMap<&'static str, Duration>,
    /// How long whoever asks waits for an answer that never comes; `None`: for ever.
    pub answer_within: Option<Duration>,
    /// Every call that was made.
    pub calls: Vec<Call>,
    /// Somebody said that what is lost on the way in is to be brought back.
    pub is_kept: bool,
    /// Every change that was made, in order.
    pub effects: Vec<Effect>,
    /// The most calls with this word that were under way at the same time.
    pub most: BTreeMap<&'static str, usize>,
    under_way: BTreeMap<&'static str, usize>,
    faults: Vec<Fault>,
    kill_after: Option<usize>,
    dead: bool,
    serial: u64,
    execs: BTreeMap<String, i32>,
    subscribers: Vec<tokio::sync::mpsc::UnboundedSender<super::EngineEvent>>,
}

/// A container.
#[derive(Debug, Clone)]
pub struct FakeContainer {
    /// Its name.
    pub name: ContainerName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it was created to be.
    pub spec: ContainerSpec,
    /// Its image.
    pub image: ImageId,
    /// The name of its image at creation.
    pub image_name: String,
    /// Where it stands.
    pub phase: Phase,
    /// How often Podman restarted it.
    pub restarts: u32,
    /// Failed checks in a row, and whether any check has passed since the start.
    pub checks: (u32, bool),
    /// When it was last started by hand, or by Podman after [`State::die`].
    pub started: Option<Instant>,
    /// When its process ended, and with which code, oldest first.
    pub ends: Vec<(Instant, i32)>,
    /// Its volumes.
    pub volumes: Vec<Volume>,
    /// What Podman has stored of it is gone: it can never start.
    pub is_half_made: bool,
    /// From now on its program ends with this code as soon as it is started, whatever its environment says.
    pub breaks: Option<i32>,
}

/// A file in the cache.
#[derive(Debug, Clone)]
pub struct FakeFile {
    /// What its bytes hash to.
    pub digest: Sha256Digest,
    /// Its length.
    pub size: u64,
    /// Whether the index proves it.
    pub proved: bool,
    /// When it was written.
    pub modified: SystemTime,
}

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its word: the method's name.
    pub word: &'static str,
    /// What it was about: a container name, image name or key.
    pub target: String,
    /// When, since the first call.
    pub at: Instant,
}

/// A change, and who was left after it.
#[derive(Debug, Clone)]
pub struct Effect {
    /// The call.
    pub call: Call,
    /// The `steadfast.name` of the container it changed, if it changed one.
    pub owner: Option<Option<String>>,
    /// Owner and agent of each container that is there after it.
    pub agents: BTreeSet<(String, String)>,
    /// Owner and agent of each container that runs (or is frozen) after it, sorted.
    pub running: Vec<(String, String)>,
    /// The container's restart policy, where it is still there.
    pub restart: Option<RestartPolicy>,
}

impl Fake {
    /// An empty world.
    pub fn new() -> Self {
        Self::default()
    }

    /// A world of its own that is the same so far.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { inner: Arc::new(Mutex::new(self.state().clone())), killed: Arc::default() }
    }

    /// As the outside world of a reconciler.
    pub fn world(&self) -> World<Fake, Fake, Fake> {
        World { vm: self.clone(), engine: self.clone(), store: self.clone() }
    }

    /// What is in it.
    pub fn state(&self) -> MutexGuard<'_, State> {
        guard(&self.inner)
    }

    /// Orders a failure.
    pub fn order(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// From the moment `effects` more changes have been made, nothing answers any more, as if the process that asks had
    /// been killed.
    pub fn kill_after(&self, effects: usize) {
        let mut state = self.state();
        state.kill_after = Some(effects);
        state.dead = effects == 0;
    }

    /// Resolves when the process that asks is dead.
    pub async fn killed(&self) {
        loop {
            let told = self.killed.notified();
            if self.state().dead {
                return;
            }
            told.await;
        }
    }

    /// The next process: the world answers again, and what was counted is forgotten.
    pub fn restart(&self) {
        let mut state = self.state();
        state.kill_after = None;
        state.dead = false;
        state.faults.clear();
        state.calls.clear();
        state.effects.clear();
        state.most.clear();
    }

    /// The next process, in a world that goes on as it was: what was counted and ordered stays.
    pub fn revive(&self) {
        let mut state = self.state();
        state.kill_after = None;
        state.dead = false;
    }

    /// Ordered failures are over.
    pub fn lift(&self) {
        self.state().faults.clear();
    }

    async fn call<T, E: Broken>(
        &self,
        word: &'static str,
        target: impl Into<String>,
        work: impl FnOnce(&mut State) -> Result<T, E>,
    ) -> Result<T, E> {
        let target = target.into();
        let (point, transient, latency, patience) = {
            let mut state = self.state();
            let call = Call { word, target: target.clone(), at: Instant::now() };
            state.calls.push(call);
            let count = state.under_way.entry(word).or_default();
            *count += 1;
            let count = *count;
            let most = state.most.entry(word).or_default();
            *most = count.max(*most);
            let point = state.fault_due(word, &target);
            let latency = state.latency.get(word).copied();
            (point.map(|(point, _)| point), point.is_some_and(|(_, t)| t), latency, state.answer_within)
        };
        let _under_way = UnderWay(self, word);
        // What a slow observation shows is some time old.
        let age = latency.filter(|_| word == "look").map(|latency| latency / 2);
        if let Some(latency) = latency {
            tokio::time::sleep(latency - age.unwrap_or_default()).await;
        }
        let dead = self.state().dead;
        if let (Some(FaultPoint::Hang), Some(patience), false) = (point, patience, dead) {
            tokio::time::sleep(patience).await;
            return Err(E::broken(&format!("{word} {target}"), true));
        }
        if dead || point == Some(FaultPoint::Hang) {
            self.killed.notify_waiters();
            std::future::pending::<()>().await;
        }
        let broken = || E::broken(&format!("{word} {target}"), transient);
        if point == Some(FaultPoint::Before) {
            return Err(broken());
        }
        let outcome = work(&mut self.state());
        if let Some(age) = age {
            tokio::time::sleep(age).await;
        }
        if self.state().dead {
            self.killed.notify_waiters();
            std::future::pending::<()>().await;
        }
        if point == Some(FaultPoint::After) && outcome.is_ok() {
            return Err(broken());
        }
        outcome
    }
}

const CHANGES: [&str; 24] = [
    "start_session",
    "end_session",
    "prepare_workspace",
    "vm_adopt",
    "vm_create",
    "vm_start",
    "vm_stop",
    "vm_delete",
    "vm_forward",
    "load",
    "pull",
    "tag",
    "remove_image",
    "create",
    "start",
    "unpause",
    "stop",
    "rename",
    "remove",
    "fetch",
    "commit_manifest",
    "remember_image",
    "remove_file",
    "run_healthcheck",
];
