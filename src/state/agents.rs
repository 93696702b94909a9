//! From the `agents:` mapping to the agents, and what they must not share.

mod image;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::container::{self, Ports, Published, Surroundings};
use super::decode::{At, Cx, Decode, Path, cut, field, has_key, is_null};
use super::document::{AgentDoc, DefaultsDoc, MAX_COPIES, PinsDoc};
use super::ports::{Holder, Taken};
use super::problem::Draft;
use super::resolve::{arches, checked};
use super::scalar::{Whole, Word};
use super::source::Places;
use super::substitute::Whose;
use super::tree::{NodeId, Tree, View};
use super::variables::EnvFiles;
use super::{layers, rollout, sessions, workspaces};
use crate::model::{
    Agent, AgentName, AgentState, Arch, ContainerName, ImageRef, ImageSource, Name, Port, Protocol, Rollout,
    SessionName, SessionSpec, Sha256Digest, Version, WorkspaceName, WorkspaceSpec,
};

use image::check_image;
pub(crate) use image::{check_repository, check_version};

static NONE: BTreeMap<String, String> = BTreeMap::new();

/// The agents resolved so far, and what they took.
pub(super) struct Agents<'a> {
    places: Places<'a>,
    owner: Option<&'a Name>,
    cache_arches: &'a [Arch],
    host_arch: Arch,
    env_files: EnvFiles,
    names: HashMap<ContainerName, (String, NodeId)>,
    ports: Taken,
    /// Containers run in a virtual machine.
    in_vm: bool,
    /// The top-level volumes and networks, by their keys: their names in the engine.
    volumes: &'a BTreeMap<String, String>,
    networks: &'a BTreeMap<String, String>,
    /// The names so far, and the keys they come from.
    seen: HashMap<String, NodeId>,
    /// How many agents were made by `count`, and what they have in all: values and bytes.
    copies: u32,
    copied: (u64, u64),
    /// The container's name in the defaults, where it was refused.
    refused_name: Option<NodeId>,
    made: Vec<Made>,
    agents: BTreeMap<AgentName, Agent>,
}

/// Where an agent stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    key: NodeId,
    /// Its mapping, with all that it takes up.
    pub(super) node: NodeId,
    /// Which of those it is that `count` makes.
    index: Option<u32>,
}

impl Made {
    /// Its name.
    pub(super) fn name<'t>(&self, tree: &'t Tree<'_>) -> Cow<'t, str> {
        match self.index {
            None => tree.text(self.key).into(),
            Some(index) => format!("{}-{index}", tree.text(self.key)).into(),
        }
    }

    /// Where its name stands.
    pub(super) fn key(&self) -> NodeId {
        self.key
    }

    /// From now on, what is reported is said of it.
    pub(super) fn report(&self, cx: &mut Cx<'_>, name: &str, path: Path<'_>) {
        if self.index.is_some() || cx.problems.has_inherited() {
            let entry = path.key(cx.tree.text(self.key)).to_string();
            cx.problems.read(Some((path.key(name).to_string(), entry)));
        }
    }

    /// From now on its values are read.
    fn begin(&self, cx: &mut Cx<'_>, path: Path<'_>) {
        let name = self.name(cx.tree).into_owned();
        self.report(cx, &name, path);
        cx.whose = Whose::Agent { name, index: self.index };
    }
}

/// From now on no agent's values are read.
pub(super) fn end(cx: &mut Cx<'_>) {
    cx.problems.read(None);
    cx.whose = Whose::Nobody;
}

/// All agents of a file.
pub(super) struct Resolved {
    pub(super) agents: BTreeMap<AgentName, Agent>,
    /// Where each stands.
    pub(super) made: Vec<Made>,
    /// The env files that were looked at.
    pub(super) env_files: EnvFiles,
}

/// What an agent says, each part of it missing where it was reported.
struct Said {
    version: Option<Version>,
    image: Option<String>,
    source: ImageSource,
    artifact: Option<AgentName>,
    arches: Option<Vec<Arch>>,
    pins: BTreeMap<Arch, Sha256Digest>,
    state: AgentState,
    suspend: bool,
    rollout: Rollout,
    /// With its ports, and where its name stands when it says one.
    container: Option<(crate::model::ContainerSpec, Ports)>,
    named_at: Option<NodeId>,
    workspaces: BTreeMap<WorkspaceName, WorkspaceSpec>,
    sessions: BTreeMap<SessionName, SessionSpec>,
}

impl<'a> Agents<'a> {
    pub(super) fn new(places: Places<'a>, owner: Option<&'a Name>, cache_arches: &'a [Arch], host_arch: Arch) -> Self {
        Self {
            places,
            owner,
            cache_arches,
            host_arch,
            env_files: EnvFiles::default(),
            names: HashMap::new(),
            ports: Taken::default(),
            in_vm: false,
            volumes: &NONE,
            networks: &NONE,
            seen: HashMap::new(),
            copies: 0,
            copied: (0, 0),
            refused_name: None,
            made: Vec::new(),
            agents: BTreeMap::new(),
        }
    }

    /// Their containers run in a virtual machine.
    pub(super) fn in_vm(self, in_vm: bool) -> Self {
        Self { in_vm, ..self }
    }

    /// What containers may refer to: the top-level volumes and networks by their keys.
    pub(super) fn sharing(self, volumes: &'a BTreeMap<String, String>, networks: &'a BTreeMap<String, String>) -> Self {
        Self { volumes, networks, ..self }
    }

    /// All of them.
    pub(super) fn finish(self) -> Resolved {
        Resolved { agents: self.agents, made: self.made, env_files: self.env_files }
    }

    /// Looks at what agents may take up, whether one does or not.
    pub(super) fn check(&mut self, cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) {
        (cx.whose, cx.partial, self.env_files.unread) = (Whose::Several, true, true);
        let blanks = std::mem::replace(&mut cx.blanks, true);
        self.read(cx, "agent", node, path);
        (cx.whose, cx.partial, self.env_files.unread, cx.blanks) = (Whose::Nobody, false, false, blanks);
    }

    /// Looks at what lies below every agent.
    pub(super) fn check_defaults(&mut self, cx: &mut Cx<'_>, node: NodeId, path: Path<'_>) {
        let View::Map(pairs) = cx.tree.view(node) else { return self.check(cx, node, path) };
        for key in pairs.iter().step_by(2) {
            let text = cx.tree.text(*key);
            if let Some((_, help)) = DefaultsDoc::OWN.iter().find(|(own, _)| *own == text) {
                cx.wrong_help(*key, path.key(text), format!("`{text}` cannot be the same for all agents"), *help);
            }
        }
        let container = path.key("container");
        if let Some(name) = field(cx.tree, node, "container").and_then(|container| field(cx.tree, container, "name"))
            && !is_null(cx.tree, name)
            && !cx.tree.text(name).contains("${agent:name}")
        {
            let help = "leave it out for `<name>-<agent>`, or write `${agent:name}` in it";
            cx.wrong_help(name, container.key("name"), "all containers would have this name", help);
            self.refused_name = Some(name);
        }
        self.check(cx, node, path);
    }

    /// Resolves an entry of the file: one agent, or as many as its `count` says. What is wrong with it does not hide what is
    /// wrong with the others.
    pub(super) fn add(&mut self, cx: &mut Cx<'_>, key: NodeId, name: &str, node: NodeId, path: Path<'_>) {
        let Some(at) = field(cx.tree, node, "count").filter(|at| !is_null(cx.tree, *at)) else {
            return self.add_one(cx, Made { key, node, index: None }, path);
        };
        let of_entry = path.key(name);
        let first = Made { key, node, index: Some(1) };
        first.begin(cx, path);
        let count = Whole::<0, MAX_COPIES>::decode(cx, at, of_entry.key("count")).map(|count| count.0);
        end(cx);
        let longest = format!("{name}-{}", count.unwrap_or(1));
        let is_name = match (AgentName::new(name), AgentName::new(longest)) {
            (Err(err), _) => {
                cx.wrong(key, of_entry, err.to_string());
                false
            }
            (Ok(_), Err(err)) => {
                cx.wrong_help(key, of_entry, err.to_string(), "shorten the name");
                false
            }
            (Ok(_), Ok(_)) => true,
        };
        let before = self.copies;
        self.copies = before.saturating_add(count.unwrap_or_default());
        let fits = self.copies <= MAX_COPIES;
        if !fits && before <= MAX_COPIES {
            let message = format!("`count` makes more than {MAX_COPIES} agents in all");
            cx.wrong_help(at, of_entry.key("count"), message, "split the file into several with names of their own");
        }
        let is_small = count.is_none_or(|count| !fits || layers::fits(cx.tree, node, count, &mut self.copied));
        if !is_small {
            let message = "all that `count` makes comes to too much";
            let help = "written for each of them, agents may have as much as fits into one file";
            cx.wrong_help(at, of_entry.key("count"), message, help);
        }
        match count {
            Some(count) if count > 0 && is_name && fits && is_small => {
                for index in 1..=count {
                    self.add_one(cx, Made { index: Some(index), ..first }, path);
                }
            }
            // There is none; what is wrong with it is told all the same.
            _ => {
                first.begin(cx, path);
                (cx.whose, self.env_files.unread) = (Whose::Several, true);
                self.read(cx, name, node, path.key(&first.name(cx.tree)));
                self.env_files.unread = false;
                end(cx);
            }
        }
    }

    fn add_one(&mut self, cx: &mut Cx<'_>, made: Made, path: Path<'_>) {
        made.begin(cx, path);
        let name = made.name(cx.tree);
        self.resolve(cx, made, &name, path.key(&name));
        end(cx);
    }

    fn resolve(&mut self, cx: &mut Cx<'_>, made: Made, name: &str, path: Path<'_>) {
        let Made { key, node, .. } = made;
        let agent_name = AgentName::new(name).map_err(|err| cx.wrong(key, path, err.to_string())).ok();
        // A name that is no DNS label was reported; its container is still worth checking.
        let agent = agent_name.as_ref().map_or("agent", AgentName::as_str);
        let Some(said) = self.read(cx, agent, node, path) else { return };
        let Some((container, ports)) = said.container else { return };
        if let Some(other) = self.seen.insert(name.to_owned(), key) {
            // The same key again was reported: its name and ports are not reported again.
            if cx.tree.text(other) != cx.tree.text(key) {
                let message = format!("agent `{}` is here twice: `count` makes one of this name", cut(name));
                let draft = Draft::at(cx.tree.span(key), path.to_string(), message).also(cx.tree.span(other), "first");
                cx.problems.add(draft.help("rename one of the two"));
            }
            return;
        }
        let container_path = path.key("container");
        self.claim_name(cx, &container.name, name, said.named_at.unwrap_or(key), container_path);
        if said.state != AgentState::Absent {
            self.claim_ports(cx, name, &ports, container_path);
        }
        let (Some(agent_name), Some(version), Some(arches)) = (agent_name, said.version, said.arches) else { return };
        let place = self.places.of(cx.tree.span(key).start);
        let Said { image, source, artifact, pins, state, suspend, rollout, workspaces, sessions, .. } = said;
        self.agents.insert(
            agent_name,
            Agent {
                place,
                version,
                rolled_back: None,
                image,
                source,
                artifact,
                arches,
                pins,
                state,
                suspend,
                rollout,
                container,
                workspaces,
                sessions,
            },
        );
        self.made.push(made);
    }

    /// Reads what stands under an agent, a template or the defaults.
    fn read(&mut self, cx: &mut Cx<'_>, agent: &str, node: NodeId, path: Path<'_>) -> Option<Said> {
        let (partial, blanks) = (cx.partial, cx.blanks);
        cx.partial |= cx.problems.is_unsettled(node);
        cx.blanks |= cx.problems.has_inherited() || cx.sources.files().len() > 1;
        let said = self.read_all(cx, agent, node, path);
        (cx.partial, cx.blanks) = (partial, blanks);
        said
    }

    fn read_all(&mut self, cx: &mut Cx<'_>, agent: &str, node: NodeId, path: Path<'_>) -> Option<Said> {
        let doc = AgentDoc::decode(cx, node, path)?;
        let state = doc.state.as_ref().map(|state| state.value.0).unwrap_or_default();
        let source = doc.source.as_ref().map(|source| source.value.0).unwrap_or_default();
        let version = doc.version.as_ref().and_then(|version| {
            let at = At { node: version.node, value: Word(version.value.0.clone()) };
            checked(cx, &at, path.key("version"), check_version)
        });
        let image = self.image(cx, &doc, source, node, path);
        if let (Some(image), Some(Version::Exact(version)), Some(at)) = (&image, &version, &doc.image)
            && ImageRef::join(image, version).is_err()
        {
            cx.wrong(at.node, path.key("image"), "image and version together are no image reference");
        }
        let artifact = doc.artifact.as_ref().and_then(|at| self.artifact(cx, at, source, path.key("artifact")));
        let pins = doc.sha256.map(|pins| self.pins(cx, pins, source, path.key("sha256"))).unwrap_or_default();
        let arches = match &doc.arches {
            Some(list) if !is_null(cx.tree, list.node) => arches(cx, list, self.host_arch, path.key("arches")),
            _ => Some(self.cache_arches.to_vec()),
        };
        let container_path = path.key("container");
        let container = doc.container.map(|container| container.value).unwrap_or_default();
        let named_at = container.name.as_ref().map(|name| name.node);
        let usual_name = self.owner.and_then(|owner| ContainerName::new(format!("{owner}-{agent}")).ok());
        let (in_vm, volumes, networks) = (self.in_vm, self.volumes, self.networks);
        let around = Surroundings { in_vm, agent, usual_name, volumes, networks };
        let container = container::resolve(cx, &around, &mut self.env_files, container, container_path);
        let mounts = container.as_ref().map_or(&[][..], |(container, _)| &container.mounts);
        let workspaces = workspaces::resolve(cx, mounts, doc.workspaces, path.key("workspaces"));
        let sessions = sessions::resolve(cx, doc.sessions, path.key("sessions"));
        let rollout = rollout::resolve(cx, doc.rollout, container.as_ref().map(|(container, _)| container), path);
        let suspend = doc.suspend.is_some_and(|flag| flag.value.0);
        Some(Said {
            version,
            image,
            source,
            artifact,
            arches,
            pins,
            state,
            suspend,
            rollout,
            container,
            named_at,
            workspaces,
            sessions,
        })
    }

    fn image(
        &self,
        cx: &mut Cx<'_>,
        doc: &AgentDoc,
        source: ImageSource,
        node: NodeId,
        path: Path<'_>,
    ) -> Option<String> {
        match &doc.image {
            Some(image) => {
                let pinned = doc.version.as_ref().is_some_and(|version| version.value.0.value.starts_with("sha256:"));
                checked(cx, image, path.key("image"), |text| check_image(text, pinned))
            }
            None if source == ImageSource::Manifest || cx.partial => None,
            // One that is there and wrong was reported.
            None if has_key(cx.tree, node, "image") => None,
            None => {
                let word = if source == ImageSource::Registry { "registry" } else { "local" };
                let at = doc.source.as_ref().map_or(node, |source| source.node);
                cx.wrong(at, path, format!("the field `image` is missing, which `source: {word}` needs"));
                None
            }
        }
    }

    fn artifact(&self, cx: &mut Cx<'_>, at: &At<Word>, source: ImageSource, path: Path<'_>) -> Option<AgentName> {
        if source != ImageSource::Manifest {
            let help = "leave it out: `image` and `version` say which image it is";
            cx.wrong_help(at.node, path, "only `source: manifest` takes a tarball of the manifest", help);
        }
        checked(cx, at, path, |name| AgentName::new(name))
    }

    fn pins(
        &self,
        cx: &mut Cx<'_>,
        At { node, value: PinsDoc { arm64, x64 } }: At<PinsDoc>,
        source: ImageSource,
        path: Path<'_>,
    ) -> BTreeMap<Arch, Sha256Digest> {
        let mut pins = BTreeMap::new();
        for (arch, pin) in [(Arch::Arm64, arm64), (Arch::X64, x64)] {
            let Some(pin) = pin else { continue };
            if let Some(digest) = checked(cx, &pin, path.key(arch.as_str()), Sha256Digest::parse) {
                pins.insert(arch, digest);
            }
        }
        if !pins.is_empty() && source != ImageSource::Manifest {
            let help = "to pin an image of a registry, write its digest as the version: \"sha256:…\"";
            cx.wrong_help(node, path, "these pins hash tarballs, which only `source: manifest` has", help);
        }
        pins
    }

    fn claim_name(&mut self, cx: &mut Cx<'_>, container: &ContainerName, agent: &str, node: NodeId, path: Path<'_>) {
        if self.refused_name == Some(node) {
            return;
        }
        if let Some((other, first)) = self.names.get(container) {
            let message = format!("the container name `{container}` is taken by agent `{}`", cut(other));
            let draft = Draft::at(cx.tree.span(node), path.key("name").to_string(), message);
            cx.problems.add(match *first == node {
                true => draft.help("write `${agent:name}` in it, so that each has one of its own"),
                false => draft.also(cx.tree.span(*first), "taken"),
            });
            return;
        }
        self.names.insert(container.clone(), (agent.to_owned(), node));
    }

    fn claim_ports(&mut self, cx: &mut Cx<'_>, agent: &str, ports: &Ports, path: Path<'_>) {
        let ports_path = path.key("ports");
        for (index, At { node, value: Published { port, from_env } }) in ports {
            if self.in_vm
                && let Err(message) = into_a_vm(port)
            {
                let written = cut(cx.tree.text(*node));
                let message = if *from_env { format!("what `{written}` yields is not valid here") } else { message };
                cx.wrong(*node, ports_path.index(*index), message);
            }
            let holder = Holder { agent: agent.to_owned(), node: *node };
            let Some(other) = self.ports.take(port, holder) else { continue };
            let whose =
                if other.agent == agent { "this agent".to_owned() } else { format!("agent `{}`", cut(&other.agent)) };
            let message = match from_env {
                true => format!("the host port is taken by {whose}"),
                false => format!("the host port {}/{} is taken by {whose}", port.host_port, port.protocol),
            };
            let draft = Draft::at(cx.tree.span(*node), ports_path.index(*index).to_string(), message);
            cx.problems.add(match (other.node == *node, &cx.whose) {
                (true, Whose::Agent { index: Some(_), .. }) => draft.help(
                    "write `${agent:index}` in it, like \"1808${agent:index}:80\", so that each has one of its own",
                ),
                (true, _) => draft.help("write the port under each agent: what they take up is the same for all"),
                (false, _) => draft.also(cx.tree.span(other.node), "taken"),
            });
        }
    }
}

/// Whether Lima can lead a port of this host into the machine, where Podman must be able to publish it too.
fn into_a_vm(port: &Port) -> Result<(), String> {
    let here = port.host_ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
    match port.protocol {
        _ if port.host_port == 0 => Err(
            "Podman in the machine would choose a port that nothing leads into: with `runtime.lima`, write the host's port".to_owned()
        ),
        Protocol::Sctp => Err("sctp is not forwarded into a Lima virtual machine: only tcp and udp are".to_owned()),
        _ if !here => Err(format!(
            "the machine has no address `{}` to publish a port on: with `runtime.lima`, write 127.0.0.1 or 0.0.0.0",
            port.host_ip
        )),
        Protocol::Tcp | Protocol::Udp => Ok(()),
    }
}
