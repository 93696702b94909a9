//! What is wanted beside what was observed, built by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use steadfast::model::*;
use steadfast::plan::{Plan, Policy, Takedown, plan, plan_down};

pub use crate::wishes::*;

/// What is wanted, what was observed, and what is allowed.
#[derive(Debug, Clone)]
pub struct Scene {
    pub desired: Desired,
    pub observed: Observed,
    pub policy: Policy,
}

/// These agents are wanted at version 1, which is published. Podman answers, and nothing is there yet.
pub fn nothing(agents: &[&str]) -> Scene {
    let observed =
        Observed { guest: Seen::Present(Guest { looked_at: Some(now()), ..Guest::default() }), ..Observed::nothing() };
    let scene = Scene { desired: desired(agents), observed, policy: Policy::default() };
    let offers: Vec<_> = agents.iter().map(|agent| (*agent, "1")).collect();
    scene.published(&offers)
}

/// These agents are wanted at version 1 and run, and all is as it should be.
pub fn steady(agents: &[&str]) -> Scene {
    let mut scene = nothing(agents);
    scene.observed.local = scene.observed.published.clone();
    for agent in agents {
        scene = scene.cached(agent, "1").image(agent, "1");
        let one = scene.made(agent);
        scene.guest_mut().containers.insert(container_name(&format!("demo-{agent}")), one);
    }
    scene
}

/// Some moment.
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_750_000_000)
}

/// A machine of ours that runs.
pub fn machine() -> VmState {
    VmState {
        phase: VmPhase::Running,
        owner: Some("demo".into()),
        root: None,
        template: Some(template("cpus: 2").digest.to_string()),
        dir: "/lima/agents".into(),
        vm_type: "qemu".into(),
        lima_version: "2.1.4".into(),
        cpus: 2,
        memory: 4 << 30,
        disk: 100 << 30,
        ssh_port: None,
        ssh_config: "/lima/agents/ssh.config".into(),
        host_agent: None,
        driver: None,
        socket: None,
        mounts: Vec::new(),
        forwards: BTreeSet::new(),
    }
}

/// A container of which nothing is known but whose it is.
pub fn container(id: &str, owner: Owner, image: ImageId, phase: Phase) -> ContainerState {
    ContainerState {
        id: id.parse().unwrap(),
        owner,
        image,
        image_name: String::new(),
        phase,
        started_at: Some(now() - Duration::from_secs(3600)),
        ended_at: None,
        pid: None,
        restarts: Some(0),
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

impl Scene {
    // ------------------------------------------------------------------------------------------------ what is wanted

    /// The agent is wanted so.
    pub fn wants(mut self, agent: &str, how: impl FnOnce(&mut Agent)) -> Self {
        how(self.desired.agents.get_mut(agent).unwrap());
        self
    }

    /// The agent's variable is to have this value.
    pub fn edited(self, agent: &str, variable: &str, value: &str) -> Self {
        let (variable, value) = (variable.to_owned(), Text::plain(value));
        self.wants(agent, |agent| drop(agent.container.env.insert(variable, value)))
    }

    /// The agent is not in the state file any more.
    pub fn without(mut self, agent: &str) -> Self {
        self.desired.agents.remove(agent);
        self
    }

    /// The state file says so.
    pub fn file(mut self, how: impl FnOnce(&mut Desired)) -> Self {
        how(&mut self.desired);
        self
    }

    /// This is allowed.
    pub fn allowing(mut self, how: impl FnOnce(&mut Policy)) -> Self {
        how(&mut self.policy);
        self
    }

    // ------------------------------------------------------------------------------------------------ what was observed

    /// This was observed.
    pub fn seeing(mut self, how: impl FnOnce(&mut Observed)) -> Self {
        how(&mut self.observed);
        self
    }

    /// The published manifest offers these.
    pub fn published(self, offers: &[(&str, &str)]) -> Self {
        let offered = manifest(offers);
        self.seeing(|observed| observed.published = Seen::Present(offered))
    }

    /// The tarball is in the cache, proved.
    pub fn cached(mut self, agent: &str, version: &str) -> Self {
        let tarball = tarball_of(agent, version);
        let file = CachedArtifact {
            size: 16,
            digest: Some(tarball),
            image: Some(image_of(agent, version)),
            modified: now() + Duration::from_secs(version.parse().unwrap_or(0)),
        };
        match &mut self.observed.artifacts {
            Seen::Present(files) => drop(files.insert(key_of(agent, version), file)),
            seen => *seen = Seen::Present(BTreeMap::from([(key_of(agent, version), file)])),
        }
        self
    }

    /// The image was loaded from its tarball, under its name.
    pub fn image(mut self, agent: &str, version: &str) -> Self {
        let (image, reference) = (image_of(agent, version), reference_of(agent, version));
        let loaded = LoadedImage { artifact: tarball_of(agent, version), reference: reference.clone() };
        self.observed.loaded.insert(image.clone(), loaded);
        self.named(reference, image)
    }

    /// There is an image of this name, wherever it comes from.
    pub fn named(self, reference: ImageRef, image: ImageId) -> Self {
        self.podman(|guest| {
            if let Some(had) = guest.images.insert(reference.clone(), image.clone())
                && let Some(before) = guest.image_store.get_mut(&had)
            {
                before.tags.remove(&reference);
            }
            let state = guest.image_store.entry(image).or_insert_with(|| ImageState { size: 16, ..Default::default() });
            state.tags.insert(reference);
            state.containers.get_or_insert(0);
        })
    }

    /// Podman has this.
    pub fn podman(mut self, how: impl FnOnce(&mut Guest)) -> Self {
        how(self.guest_mut());
        self
    }

    pub fn guest_mut(&mut self) -> &mut Guest {
        match &mut self.observed.guest {
            Seen::Present(guest) => guest,
            _ => panic!("Podman is not seen in this scene"),
        }
    }

    /// The container that would be made of the agent as it is wanted now.
    pub fn made(&self, agent: &str) -> ContainerState {
        let wanted = &self.desired.agents[agent];
        let version = wanted.version.to_string();
        let artifact = (wanted.source == ImageSource::Manifest).then(|| tarball_of(agent, &version));
        let spec = CanonicalSpec::new(&wanted.container, &reference_of(agent, &version), artifact, &self.desired.key);
        let owner = Owner::Ours { agent: Some(agent_name(agent)), spec: Some(spec), version: SPEC_VERSION };
        let mut one = container(&format!("id of {agent}"), owner, image_of(agent, &version), Phase::Running);
        one.ports = wanted.container.ports.iter().cloned().map(PortRange::from).collect();
        one.health = wanted.container.healthcheck.is_some().then_some(Health::Healthy);
        one
    }

    /// A container of this name is there.
    pub fn with(self, name: &str, one: ContainerState) -> Self {
        self.podman(|guest| drop(guest.containers.insert(container_name(name), one)))
    }

    /// The container is so.
    pub fn container(self, name: &str, how: impl FnOnce(&mut ContainerState)) -> Self {
        self.podman(|guest| how(guest.containers.get_mut(&container_name(name)).unwrap()))
    }

    pub fn phase(self, name: &str, phase: Phase) -> Self {
        self.container(name, |one| one.phase = phase)
    }

    /// The container is not there any more.
    pub fn gone(self, name: &str) -> Self {
        self.podman(|guest| drop(guest.containers.remove(&container_name(name)).unwrap()))
    }

    /// The container has another name.
    pub fn renamed(self, from: &str, to: &str) -> Self {
        self.podman(|guest| {
            let one = guest.containers.remove(&container_name(from)).unwrap();
            guest.containers.insert(container_name(to), one);
        })
    }

    /// A second container of the same agent, of this name.
    pub fn twin(self, of: &str, name: &str, phase: Phase) -> Self {
        self.podman(|guest| {
            let mut twin = guest.containers[&container_name(of)].clone();
            twin.id = format!("id of {name}").parse().unwrap();
            twin.phase = phase;
            guest.containers.insert(container_name(name), twin);
        })
    }

    /// Somebody else's container has this name.
    pub fn foreign(self, name: &str, whose: Whose) -> Self {
        let one = container(&format!("theirs {name}"), Owner::Foreign(whose), "f0f0".into(), Phase::Running);
        self.with(name, one)
    }

    // --------------------------------------------------------------------------------------------------- the plan

    pub fn plan(&self) -> Plan {
        plan(&self.desired, &self.observed, &self.policy)
    }

    /// The whole plan is this, and nothing else.
    #[track_caller]
    pub fn plans(&self, wanted: &[&str]) {
        assert_eq!(lines(&self.plan()), wanted);
    }

    /// Whatever is planned, this is the whole plan to take everything down.
    #[track_caller]
    pub fn takes_down(&self, vm: bool, wanted: &[&str]) {
        assert_eq!(lines(&plan_down(&self.desired, &self.observed, Takedown { vm, volumes: false })), wanted);
    }
}

/// It could not be looked at.
pub fn unknown<T>() -> Seen<T> {
    Seen::Unknown { why: "the look failed".into() }
}
