//! An ideal world: each step does at once what it says, and what moves on by itself has moved on by the next observation.

use std::collections::BTreeMap;

use steadfast::model::*;
use steadfast::plan::{Action, StartMode, Step};

use crate::scene::*;

/// What is really there: of a machine that does not run, what is in it as well.
#[derive(Debug, Clone)]
pub struct Ideal {
    /// As an observation would have it, but for what is hidden in a machine that does not run.
    pub seen: Observed,
    /// What is in the machine, while nobody can see it.
    pub inside: Option<Guest>,
    made: usize,
}

impl Ideal {
    pub fn new(seen: Observed) -> Self {
        Self { seen, inside: None, made: 0 }
    }

    /// Takes all these steps, which do not depend on each other.
    pub fn take<'a>(&mut self, steps: impl IntoIterator<Item = &'a Step>) {
        steps.into_iter().for_each(|step| self.take_one(&step.action));
    }

    /// What moves on without anybody's doing.
    pub fn pass_time(&mut self) {
        if let Seen::Present(vm) = &mut self.seen.vm
            && vm.phase == VmPhase::Starting
        {
            vm.phase = VmPhase::Running;
            self.open();
        }
        let Seen::Present(guest) = &mut self.seen.guest else { return };
        guest.containers.retain(|_, one| one.phase != Phase::Removing);
        for one in guest.containers.values_mut() {
            if one.phase == Phase::Stopping {
                one.phase = Phase::Exited { code: 143 };
            }
            if one.phase == Phase::Running && one.health.is_some() {
                one.health = Some(Health::Healthy);
            }
        }
    }

    fn guest(&mut self) -> &mut Guest {
        match &mut self.seen.guest {
            Seen::Present(guest) => guest,
            seen => panic!("a step in a Podman that is {seen:?}"),
        }
    }

    fn files(&mut self) -> &mut BTreeMap<ArtifactKey, CachedArtifact> {
        match &mut self.seen.artifacts {
            Seen::Present(files) => files,
            seen => panic!("a step in a cache that is {seen:?}"),
        }
    }

    fn vm(&mut self) -> &mut VmState {
        match &mut self.seen.vm {
            Seen::Present(vm) => vm,
            seen => panic!("a step in a machine that is {seen:?}"),
        }
    }

    fn shared(&mut self) -> &mut SharedState {
        match &mut self.seen.shared {
            Seen::Present(shared) => shared,
            seen => panic!("a step on volumes and networks that are {seen:?}"),
        }
    }

    fn open(&mut self) {
        self.seen.guest = Seen::Present(self.inside.take().unwrap_or_default());
        self.seen.reach = Reach { route: Some(Route::Forward), ..Reach::default() };
    }

    fn take_one(&mut self, action: &Action) {
        match action {
            Action::SyncManifest { manifest, .. } => {
                let mut manifest = (**manifest).clone();
                manifest.is_pending = false;
                self.seen.local = Seen::Present(manifest);
            }
            Action::FetchArtifact { artifact, .. } => {
                let (size, digest) = (artifact.size_bytes, Some(artifact.sha256));
                let file = CachedArtifact { size, digest, image: None, modified: now() };
                self.files().insert(artifact.key.clone(), file);
            }
            Action::PruneArtifact { key, .. } => drop(self.files().remove(key).expect("it is there")),
            Action::LoadImage { artifact, reference, tag, leaves, .. } => {
                let is_here = self.files().values().any(|file| file.digest == Some(artifact.sha256));
                assert!(tag.is_some() || is_here, "`{}` is not in the cache", artifact.key);
                let image = image_in(artifact.sha256);
                if !self.guest().image_store.contains_key(&image) {
                    let loaded = LoadedImage { artifact: artifact.sha256, reference: reference.clone() };
                    self.seen.loaded.insert(image.clone(), loaded);
                }
                for (key, file) in self.files() {
                    if *key == artifact.key || file.digest == Some(artifact.sha256) {
                        file.image = Some(image.clone());
                    }
                }
                self.add(image.clone());
                if leaves.is_none() {
                    self.name(reference, &image);
                }
            }
            Action::PullImage { reference } => {
                let image = ImageId::from(digest(reference.as_str()).to_string());
                self.add(image.clone());
                self.name(reference, &image);
            }
            Action::PruneImage { image, .. } => {
                let guest = self.guest();
                guest.image_store.remove(image).expect("it is there");
                guest.images.retain(|_, other| other != image);
            }
            Action::CreateContainer { create, start } => self.create(create, *start),
            Action::StartContainer { id, how, previous, .. } => {
                let one = self.one(id);
                if *how != StartMode::Restart || one.health == Some(Health::Unhealthy) {
                    one.phase = Phase::Running;
                    one.health = one.health.as_ref().map(|_| Health::Healthy);
                }
                if let Some(previous) = previous {
                    self.remove(previous);
                }
            }
            Action::StopContainer { id, .. } => self.one(id).phase = Phase::Exited { code: 143 },
            Action::ReplaceContainer { create, start, old, successor, .. } => {
                self.remove(old);
                if let Some(successor) = successor {
                    self.remove(successor);
                }
                self.create(create, *start);
            }
            Action::RenameContainer { id, name, .. } => {
                let one = self.remove(id);
                assert!(self.guest().containers.insert(name.clone(), one).is_none(), "`{name}` is taken");
            }
            Action::RemoveContainer { id, .. } => drop(self.remove(id)),
            Action::CreateVm { make } => {
                self.seen.vm = Seen::Present(VmState {
                    phase: VmPhase::Stopped,
                    template: Some(make.spec.template.digest.to_string()),
                    forwards: make.forwards.clone(),
                    ..machine()
                });
                self.inside = Some(Guest::default());
            }
            Action::StartVm { make, .. } => {
                let forwards = make.forwards.clone();
                let vm = self.vm();
                (vm.phase, vm.forwards) = (VmPhase::Running, forwards);
                self.open();
                self.go_down();
            }
            Action::RecreateVm { make } => {
                let (template, forwards) = (Some(make.spec.template.digest.to_string()), make.forwards.clone());
                self.seen.vm = Seen::Present(VmState { template, forwards, ..machine() });
                self.inside = Some(Guest::default());
                self.open();
            }
            Action::AdoptVm { owner, .. } => {
                let vm = self.vm();
                vm.owner = Some(owner.name.to_string());
                if vm.phase == VmPhase::Running {
                    self.open();
                }
            }
            Action::CreateNetwork { make } => {
                let NetworkSpec { internal, subnet, ipv6, dns, .. } = make.spec.clone();
                let subnets = subnet.into_iter().collect();
                let made = NetworkState { labels: make.labels.clone(), internal, ipv6, dns, subnets };
                assert!(self.shared().networks.insert(make.name.clone(), made).is_none(), "it is there");
            }
            Action::CreateVolume { make } => {
                let VolumeSpec { driver, options, .. } = make.spec.clone();
                let driver = driver.unwrap_or_else(|| "local".to_owned());
                let made = VolumeState { labels: make.labels.clone(), driver, options };
                assert!(self.shared().volumes.insert(make.name.clone(), made).is_none(), "it is there");
            }
            Action::RemoveNetwork { name } => drop(self.shared().networks.remove(name).expect("it is there")),
            Action::RemoveVolume { name } => drop(self.shared().volumes.remove(name).expect("it is there")),
            Action::PrepareWorkspace { at, name, spec } => {
                let WorkspaceSpec { source, target, read_only, dirty, include } = (**spec).clone();
                let (container, name) = (at.container.clone(), name.to_string());
                let (prepared, now) = ("v0".to_owned(), Some(Ok("v0".to_owned())));
                let state = WorkspaceState {
                    container,
                    source,
                    read_only,
                    dirty,
                    include,
                    name,
                    commit: None,
                    prepared_at: None,
                    kept: 0,
                    prepared,
                    now,
                };
                self.inside_of(at).workspaces.insert(target, state);
            }
            Action::StartSession { at, start } => {
                let workspaces = &self.inside_of(at).workspaces;
                let is_there = |cwd: &str| workspaces.keys().any(|target| cwd.starts_with(target.as_str()));
                assert!(start.spec.cwd.as_ref().is_none_or(|cwd| is_there(cwd.expose())), "too early: {start:?}");
                let state = SessionState {
                    id: format!("{}", self.made),
                    origin: SessionOrigin::Declared(CanonicalSession::from_text(&start.declared)),
                    phase: SessionPhase::Running,
                    pid: None,
                    pid_started: None,
                    started_at: None,
                    restarts: 0,
                    idle: None,
                    waits_for_input: None,
                };
                let before = self.sessions_of(at).insert(start.name.clone(), state);
                assert_eq!(before.map(|before| before.id), start.replaces, "two of a session");
            }
            Action::StopSession { at, name, .. } => drop(self.sessions_of(at).remove(name).expect("it is there")),
            Action::ForwardPorts { ports, .. } => self.vm().forwards.extend(ports.iter().cloned()),
            Action::DeleteVm { .. } => (self.seen.vm, self.seen.guest) = (Seen::Absent, Seen::Absent),
            Action::StopVm { .. } => panic!("never planned"),
        }
    }

    fn inside_of(&mut self, at: &steadfast::backend::InAgent) -> &mut Inside {
        assert_eq!(self.one(&at.container).phase, Phase::Running, "in a container that runs");
        let inside = self.seen.inside.get_mut(&at.agent).expect("it was looked into");
        assert_eq!(inside.container, at.container);
        inside
    }

    fn sessions_of(&mut self, at: &steadfast::backend::InAgent) -> &mut BTreeMap<SessionName, SessionState> {
        match &mut self.inside_of(at).sessions {
            Seen::Present(sessions) => sessions,
            seen => panic!("a session among {seen:?}"),
        }
    }

    /// Those of agents that run under their name are looked into.
    pub fn look_inside(&mut self, desired: &Desired) {
        let Seen::Present(guest) = &self.seen.guest else { return self.seen.inside.clear() };
        let mut inside = BTreeMap::new();
        for (agent, wanted) in &desired.agents {
            let found = guest.containers.get(&wanted.container.name);
            let runs = |one: &&ContainerState| one.phase == Phase::Running && one.owner.is_of(agent);
            let Some(one) = found.filter(runs) else { continue };
            let had = self.seen.inside.remove(agent).filter(|had| had.container == one.id);
            let new = || Inside {
                container: one.id.clone(),
                sessions: Seen::Present(BTreeMap::new()),
                workspaces: BTreeMap::new(),
            };
            inside.insert(agent.clone(), had.unwrap_or_else(new));
        }
        self.seen.inside = inside;
    }

    /// What ran in a machine does not when it comes up.
    fn go_down(&mut self) {
        for one in self.guest().containers.values_mut().filter(|one| one.phase != Phase::Created) {
            one.phase = Phase::Exited { code: 143 };
        }
    }

    fn add(&mut self, image: ImageId) {
        let state = ImageState { size: 16, containers: Some(0), ..ImageState::default() };
        self.guest().image_store.entry(image).or_insert(state);
    }

    fn name(&mut self, reference: &ImageRef, image: &ImageId) {
        let guest = self.guest();
        guest.images.insert(reference.clone(), image.clone());
        for (id, state) in &mut guest.image_store {
            if id == image {
                state.tags.insert(reference.clone())
            } else {
                state.tags.remove(reference)
            };
        }
    }

    fn one(&mut self, id: &ContainerId) -> &mut ContainerState {
        self.guest().containers.values_mut().find(|one| one.id == *id).expect("it is there")
    }

    fn remove(&mut self, id: &ContainerId) -> ContainerState {
        let guest = self.guest();
        let name = guest.containers.iter().find(|(_, one)| one.id == *id).expect("it is there").0.clone();
        guest.containers.remove(&name).expect("it was found")
    }

    fn create(&mut self, create: &Create, start: bool) {
        self.made += 1;
        let id = format!("made {}", self.made);
        let spec = create.labels.get(labels::SPEC).and_then(|label| CanonicalSpec::from_label(label));
        let agent = create.labels.get(labels::AGENT).map(|agent| agent_name(agent));
        let owner = Owner::Ours { agent, spec, version: SPEC_VERSION };
        let image = create.image_id.clone().expect("what is made is made from an image");
        assert!(self.guest().image_store.contains_key(&image), "there is no image {image}");
        let phase = if start { Phase::Running } else { Phase::Created };
        let mut one = container(&id, owner, image, phase);
        one.ports = create.spec.ports.iter().cloned().map(PortRange::from).collect();
        one.health = create.spec.healthcheck.as_ref().map(|_| Health::Healthy);
        let before = self.guest().containers.insert(create.name.clone(), one);
        assert!(before.is_none(), "`{}` is taken", create.name);
    }
}
