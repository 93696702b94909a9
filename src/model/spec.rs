//! The container spec: what a container is to be.

mod log;
mod mount;
mod network;
mod process;
mod resources;
mod security;

pub use log::{LogDriver, Logging};
pub use mount::{Mount, MountSource, Propagation, Relabel};
pub use network::{Attachment, NetworkMode, Networking};
pub use process::{Process, Signal, Ulimit};
pub use resources::{Cpus, Memory, Resources};
pub use security::Security;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ids::{ContainerName, ImageId, ImageRef};
use super::redact::{HIDDEN, Secrets};
use super::text::{Text, url_with_password};

/// What a container is to be, resolved: defaults filled in, env files read, substitutions made.
///
/// Whoever makes something of each field takes it apart without `..`: where secrets are found in it, where it is recorded
/// ([`super::canonical`]), where Podman is asked for it (API and command line), where plans show it. So a new field does not
/// compile until each has decided about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name in Podman.
    pub name: ContainerName,
    /// What runs in place of the image's entrypoint; empty is none at all. With it the image's own command does not count.
    pub entrypoint: Option<Vec<Text>>,
    /// Arguments after the entrypoint; `None` keeps the image's own command.
    pub command: Option<Vec<Text>>,
    /// Environment, env file and `env` merged (`env` wins).
    pub env: BTreeMap<String, Text>,
    /// Labels of the user, none of them ours.
    pub labels: BTreeMap<String, Text>,
    /// Mounts, in the order of the file.
    pub mounts: Vec<Mount>,
    /// Published ports, in the order of the file.
    pub ports: Vec<Port>,
    /// Those of `ports` that came from the environment, and are not shown.
    pub hidden_ports: BTreeSet<Port>,
    /// When Podman restarts it by itself.
    pub restart: RestartPolicy,
    /// Extra `/etc/hosts` lines as `host:address`; the address may be `host-gateway`.
    pub add_hosts: Vec<Text>,
    /// The health check of the state file, if it has one.
    pub healthcheck: Option<HealthCheck>,
    /// There is to be no health check, not even the image's own: `test: NONE`. Never beside a `healthcheck`.
    pub no_healthcheck: bool,
    /// How its process is begun and ended.
    pub process: Process,
    /// How it is on the network.
    pub network: Networking,
    /// What it may take of the machine.
    pub resources: Resources,
    /// What it is allowed.
    pub security: Security,
    /// Where its output is kept.
    pub logging: Logging,
}

impl ContainerSpec {
    /// A container of this name, all else as it is where the state file says nothing.
    pub fn new(name: ContainerName) -> Self {
        Self {
            name,
            entrypoint: None,
            command: None,
            env: BTreeMap::new(),
            labels: BTreeMap::new(),
            mounts: Vec::new(),
            ports: Vec::new(),
            hidden_ports: BTreeSet::new(),
            restart: RestartPolicy::default(),
            add_hosts: Vec::new(),
            healthcheck: None,
            no_healthcheck: false,
            process: Process::default(),
            network: Networking::default(),
            resources: Resources::default(),
            security: Security::default(),
            logging: Logging::default(),
        }
    }

    /// Whether steadfast restarts it once its health check has failed as often as its retries allow.
    pub fn is_restarted_when_unhealthy(&self) -> bool {
        self.healthcheck.as_ref().is_none_or(|check| check.on_failure == OnUnhealthy::Restart)
    }

    /// A published port as it may be shown.
    pub fn shown_port(&self, port: &Port) -> String {
        if self.hidden_ports.contains(port) { HIDDEN.to_owned() } else { port.to_string() }
    }

    /// The values in it that must never be shown, and what of them may come back by itself: the parts of a path, the numbers
    /// of a port, the password of a URL, the address of a host. For whatever repeats what a container was given.
    pub fn secrets(&self) -> Secrets {
        let Self {
            name: _,
            entrypoint,
            command,
            env,
            labels,
            mounts,
            ports: _,
            hidden_ports,
            restart: _,
            add_hosts,
            healthcheck,
            no_healthcheck: _,
            // None of these holds a secret.
            process: _,
            network: _,
            resources: _,
            security: _,
            logging: _,
        } = self;
        let check = healthcheck.as_ref().map(|check| match &check.test {
            HealthTest::Command(words) => words.as_slice(),
            HealthTest::Shell(line) => std::slice::from_ref(line),
        });
        let mut values: Vec<Cow<'_, str>> = Vec::new();
        let words = entrypoint.iter().chain(command).flatten().chain(check.into_iter().flatten());
        let texts = env.values().chain(labels.values()).chain(words).chain(add_hosts);
        for text in texts.filter(|text| text.is_sensitive()).map(Text::expose) {
            values.push(text.into());
            values.extend(url_with_password(text).map(|(_, password)| Cow::Borrowed(password)));
        }
        let lines = add_hosts.iter().filter(|line| line.is_sensitive()).filter_map(|line| split_host(line.expose()));
        values.extend(lines.map(|(_, address)| address).filter(|address| *address != HOST_GATEWAY).map(Cow::Borrowed));
        let paths = mounts.iter().flat_map(|mount| mount.bind_source().into_iter().chain([&mount.target]));
        for path in paths.filter(|path| path.is_sensitive()).map(Text::expose) {
            values.push(path.into());
            values.extend(secret_parts(path).map(Cow::Borrowed));
        }
        for port in hidden_ports {
            let Port { host_port, container_port, .. } = port;
            values.push(port.to_string().into());
            values.push(port.address().into());
            values.extend([host_port, container_port].map(|number| Cow::Owned(number.to_string())));
        }
        Secrets::new(values)
    }
}

/// What an address in `add_hosts` says to mean the machine Podman runs on.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";

/// A line of `add_hosts`: `host:address`. An IPv6 address has colons of its own, a host has none.
pub(crate) fn split_host(line: &str) -> Option<(&str, &str)> {
    line.split_once(':')
}

/// The parts of a path that must not be shown.
pub(super) fn secret_parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !ROOTS.contains(part))
}

/// Directories that everybody has, and that no secret is called.
const ROOTS: [&str; 17] = [
    "bin", "data", "dev", "etc", "home", "lib", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp",
    "usr", "var",
];

/// A volume of the engine, mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Volume {
    /// Its name in the engine.
    pub name: String,
    /// Absolute path in the container.
    pub target: String,
    /// Whether the container may only read it.
    pub read_only: bool,
}

impl Volume {
    /// Whether the engine made it and named it by itself, since the image declares a volume there: 64 hex digits.
    pub fn is_anonymous(&self) -> bool {
        self.name.len() == 64 && self.name.bytes().all(|byte| byte.is_ascii_hexdigit())
    }
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// Host address; `0.0.0.0` when the file names none.
    pub host_ip: String,
    /// Host port, 1 to 65535; 0 is one that Podman chooses.
    pub host_port: u16,
    /// Port in the container, 1 to 65535.
    pub container_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

impl Port {
    /// Where it listens: `127.0.0.1:8080`, `[::1]:8080`; `127.0.0.1:` where Podman chooses the port.
    pub fn address(&self) -> String {
        let Self { host_ip, host_port, .. } = self;
        let host_port = if *host_port == 0 { String::new() } else { host_port.to_string() };
        if host_ip.contains(':') { format!("[{host_ip}]:{host_port}") } else { format!("{host_ip}:{host_port}") }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}/{}", self.address(), self.container_port, self.protocol)
    }
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, the default.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// When Podman restarts a container by itself; steadfast completes it and never fights it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RestartPolicy {
    /// Never: a one-shot. Once it has ended it stays so.
    No,
    /// After a failure; exit code 0 is completion.
    OnFailure,
    /// After a failure, so many times at most; exit code 0 is completion.
    OnFailureAtMost(u32),
    /// Always.
    Always,
    /// Always, the default.
    #[default]
    UnlessStopped,
}

impl RestartPolicy {
    /// The word of Podman's API, without how often.
    pub fn as_str(self) -> &'static str {
        match self {
            RestartPolicy::No => "no",
            RestartPolicy::OnFailure | RestartPolicy::OnFailureAtMost(_) => "on-failure",
            RestartPolicy::Always => "always",
            RestartPolicy::UnlessStopped => "unless-stopped",
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RestartPolicy::OnFailureAtMost(tries) => write!(f, "{}:{tries}", self.as_str()),
            _ => f.write_str(self.as_str()),
        }
    }
}

/// A health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is run.
    pub test: HealthTest,
    /// Time between two runs. Default 30 s.
    pub interval: Duration,
    /// Time one run may take. Default 30 s.
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy. Default 3.
    pub retries: u32,
    /// Time after the start in which failures do not count. Default 0 s.
    pub start_period: Duration,
    /// Time between two runs until the first that passes, where it is another than `interval`: steadfast runs them while it
    /// waits for the container.
    pub start_interval: Option<Duration>,
    /// What steadfast does once it is unhealthy.
    pub on_failure: OnUnhealthy,
}

/// What is done with a container that is unhealthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnhealthy {
    /// It is restarted, the default.
    #[default]
    Restart,
    /// It is reported.
    Report,
}

/// The word in a health check's list that switches it off, in Podman and in Docker's image format.
pub const NO_CHECK: &str = "NONE";

/// The command of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthTest {
    /// `[CMD, program, argument…]`: run as it is.
    Command(Vec<Text>),
    /// `[CMD-SHELL, line]`: run by the container's shell.
    Shell(Text),
}

impl HealthCheck {
    /// Time between two runs where nobody says otherwise (as Docker and Podman have it).
    pub const INTERVAL: Duration = Duration::from_secs(30);
    /// Time one run may take where nobody says otherwise.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
    /// How many failures in a row make a container unhealthy where nobody says otherwise.
    pub const RETRIES: u32 = 3;

    /// This command, all else as it is where nobody says otherwise.
    pub fn new(test: HealthTest) -> Self {
        Self {
            test,
            interval: Self::INTERVAL,
            timeout: Self::TIMEOUT,
            retries: Self::RETRIES,
            start_period: Duration::ZERO,
            start_interval: None,
            on_failure: OnUnhealthy::default(),
        }
    }
}

impl HealthTest {
    /// As Podman takes it: `["CMD", …]` or `["CMD-SHELL", line]`.
    pub fn words(&self) -> Vec<Text> {
        match self {
            HealthTest::Command(words) => std::iter::once(Text::plain("CMD")).chain(words.iter().cloned()).collect(),
            HealthTest::Shell(line) => vec![Text::plain("CMD-SHELL"), line.clone()],
        }
    }
}

/// What a container is created from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// Its name. During a replacement not the one in `spec`.
    pub name: ContainerName,
    /// The image's name.
    pub image: ImageRef,
    /// The image itself, where it is known: what it is made from, whatever the name points to by then.
    pub image_id: Option<ImageId>,
    /// Everything else.
    pub spec: ContainerSpec,
    /// Labels, ours among them.
    pub labels: BTreeMap<String, String>,
    /// Volumes it gets from the container whose place it takes.
    pub volumes: Vec<Volume>,
}

impl Create {
    /// The record of what it is created from, sensitive values as their keyed hash.
    pub fn spec_label(&self) -> &str {
        self.labels.get(super::labels::SPEC).map_or("", String::as_str)
    }

    /// What to ask the engine for: the image itself, else its name.
    pub fn image_word(&self) -> &str {
        self.image_id.as_ref().map_or(self.image.as_str(), ImageId::as_str)
    }
}
