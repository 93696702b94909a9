//! Worlds to begin a story with, and plans in words.

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use steadfast::act::Patience;
use steadfast::backend::fake::{Fake, FakeContainer, State};
use steadfast::handles::Scratch;
use steadfast::model::*;
use steadfast::plan::Plan;
use steadfast::reconcile::journal::Journal;
use steadfast::reconcile::{Options, Reconciler, Refusal, Report, Silent};
use tokio_util::sync::CancellationToken;

/// Something wanted, in a world, with the way to go about it.
pub struct Story {
    pub desired: Desired,
    pub fake: Fake,
    pub options: Options,
    pub cancel: CancellationToken,
}

pub fn agent_name(name: &str) -> AgentName {
    AgentName::new(name).unwrap()
}

pub fn container_name(name: &str) -> ContainerName {
    ContainerName::new(name).unwrap()
}

pub fn digest(text: &str) -> Sha256Digest {
    Sha256Digest::from_bytes(Sha256::digest(text.as_bytes()).into())
}

pub fn key_of(agent: &str, version: &str) -> ArtifactKey {
    ArtifactKey::new(format!("vm/images/{agent}-{version}-x64.tar.gz")).unwrap()
}

pub fn tarball_of(agent: &str, version: &str) -> Sha256Digest {
    digest(&format!("{agent} {version}"))
}

pub fn image_of(agent: &str, version: &str) -> ImageId {
    ImageId::from(digest(&format!("image {agent} {version}")).to_string())
}

pub fn reference_of(agent: &str, version: &str) -> ImageRef {
    ImageRef::new(format!("r.example/{agent}:{version}")).unwrap()
}

pub fn port(number: u16) -> Port {
    Port { host_ip: "127.0.0.1".into(), host_port: number, container_port: 80, protocol: Protocol::Tcp }
}

pub fn health_check() -> HealthCheck {
    HealthCheck {
        test: HealthTest::Command(vec![Text::plain("true")]),
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        retries: 3,
        start_period: Duration::ZERO,
    }
}

pub fn agent(name: &str) -> Agent {
    Agent {
        place: Place { file: "steadfast.yaml".into(), line: 1, column: 1 },
        version: Version::Exact("1".into()),
        image: Some(format!("r.example/{name}")),
        source: ImageSource::Manifest,
        arches: vec![Arch::X64],
        pins: BTreeMap::new(),
        state: AgentState::Running,
        suspend: false,
        container: ContainerSpec {
            name: container_name(&format!("demo-{name}")),
            command: None,
            env: BTreeMap::new(),
            mounts: vec![],
            ports: vec![],
            restart: RestartPolicy::UnlessStopped,
            add_hosts: vec![],
            healthcheck: None,
            no_healthcheck: false,
            hidden_ports: Default::default(),
        },
    }
}

pub fn desired(agents: &[&str]) -> Desired {
    Desired {
        name: Name::new("demo").unwrap(),
        root: "/nowhere".into(),
        manifest: Some(Location::parse("https://cdn.example/vm/manifest.json").unwrap().into()),
        manifest_refresh: Duration::from_secs(3600),
        cache: CachePolicy { arches: vec![Arch::X64], keep: 1 },
        runtime: Runtime::Podman { socket: None },
        agents: agents.iter().map(|name| (agent_name(name), agent(name))).collect(),
        host_arch: Arch::X64,
        key: HostKey::from_bytes([1; 32]),
        claim: RootClaim::default(),
        meaning: Sha256Digest::from_bytes([2; 32]),
    }
}

pub fn manifest(offers: &[(&str, &str)]) -> Manifest {
    let offers: Vec<_> = offers.iter().map(|(agent, version)| (*agent, *version, tarball_of(agent, version))).collect();
    manifest_of(&offers)
}

/// A manifest of these tarballs.
pub fn manifest_of(offers: &[(&str, &str, Sha256Digest)]) -> Manifest {
    let agents: Vec<_> = offers
        .iter()
        .map(|(agent, version, sha256)| {
            let key = key_of(agent, version);
            format!(
                r#""{agent}": {{"image": "r.example/{agent}", "version": "{version}", "tarballs": {{"x64": {{"key": "{key}", "sha256": "{sha256}", "sizeBytes": 16}}}}}}"#
            )
        })
        .collect();
    let text = format!(r#"{{"schemaVersion": 2, "updatedAt": "now", "agents": {{{}}}}}"#, agents.join(", "));
    Manifest::parse(text.as_bytes()).unwrap()
}

/// Publishes a manifest and all its tarballs.
pub fn publish(state: &mut State, offers: &[(&str, &str)]) {
    state.published = Some(manifest(offers));
    for (agent, version) in offers {
        let name = reference_of(agent, version).to_string();
        state.offered.insert(key_of(agent, version), tarball_of(agent, version));
        state.tarballs.insert(tarball_of(agent, version), (image_of(agent, version), vec![name]));
    }
}

/// A container of somebody else.
pub fn foreign(name: &str) -> FakeContainer {
    FakeContainer {
        name: container_name(name),
        labels: BTreeMap::from([("com.example.owner".to_owned(), "somebody".to_owned())]),
        spec: agent("foreign").container,
        image: ImageId::from("f0f0"),
        image_name: "r.example/foreign:1".into(),
        phase: Phase::Running,
        restarts: 0,
        checks: (0, false),
        started: None,
        ends: Vec::new(),
        volumes: vec![],
        is_half_made: false,
    }
}

impl Story {
    /// These agents are wanted at version 1, which is published; nothing is there yet.
    pub fn new(agents: &[&str]) -> Self {
        let fake = Fake::new();
        let offers: Vec<_> = agents.iter().map(|name| (*name, "1")).collect();
        publish(&mut fake.state(), &offers);
        let patience = Patience { local: false, ..Patience::default() };
        let options = Options { patience, ..Options::default() };
        Self { desired: desired(agents), fake, options, cancel: CancellationToken::new() }
    }

    /// These agents run.
    pub async fn running(agents: &[&str]) -> Self {
        Self::new(agents).settled().await
    }

    /// What is wanted has come about.
    pub async fn settled(self) -> Self {
        let report = self.converge().await;
        assert!(report.converged, "{:?}", report.troubles);
        self.fake.restart();
        self
    }

    pub fn agent(&mut self, name: &str) -> &mut Agent {
        self.desired.agents.get_mut(name).unwrap()
    }

    pub fn set_env(&mut self, agent: &str, name: &str, value: &str) {
        self.agent(agent).container.env.insert(name.into(), Text::plain(value));
    }

    pub async fn try_converge(&self) -> Result<Report, Refusal> {
        let world = self.fake.world();
        self.reconcile(&world, async |reconciler| reconciler.converge().await).await
    }

    /// Converges in a world of several parts.
    pub async fn converge_in(&self, world: &steadfast::backend::World<Fake, Fake, Fake>) -> Report {
        self.reconcile(world, async |reconciler| reconciler.converge().await).await.unwrap()
    }

    pub async fn converge(&self) -> Report {
        self.try_converge().await.unwrap()
    }

    pub async fn observed_plan(&self) -> (Observed, Plan) {
        let world = self.fake.world();
        let (observed, plan, _) = self.reconcile(&world, async |reconciler| reconciler.plan().await).await;
        (observed, plan)
    }

    async fn reconcile<T>(
        &self,
        world: &steadfast::backend::World<Fake, Fake, Fake>,
        with: impl AsyncFnOnce(&Reconciler<'_, Fake, Fake, Fake>) -> T,
    ) -> T {
        let (journal, scratch) = (Journal::off(), Scratch::off());
        let reconciler = Reconciler {
            world,
            desired: &self.desired,
            options: &self.options,
            reporter: &Silent,
            journal: &journal,
            scratch: &scratch,
            cancel: self.cancel.clone(),
        };
        with(&reconciler).await
    }

    pub async fn down(&self) -> Report {
        let world = self.fake.world();
        self.reconcile(&world, async |reconciler| reconciler.down(false).await).await.unwrap()
    }

    /// The whole plan, a line for each step.
    pub async fn plan(&self) -> Vec<String> {
        lines(&self.observed_plan().await.1)
    }

    pub fn id(&self, container: &str) -> ContainerId {
        self.fake.state().named(container).unwrap_or_else(|| panic!("no container {container}")).0.clone()
    }

    pub fn phase(&self, container: &str) -> Phase {
        self.fake.state().named(container).unwrap_or_else(|| panic!("no container {container}")).1.phase.clone()
    }

    /// Names of all containers.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.fake.state().containers.values().map(|one| one.name.to_string()).collect();
        names.sort();
        names
    }
}

pub fn lines(plan: &Plan) -> Vec<String> {
    let ready = plan.ready.iter().map(|step| format!("{}: {}", step.action, step.reason));
    let waiting =
        plan.waiting.iter().map(|wait| format!("later {} `{}`: {}, {}", wait.kind, wait.target, wait.reason, wait.on));
    let notes = plan.notes.iter().map(|note| format!("note: {note}"));
    ready.chain(waiting).chain(notes).collect()
}

/// What went wrong, a line for each trouble.
pub fn troubles(report: &Report) -> Vec<String> {
    report.troubles.iter().map(ToString::to_string).collect()
}

/// The steps that were taken.
pub fn taken(report: &Report) -> Vec<String> {
    report.taken.iter().map(|taken| taken.step.action.to_string()).collect()
}

/// The same state file, with its agents in a virtual machine.
pub fn in_vm(mut desired: Desired) -> Desired {
    desired.runtime = Runtime::Lima(Box::new(VmSpec {
        instance: InstanceName::new("agents").unwrap(),
        home: "/lima".into(),
        template: template("cpus: 2"),
        cpus: None,
        memory: None,
        disk: None,
        transport: Transport::Auto,
        on_template_change: TemplateChange::Warn,
        restart_after: Duration::from_secs(300),
    }));
    desired
}

pub fn template(text: &str) -> Template {
    let digest = tarball_of("template", text);
    Template { path: "/t.yaml".into(), content: serde_json::Value::Null, digest }
}

pub fn spec(desired: &mut Desired) -> &mut VmSpec {
    match &mut desired.runtime {
        Runtime::Lima(spec) => spec,
        Runtime::Podman { .. } => panic!("no virtual machine is wanted"),
    }
}
