//! What is wanted and what is published, to begin a story with; and plans in words.

#![allow(dead_code, reason = "each target uses its share of it")]

use std::collections::BTreeMap;
use std::time::Duration;

use sha2::{Digest, Sha256};
use steadfast::model::*;
use steadfast::plan::Plan;

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
    image_in(tarball_of(agent, version))
}

/// What a tarball yields.
pub fn image_in(tarball: Sha256Digest) -> ImageId {
    ImageId::from(digest(&format!("image {tarball}")).to_string())
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
        ..HealthCheck::new(HealthTest::Shell("".into()))
    }
}

pub fn agent(name: &str) -> Agent {
    Agent {
        place: Place { file: "steadfast.yaml".into(), line: 1, column: 1 },
        version: Version::Exact("1".into()),
        rolled_back: None,
        image: Some(format!("r.example/{name}")),
        artifact: None,
        source: ImageSource::Manifest,
        arches: vec![Arch::X64],
        pins: BTreeMap::new(),
        state: AgentState::Running,
        suspend: false,
        rollout: Rollout::default(),
        container: ContainerSpec { ..ContainerSpec::new(container_name(&format!("demo-{name}"))) },
        workspaces: BTreeMap::new(),
        sessions: BTreeMap::new(),
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
        volumes: BTreeMap::new(),
        networks: BTreeMap::new(),
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

/// A plan, a line for each step, each wait and each note.
pub fn lines(plan: &Plan) -> Vec<String> {
    let ready = plan.ready.iter().map(|step| format!("{}: {}", step.action, step.reason));
    let waiting =
        plan.waiting.iter().map(|wait| format!("later {} `{}`: {}, {}", wait.kind, wait.target, wait.reason, wait.on));
    let refused = plan.refused.iter().flat_map(|refused| &refused.steps);
    let refused = refused.map(|step| format!("refused {}: {}", step.action, step.reason));
    let notes = plan.notes.iter().map(|note| format!("note: {note}"));
    ready.chain(waiting).chain(refused).chain(notes).collect()
}

pub fn session_name(name: &str) -> SessionName {
    SessionName::new(name).unwrap()
}

/// A session that runs in `cwd`, if that is said.
pub fn session(cwd: Option<&str>) -> SessionSpec {
    SessionSpec {
        command: vec!["pi".into()],
        cwd: cwd.map(Text::plain),
        env: BTreeMap::new(),
        stdin: SessionStdin::Pipe,
        tty: false,
        requires: Vec::new(),
        restart: SessionRestart::OnFailure,
        user: None,
        log_max: SessionSpec::LOG,
        idle: None,
    }
}

pub fn workspace(source: &str, target: &str) -> WorkspaceSpec {
    WorkspaceSpec {
        source: source.into(),
        target: target.into(),
        read_only: false,
        dirty: Dirty::Include,
        include: Vec::new(),
    }
}

/// The agent has session `pi` in workspace `repo`.
pub fn at_work(agent: &mut Agent) {
    agent.workspaces.insert(WorkspaceName::new("repo").unwrap(), workspace("/src/repo", "/root/repo"));
    agent.sessions.insert(session_name("pi"), session(Some("/root/repo/sub")));
}
