//! The state file's fields, as they are written. Doc comments are what editors show; the schema is made from here.
//!
//! What the fields mean together belongs in `resolve.rs`.
//!
//! Long because it is one table: each field of the state file with its description.

mod container;

pub(super) use container::*;

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::decode::{Later, List, Table};
use super::record::record;
use super::scalar::{Choice, Flag, Loose, Size, Time, VersionWord, Whole, Word, Words};
use crate::model::{
    AgentState, Dirty, IdleAction, ImageSource, RolloutStrategy, SessionRestart, SessionStdin, TemplateChange,
    Transport,
};

record! {
    /// The agents you want on this machine. steadfast makes the machine match this file and keeps it so.
    /// `${env:NAME}` and `${env:NAME:-default}` are replaced in any string value, `${agent:name}` and `${agent:index}` in those of
    /// agents. Any other `${` is an error; `$${` is a literal `${`. What comes from `${env:…}` is never shown where it stands in `entrypoint`, `command`, `cwd`, `env`,
    /// `labels`, `mounts`, `ports`, `addHosts` or a health check's `test`; names, `root`, `manifest`, `cache`, `runtime`, `image`, `version`, `sha256`,
    /// `state`, `restart`, `user`, `requires`, workspaces, volumes, networks, other settings of containers, sizes and times are no secrets and are shown, but for a URL's
    /// password and query.
    #[schemars(rename = "StateFile")]
    StateDoc {
        /// The version of this file format.
        #[schemars(extend("const" = "steadfast/v1", "examples" = ["steadfast/v1"]))]
        required api_version "apiVersion": Word,
        /// Who owns what is made from this file: containers are labelled with it, the lock and the state directory are
        /// named after it. A DNS label. A second file with this name is refused, unless `--take-over` says that it takes the
        /// first one's place.
        #[schemars(extend("pattern" = NAME, "examples" = ["demo"]))]
        required name "name": Word,
        /// Where the cache and the state are kept. `--root` wins over it; without either it is `$STEADFAST_ROOT`, else
        /// `~/.steadfast`. Keep it short: a unix socket path has about 104 bytes.
        #[schemars(extend("default" = "~/.steadfast", "examples" = ["~/.steadfast"]))]
        optional root "root": Word,
        /// Where the manifest is published: the JSON that lists agents, versions and image tarballs.
        optional manifest "manifest": ManifestDoc,
        /// What is fetched into the cache, and what is kept there.
        optional cache "cache": CacheDoc,
        /// Where containers run: in a Lima virtual machine, or in Podman on this host. Exactly one of the two.
        #[schemars(extend("examples" = [{"podman": {}}]))]
        required runtime "runtime": RuntimeDoc,
        /// Volumes that agents mount, by name. Each is made when it is needed, as `<name>-<volume>` in Podman, and removed by
        /// `down --volumes` alone.
        #[schemars(extend("propertyNames" = {"pattern": ENGINE_NAME}, "examples" = [{"data": {}}]))]
        optional volumes "volumes": Table<VolumeDoc>,
        /// Networks that agents are on, by name. Each is made when it is needed, as `<name>-<network>` in Podman. Agents that
        /// name none are on `default`, where it is among them.
        #[schemars(extend(
            "propertyNames" = {"pattern": ENGINE_NAME, "not": {"enum": ["none", "host"]}},
            "examples" = [{"default": {}}]
        ))]
        optional networks "networks": Table<NetworkDoc>,
        /// What lies below every agent: any field of one but `from`, `count` and `sha256`. Mappings merge, lists and all else
        /// replace, and an explicit `null` takes away what lies below.
        #[schemars(extend("examples" = [{"container": {"restart": "always"}}]))]
        optional defaults "defaults": Later<DefaultsDoc>,
        /// What agents take up by `from`, by name: any field of an agent, above the defaults and below the agent's own. A template
        /// may take up another one.
        #[schemars(extend("examples" = [{"worker": {"version": "1.2.3", "container": {"restart": "always"}}}]))]
        optional templates "templates": Table<Later<AgentDoc>>,
        /// The agents by name. A name is a DNS label.
        #[schemars(extend(
            "propertyNames" = {"pattern": DNS_LABEL},
            "examples" = [{"openclaw": {"version": "2026.4.12"}}]
        ))]
        required agents "agents": Table<Later<AgentDoc>>,
    }
}

/// A DNS label, or a string with a substitution, for schemas.
const NAME: &str = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$|\$\{(env|agent):";

/// A sha256, for schemas.
const SHA256: &str = r"^[0-9a-fA-F]{64}$|\$\{(env|agent):";

/// A DNS label, for schemas.
pub(super) const DNS_LABEL: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";

/// A name in Podman, for schemas.
const ENGINE_NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]*$";

/// The name of a session, for schemas.
const SESSION_NAME: &str = "^[a-z0-9][a-z0-9-]{0,62}$";

/// An absolute path in a container, or a string with a substitution, for schemas.
const GUEST_PATH: &str = r"^/|\$\{(env|agent):";

/// A minisign public key, for schemas.
const PUBLIC_KEY: &str = r"^RW[Q-T][A-Za-z0-9+/]{53}$|\$\{(env|agent):";

/// An image's repository without tag, for schemas.
const REPOSITORY: &str = r"^([A-Za-z0-9.:\[\]-]+/)?[a-z0-9][a-z0-9._/-]*$|\$\{(env|agent):";

record! {
    /// A volume.
    #[schemars(rename = "Volume", extend("type" = ["object", "null"]))]
    VolumeDoc {
        /// Whether it is somebody else's: then it must be there, and is never made or removed.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional external "external": Flag,
        /// Its name in Podman, instead of `<name>-<volume>`, or of an external one its own.
        #[schemars(extend("examples" = ["shared-models"]))]
        optional name "name": Word,
        /// Labels beside ours, as a mapping or as a list of `NAME=value`.
        #[schemars(extend("examples" = [{"team": "research"}]))]
        optional labels "labels": Pairs,
        /// Its driver. Podman's own choice, when the file names none.
        #[schemars(extend("default" = "local", "examples" = ["local"]))]
        optional driver "driver": Word,
        /// Options of its driver, as a mapping or as a list of `NAME=value`.
        #[schemars(extend("examples" = [{"type": "tmpfs", "device": "tmpfs", "o": "size=64m"}]))]
        optional options "options": Pairs,
    }
}

record! {
    /// A network.
    #[schemars(rename = "Network", extend("type" = ["object", "null"]))]
    NetworkDoc {
        /// Whether it is somebody else's: then it must be there, and is never made or removed.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional external "external": Flag,
        /// Its name in Podman, instead of `<name>-<network>`, or of an external one its own.
        #[schemars(extend("examples" = ["proxy"]))]
        optional name "name": Word,
        /// Labels beside ours, as a mapping or as a list of `NAME=value`.
        #[schemars(extend("examples" = [{"team": "research"}]))]
        optional labels "labels": Pairs,
        /// Whether nothing outside of it can be reached from it.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional internal "internal": Flag,
        /// Its addresses. Podman chooses, when the file names none.
        #[schemars(extend("examples" = ["10.90.0.0/24"]))]
        optional subnet "subnet": Word,
        /// Whether it has IPv6 addresses beside its IPv4 ones.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional ipv6 "ipv6": Flag,
        /// Whether its agents find each other by their names. It needs `aardvark-dns` on Podman's machine.
        #[schemars(extend("default" = true, "examples" = [false]))]
        optional dns "dns": Flag,
    }
}

record! {
    /// Where the manifest is published.
    #[schemars(rename = "ManifestSource")]
    ManifestDoc {
        /// An https, http or file URL, or a path. `--manifest-url` wins over it; `$STEADFAST_MANIFEST_URL` is taken
        /// when the file names none. Artifacts are fetched from beside it.
        #[schemars(extend("examples" = ["https://cdn.example.com/vm/manifest.json", "./vm/manifest.json"]))]
        optional url "url": Word,
        /// How often `steadfast run` asks whether there is a newer manifest, for agents at version `latest`: at least 1s,
        /// at most a year.
        #[schemars(extend("default" = "1h", "examples" = ["1h", "15m"]))]
        optional refresh "refresh": Time,
        /// The minisign public keys that the manifest may be signed with: the lines that begin with `RW`. With them, one that is
        /// not signed with any of these keys, or whose signature has expired, or that is older than what was accepted before, is
        /// refused, and the last good one goes on. Several are for the time in which a publisher changes keys.
        #[schemars(extend(
            "minItems" = 1,
            "uniqueItems" = true,
            "items" = {"type": "string", "pattern": PUBLIC_KEY},
            "examples" = [["RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"]]
        ))]
        optional public_keys "publicKeys": List<Word>,
    }
}

record! {
    /// What is fetched into the cache, and what is kept there.
    #[schemars(rename = "Cache")]
    CacheDoc {
        /// The architectures that are fetched, unless an agent says otherwise: `host`, `arm64` (or `aarch64`), `x64` (or
        /// `amd64`, `x86_64`), `all`.
        #[schemars(extend("default" = ["host"], "examples" = [["host"], ["arm64", "x64"]], "minItems" = 1))]
        optional arches "arches": List<Choice<ArchWord>>,
        /// How many older versions are kept per agent beside what is in use.
        #[schemars(extend("default" = 1, "examples" = [1]))]
        optional keep "keep": Whole<0, 1000>,
    }
}

/// How an architecture is named in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ArchWord {
    Host,
    Arm64,
    X64,
    All,
}

impl Words for ArchWord {
    const WORDS: &'static [(&'static str, Self)] =
        &[("host", Self::Host), ("arm64", Self::Arm64), ("x64", Self::X64), ("all", Self::All)];
    const ALIASES: &'static [(&'static str, Self)] =
        &[("aarch64", Self::Arm64), ("amd64", Self::X64), ("x86_64", Self::X64)];
}

record! {
    /// Where containers run: exactly one of `lima` and `podman`.
    #[schemars(rename = "Runtime", extend("oneOf" = [{"required": ["lima"]}, {"required": ["podman"]}]))]
    RuntimeDoc {
        /// In Podman inside a Lima virtual machine.
        #[schemars(extend("examples" = [{"instance": "agents", "template": "./agents-vm.yaml"}]))]
        optional lima "lima": LimaDoc,
        /// In Podman on this host. `podman: {}` takes the socket that `$CONTAINER_HOST` or `$DOCKER_HOST` names, then
        /// the usual rootless and rootful ones.
        #[schemars(extend("examples" = [{}, {"socket": "unix:///run/podman/podman.sock"}]))]
        optional podman "podman": PodmanDoc,
    }
}

record! {
    /// A Lima virtual machine.
    #[schemars(rename = "Lima")]
    LimaDoc {
        /// The instance's name in Lima.
        #[schemars(extend("examples" = ["agents"]))]
        required instance "instance": Word,
        /// The Lima template the instance is made from. A path.
        #[schemars(extend("examples" = ["../template/agents-vm.yaml"]))]
        required template "template": Word,
        /// Lima's home directory. `$LIMA_HOME`, else `~/.lima`, when the file names none.
        #[schemars(extend("examples" = ["~/.lima"]))]
        optional home "home": Word,
        /// Processors. The template's when left out. A change takes effect when the machine is next started.
        #[schemars(extend("examples" = [4]))]
        optional cpus "cpus": Whole<1, 1024>,
        /// Memory, in units of 1024. The template's when left out. A change takes effect when the machine is next started.
        #[schemars(extend("examples" = ["4GiB"]))]
        optional memory "memory": Size,
        /// Size of its disk, in units of 1024. The template's when left out. It can grow, when the machine is next
        /// started, and never shrink.
        #[schemars(extend("examples" = ["20GiB"]))]
        optional disk "disk": Size,
        /// How long the machine may run and answer in no way before it is restarted. It must be long enough for a boot.
        #[schemars(extend("default" = "5m", "examples" = ["5m"]))]
        optional restart_after "restartAfter": Time,
        /// How Podman in the machine is reached: `api` is its unix socket, `shell` is `limactl shell`, `auto` takes the
        /// first that answers.
        #[schemars(extend("default" = "auto", "examples" = ["auto"]))]
        optional transport "transport": Choice<Transport>,
        /// What happens when the template changes: `warn` reports it, `recreate` deletes the machine with all that is
        /// in it and makes a new one.
        #[schemars(extend("default" = "warn", "examples" = ["warn"]))]
        optional on_template_change "onTemplateChange": Choice<TemplateChange>,
    }
}

impl Words for Transport {
    const WORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("api", Self::Api), ("shell", Self::Shell)];
}

impl Words for TemplateChange {
    const WORDS: &'static [(&'static str, Self)] = &[("warn", Self::Warn), ("recreate", Self::Recreate)];
}

record! {
    /// Podman on this host.
    #[schemars(rename = "Podman")]
    PodmanDoc {
        /// Its API socket: `unix://` and an absolute path, or a path.
        #[schemars(extend(
            "pattern" = r"^unix:///.+|^[^:]*$|\$\{(env|agent):",
            "examples" = ["unix:///run/podman/podman.sock"]
        ))]
        optional socket "socket": Word,
    }
}

record! {
    /// One agent: an image at a version, and the container it runs in.
    #[schemars(rename = "Agent", extend(
        "if" = {"properties": {"source": {"enum": ["registry", "local"]}}, "required": ["source"]},
        "then" = {"required": ["image"]}
    ))]
    AgentDoc {
        /// The template that lies below it: what the agent does not say itself is as it stands there.
        #[schemars(extend("examples" = ["worker"]))]
        optional from "from": Word,
        /// How many agents are made of it, called `NAME-1`, `NAME-2` and so on: at most 10,000 of a file. `${agent:name}` and
        /// `${agent:index}` are replaced in any string value of theirs.
        #[schemars(extend("examples" = [3]))]
        optional count "count": Whole<0, MAX_COPIES>,
        /// The version, which is the image's tag (or `sha256:…` digest), or `latest`: whatever the manifest offers.
        /// Quote it, since YAML reads `1.10` as the number 1.1.
        #[schemars(extend("examples" = ["2026.4.12", "latest"]))]
        required version "version": VersionWord,
        /// The image's repository, without tag. The manifest's, when the file names none.
        #[schemars(extend("pattern" = REPOSITORY, "examples" = ["ghcr.io/openclaw/openclaw"]))]
        optional image "image": Word,
        /// Where the image comes from: `manifest` is a tarball through the cache, `registry` is `podman pull`, `local`
        /// must be there already.
        #[schemars(extend("default" = "manifest", "examples" = ["manifest"]))]
        optional source "source": Choice<ImageSource>,
        /// What the manifest calls it, where that is not the agent's own name: several agents may run one published image, which
        /// is fetched and loaded once.
        #[schemars(extend("pattern" = NAME, "examples" = ["openclaw"]))]
        optional artifact "artifact": Word,
        /// The architectures to fetch, instead of those of `cache.arches`.
        #[schemars(extend("examples" = [["host"]], "minItems" = 1))]
        optional arches "arches": List<Choice<ArchWord>>,
        /// What the tarballs must hash to, by architecture, whatever the manifest says.
        #[schemars(extend("examples" = [{"x64": "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"}]))]
        optional sha256 "sha256": PinsDoc,
        /// What is to become of its container: `running`, `stopped` (it exists and does not run), `absent`.
        #[schemars(extend("default" = "running", "examples" = ["running"]))]
        optional state "state": Choice<AgentState>,
        /// Observe and report, change nothing.
        #[schemars(extend("default" = false, "examples" = [false]))]
        optional suspend "suspend": Flag,
        /// How its container is replaced, and what the new one has to show before the old one goes.
        #[schemars(extend("examples" = [{"strategy": "replace", "healthTimeout": "60s", "settle": "10s", "rollback": true}]))]
        optional rollout "rollout": RolloutDoc,
        /// The container it runs in.
        #[schemars(extend("examples" = [{"command": ["serve"], "ports": ["127.0.0.1:8080:80"]}]))]
        optional container "container": ContainerDoc,
        /// Source trees of this machine that are to be in it, by name. A name is a DNS label; the commits made in the agent
        /// come back as a branch that is called after it.
        #[schemars(extend(
            "propertyNames" = {"pattern": DNS_LABEL},
            "examples" = [{"repo": {"source": "./repo", "target": "/root/repo"}}]
        ))]
        optional workspaces "workspaces": Table<Later<WorkspaceDoc>>,
        /// Long-lived commands that are to run in it, by name: 1 to 63 of `a-z`, `0-9` and `-`, not beginning with `-`.
        #[schemars(extend(
            "propertyNames" = {"pattern": SESSION_NAME},
            "examples" = [{"pi": {"command": ["pi", "--mode", "rpc"], "cwd": "/root/repo"}}]
        ))]
        optional sessions "sessions": Table<Later<SessionDoc>>,
    }
}

/// The most agents that `count` makes, in all.
pub(super) const MAX_COPIES: u32 = 10_000;

/// What lies below every agent. It is read as an agent is.
#[derive(Debug)]
pub(super) struct DefaultsDoc;

impl DefaultsDoc {
    /// The fields of an agent that cannot be the same for all, and what to do instead.
    pub(super) const OWN: [(&str, &str); 3] = [
        ("from", "write it under the agents, or take the template's fields up here"),
        ("count", "write it under the agent of which there are to be several"),
        ("sha256", "write it under the agent whose tarballs it pins"),
    ];
}

impl JsonSchema for DefaultsDoc {
    fn schema_name() -> Cow<'static, str> {
        "Defaults".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = AgentDoc::json_schema(generator);
        schema.insert("description".into(), "What lies below every agent.".into());
        if let Some(fields) = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut) {
            fields.retain(|field, _| Self::OWN.iter().all(|(own, _)| field != own));
        }
        schema
    }
}

impl Words for ImageSource {
    const WORDS: &'static [(&'static str, Self)] =
        &[("manifest", Self::Manifest), ("registry", Self::Registry), ("local", Self::Local)];
}

impl Words for AgentState {
    const WORDS: &'static [(&'static str, Self)] =
        &[("running", Self::Running), ("stopped", Self::Stopped), ("absent", Self::Absent)];
}

record! {
    /// How a container is replaced.
    #[schemars(rename = "Rollout")]
    RolloutDoc {
        /// `replace`: the old container stops before the new one starts. `overlap`: the new one is healthy before the old one
        /// stops; they may then have no host port, address or mount that only one of them can have.
        #[schemars(extend("default" = "replace", "examples" = ["overlap"]))]
        optional strategy "strategy": Choice<RolloutStrategy>,
        /// How long a new container may take until its health check passes. 60 s, or as long as its check takes to say no,
        /// when the file names none.
        #[schemars(extend("examples" = ["2m"]))]
        optional health_timeout "healthTimeout": Time,
        /// How long a new container must run without a restart, and healthy where it has a check, before the old one is
        /// removed.
        #[schemars(extend("default" = "10s", "examples" = ["30s"]))]
        optional settle "settle": Time,
        /// Whether the old container comes back when the new one fails.
        #[schemars(extend("default" = true, "examples" = [false]))]
        optional rollback "rollback": Flag,
    }
}

impl Words for RolloutStrategy {
    const WORDS: &'static [(&'static str, Self)] = &[("replace", Self::Replace), ("overlap", Self::Overlap)];
}

record! {
    /// What tarballs must hash to, by architecture.
    #[schemars(rename = "Pins")]
    PinsDoc {
        /// The sha256 of the arm64 tarball: 64 hex digits.
        #[schemars(extend("pattern" = SHA256, "examples" = ["000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"]))]
        optional arm64 "arm64": Word,
        /// The sha256 of the x64 tarball: 64 hex digits.
        #[schemars(extend("pattern" = SHA256, "examples" = ["000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"]))]
        optional x64 "x64": Word,
    }
}

record! {
    /// A source tree of this machine that is to be in the agent: a git checkout, or a directory that belongs to no repository.
    #[schemars(rename = "Workspace")]
    WorkspaceDoc {
        /// The directory of this machine, also with `runtime.lima`.
        #[schemars(extend("minLength" = 1, "examples" = ["./repo"]))]
        required source "source": Word,
        /// Where it goes: an absolute path in the container, in no other workspace, and in no mount that is `readOnly`.
        #[schemars(extend("pattern" = GUEST_PATH, "examples" = ["/root/repo"]))]
        required target "target": Word,
        /// Whether the agent's user may not write to it. To root nothing is read-only, so that is refused once it is tried.
        #[schemars(extend("default" = false, "examples" = [true]))]
        optional read_only "readOnly": Flag,
        /// What becomes of what is not committed: `include` brings it in, `refuse` brings nothing in while there is any,
        /// `ignore` brings in what is committed.
        #[schemars(extend("default" = "include", "examples" = ["include"]))]
        optional dirty "dirty": Choice<Dirty>,
        /// Files and directories that git ignores and that go in all the same: paths relative to the source.
        #[schemars(extend(
            "default" = [],
            "items" = {"type": "string", "minLength": 1, "not": {"pattern": "^/"}},
            "examples" = [[".env.example"]]
        ))]
        optional include "include": List<Word>,
    }
}

impl Words for Dirty {
    const WORDS: &'static [(&'static str, Self)] =
        &[("include", Self::Include), ("refuse", Self::Refuse), ("ignore", Self::Ignore)];
}

record! {
    /// A long-lived command in the agent.
    #[schemars(rename = "Session")]
    SessionDoc {
        /// The program and its arguments. The image's entrypoint has no part in it.
        #[schemars(extend("minItems" = 1, "prefixItems" = [{"minLength": 1}], "examples" = [["pi", "--mode", "rpc"]]))]
        required command "command": List<Loose>,
        /// Where it runs: an absolute path in the container. In a workspace, the command waits until that is there. The
        /// container's working directory, when the file names none.
        #[schemars(extend("pattern" = GUEST_PATH, "examples" = ["/root/repo"]))]
        optional cwd "cwd": Word,
        /// Environment variables, on top of the container's own. What is secret among them is as in `container.env`.
        #[schemars(extend("examples" = [{"MODE": "rpc", "TOKEN": "${env:PI_TOKEN}"}]))]
        optional env "env": Table<Loose>,
        /// Its standard input: a `pipe` that can be sent to, or `closed`.
        #[schemars(extend("default" = "pipe", "examples" = ["pipe"]))]
        optional stdin "stdin": Choice<SessionStdin>,
        /// Whether it runs in a terminal.
        #[schemars(extend("default" = false, "examples" = [false]))]
        optional tty "tty": Flag,
        /// Programs that must be on its PATH before it is started.
        #[schemars(extend(
            "default" = [],
            "items" = {"type": "string", "pattern": r"^\S+$|\$\{(env|agent):"},
            "examples" = [["git", "pi"]]
        ))]
        optional requires "requires": List<Word>,
        /// When it is started again after it ended: `no`, `on-failure` (another exit code than 0, or a signal), `always`.
        #[schemars(extend("default" = "on-failure", "examples" = ["on-failure"]))]
        optional restart "restart": Choice<SessionRestart>,
        /// Whom it runs as: a name or number of the container, with `:GROUP` behind it or not. The container's user, when the
        /// file names none.
        #[schemars(extend("minLength" = 1, "examples" = ["root"]))]
        optional user "user": Loose,
        /// What is kept of what it prints.
        #[schemars(extend("examples" = [{"maxSize": "8MiB"}]))]
        optional log "log": LogDoc,
        /// When it counts as idle, and what is done then.
        #[schemars(extend("examples" = [{"after": "30m", "do": "notify"}]))]
        optional idle "idle": IdleDoc,
    }
}

impl Words for SessionStdin {
    const WORDS: &'static [(&'static str, Self)] = &[("pipe", Self::Pipe), ("closed", Self::Closed)];
}

impl Words for SessionRestart {
    const WORDS: &'static [(&'static str, Self)] =
        &[("no", Self::No), ("on-failure", Self::OnFailure), ("always", Self::Always)];
    const FALSE: Option<Self> = Some(Self::No);
}

record! {
    /// What is kept of what a session prints.
    #[schemars(rename = "SessionLog")]
    LogDoc {
        /// How much, the newest: from 64KiB to 1GiB.
        #[schemars(extend("default" = "8MiB", "examples" = ["8MiB"]))]
        optional max_size "maxSize": Size,
    }
}

record! {
    /// When a session counts as idle, and what is done then.
    #[schemars(rename = "SessionIdle")]
    IdleDoc {
        /// After it has neither printed nor been sent anything for so long: at least 1s.
        #[schemars(extend("examples" = ["30m"]))]
        required after "after": Time,
        /// `notify` tells of it and lets it go on, `stop` stops it, and it stays so.
        #[schemars(extend("examples" = ["notify"]))]
        required action "do": Choice<IdleAction>,
    }
}

impl Words for IdleAction {
    const WORDS: &'static [(&'static str, Self)] = &[("notify", Self::Notify), ("stop", Self::Stop)];
}
