//! From the `agents:` mapping to the agents, and what they must not share.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path as FilePath;

use super::container::{self, Ports, Published, Surroundings};
use super::decode::{At, Cx, Decode, Path, cut, has_key, is_null};
use super::document::{AgentDoc, PinsDoc};
use super::ports::{Holder, Taken};
use super::problem::Draft;
use super::resolve::{arches, checked};
use super::scalar::Word;
use super::snippet::Lines;
use super::tree::NodeId;
use super::variables::EnvFiles;
use super::{Input, rollout, sessions, workspaces};
use crate::model::{
    Agent, AgentName, AgentState, Arch, ContainerName, ImageRef, ImageSource, Name, Place, Port, Protocol,
    Sha256Digest, Version,
};

static NONE: BTreeMap<String, String> = BTreeMap::new();

/// The agents resolved so far, and what they took.
pub(super) struct Agents<'a> {
    lines: Lines<'a>,
    file: &'a str,
    dir: &'a FilePath,
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
    seen: HashSet<String>,
    agents: BTreeMap<AgentName, Agent>,
}

impl<'a> Agents<'a> {
    pub(super) fn new(
        input: &'a Input,
        text: &'a str,
        owner: Option<&'a Name>,
        cache_arches: &'a [Arch],
        host_arch: Arch,
    ) -> Self {
        Self {
            lines: Lines::new(text),
            file: &input.name,
            dir: &input.dir,
            owner,
            cache_arches,
            host_arch,
            env_files: EnvFiles::default(),
            names: HashMap::new(),
            ports: Taken::default(),
            in_vm: false,
            volumes: &NONE,
            networks: &NONE,
            seen: HashSet::new(),
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

    /// The agents, and the env files that were looked at.
    pub(super) fn into_parts(self) -> (BTreeMap<AgentName, Agent>, EnvFiles) {
        (self.agents, self.env_files)
    }

    /// Resolves one agent. What is wrong with it does not hide what is wrong with the others.
    pub(super) fn add(&mut self, cx: &mut Cx<'_>, key: NodeId, name: &str, node: NodeId, path: Path<'_>) {
        let agent_name = AgentName::new(name).map_err(|err| cx.wrong(key, path, err.to_string())).ok();
        let Some(doc) = AgentDoc::decode(cx, node, path) else { return };
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
        let pins = doc.sha256.map(|pins| self.pins(cx, pins, source, path.key("sha256"))).unwrap_or_default();
        let arches = match &doc.arches {
            Some(list) if !is_null(cx.tree, list.node) => arches(cx, list, self.host_arch, path.key("arches")),
            _ => Some(self.cache_arches.to_vec()),
        };
        let container_path = path.key("container");
        let container = doc.container.map(|container| container.value).unwrap_or_default();
        let named_at = container.name.as_ref().map_or(key, |name| name.node);
        // A name that is no DNS label was reported; its container is still worth checking.
        let agent = agent_name.as_ref().map_or("agent", AgentName::as_str);
        let usual_name = self.owner.and_then(|owner| ContainerName::new(format!("{owner}-{agent}")).ok());
        let (dir, in_vm, volumes, networks) = (self.dir, self.in_vm, self.volumes, self.networks);
        let around = Surroundings { dir, in_vm, agent, usual_name, volumes, networks };
        let resolved = container::resolve(cx, &around, &mut self.env_files, container, container_path);
        let mounts = resolved.as_ref().map_or(&[][..], |(container, _)| &container.mounts);
        let workspaces = workspaces::resolve(cx, self.dir, mounts, doc.workspaces, path.key("workspaces"));
        let sessions = sessions::resolve(cx, doc.sessions, path.key("sessions"));
        let rollout = rollout::resolve(cx, doc.rollout, resolved.as_ref().map(|(container, _)| container), path);
        let Some((container, ports)) = resolved else { return };
        if !self.seen.insert(name.to_owned()) {
            // The same key again, which was reported: its name and ports are not reported again.
            return;
        }
        self.claim_name(cx, &container.name, name, named_at, container_path);
        if state != AgentState::Absent {
            self.claim_ports(cx, name, &ports, container_path);
        }
        let (Some(agent_name), Some(version), Some(arches)) = (agent_name, version, arches) else { return };
        let (line, column) = self.lines.position(cx.tree.span(key).start);
        let place = Place { file: self.file.to_owned(), line, column };
        let suspend = doc.suspend.is_some_and(|flag| flag.value.0);
        self.agents.insert(
            agent_name,
            Agent {
                place,
                version,
                rolled_back: None,
                image,
                source,
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
            None if source == ImageSource::Manifest => None,
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
        if let Some((other, first)) = self.names.get(container) {
            let message = format!("the container name `{container}` is taken by agent `{}`", cut(other));
            let draft = Draft::at(cx.tree.span(node), path.key("name").to_string(), message);
            cx.problems.add(draft.also(cx.tree.span(*first), "taken"));
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
            cx.problems.add(draft.also(cx.tree.span(other.node), "taken"));
        }
    }
}

/// A version is an image's tag (the OCI distribution spec's grammar), a digest, or `latest`.
pub(crate) fn check_version(text: &str) -> Result<Version, String> {
    if text == "latest" {
        return Ok(Version::Latest);
    }
    if let Some(hex) = text.strip_prefix("sha256:") {
        return match Sha256Digest::parse(hex) {
            Ok(digest) => Ok(Version::Exact(format!("sha256:{digest}"))),
            Err(_) => Err(format!("`{text}` is not a digest: expected `sha256:` and 64 hex digits")),
        };
    }
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
        && text.len() <= 128;
    if ok {
        return Ok(Version::Exact(text.to_owned()));
    }
    Err(format!("`{text}` is not a version: it is the image's tag, so letters, digits, `_`, `.` and `-`, at most 128"))
}

/// Checks an image's repository. `pinned`: the version is a digest already, and stays so.
fn check_image(text: &str, pinned: bool) -> Result<String, String> {
    let last = text.rsplit('/').next().unwrap_or_default();
    match text.rsplit_once(':') {
        Some((repository, _)) if pinned && last.contains(':') && !text.contains('@') && !text.contains("://") => {
            let repository = check_repository(repository)?;
            Err(format!("`{text}` has a tag, and the version is a digest, which says all: write `image: {repository}`"))
        }
        _ => check_repository(text),
    }
}

pub(crate) fn check_repository(text: &str) -> Result<String, String> {
    if let Some((scheme, rest)) = text.split_once("://") {
        return Err(format!("`{text}` is not an image repository: leave `{scheme}://` out, like `image: {rest}`"));
    }
    // A digest stands behind the tag, and says alone which image it is.
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest)),
        None => (text, None),
    };
    let last = named.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = match named.rsplit_once(':') {
        Some((repository, tag)) if last.contains(':') => (repository, Some(tag)),
        _ => (named, None),
    };
    if let Some(version) = digest.or(tag) {
        // What is advised must be right itself.
        let repository = check_repository(repository)?;
        check_version(version)?;
        let what = match (digest, tag) {
            (Some(_), Some(_)) => "a tag and a digest",
            (Some(_), None) => "a digest",
            _ => "a tag",
        };
        return Err(format!("`{text}` has {what}: write `image: {repository}` and `version: \"{version}\"`"));
    }
    let (host, path) = match text.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
        _ => ("", text),
    };
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("`{text}` is not an image repository: it must be lower case"));
    }
    let part_ok = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let host_ok = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if host_ok && text.len() <= 255 && path.split('/').all(part_ok) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is not an image repository, like ghcr.io/openclaw/openclaw"))
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

#[cfg(test)]
mod tests {
    use super::{check_repository, check_version};

    /// The `image` and `version` that a message advises.
    fn advised(message: &str) -> (String, String) {
        let between = |from: &str, to: &str| {
            let start = message.find(from).unwrap_or_else(|| panic!("{message}")) + from.len();
            message[start..start + message[start..].find(to).unwrap()].to_owned()
        };
        (between("`image: ", "`"), between("`version: \"", "\""))
    }

    #[test]
    fn what_is_advised_for_a_tag_or_digest_is_right_itself() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (image, repository, version) in [
            ("ghcr.io/acme/app:1.4".to_owned(), "ghcr.io/acme/app", "1.4"),
            (format!("ghcr.io/acme/app@{digest}"), "ghcr.io/acme/app", digest.as_str()),
            (format!("ghcr.io/acme/app:1.4@{digest}"), "ghcr.io/acme/app", digest.as_str()),
            (format!("127.0.0.1:5000/app:1.4@{digest}"), "127.0.0.1:5000/app", digest.as_str()),
            ("localhost:5000/app:latest".to_owned(), "localhost:5000/app", "latest"),
            ("app:1".to_owned(), "app", "1"),
        ] {
            let message = check_repository(&image).unwrap_err();
            let (said, tagged) = advised(&message);
            assert_eq!((said.as_str(), tagged.as_str()), (repository, version), "{message}");
            assert!(check_repository(&said).is_ok() && check_version(&tagged).is_ok(), "{message}");
        }
        assert!(check_repository("127.0.0.1:5000/app").is_ok(), "a registry's port is no tag");
    }

    #[test]
    fn a_tag_beside_a_digest_is_one_too_many() {
        let message = super::check_image("ghcr.io/acme/app:1.4", true).unwrap_err();
        assert!(message.ends_with("write `image: ghcr.io/acme/app`") && !message.contains("version:"), "{message}");
        assert!(super::check_image("127.0.0.1:5000/app", true).is_ok());
        assert!(super::check_image("ghcr.io/acme/app:1.4", false).unwrap_err().contains("`version: \"1.4\"`"));
    }

    #[test]
    fn no_advice_is_given_that_would_be_refused() {
        for (image, words) in [
            ("ghcr.io/acme/app@sha256:00", "`sha256:00` is not a digest"),
            ("ghcr.io/Acme/app:1", "must be lower case"),
            ("docker://ghcr.io/acme/app:1", "leave `docker://` out"),
            ("app:", "is not a version"),
            ("app@", "is not a version"),
        ] {
            let message = check_repository(image).unwrap_err();
            assert!(message.contains(words) && !message.contains("has a"), "{message}");
        }
    }
}
