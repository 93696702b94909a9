//! The virtual machine: what is wanted of it, and what one observation found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::desired::{TemplateChange, Transport};
use super::ids::{InstanceName, Sha256Digest};
use super::labels::Ownership;
use super::spec::{Port, Protocol};

/// The parameter of an instance that says whose it is. Lima keeps it in the instance's own `lima.yaml`.
pub(crate) const PARAM_NAME: &str = "steadfastName";
/// The parameter of an instance that says from which template it was made: [`Template::digest`].
pub(crate) const PARAM_TEMPLATE: &str = "steadfastTemplate";
/// Of which root its state file is. Absent on what older versions made.
pub(crate) const PARAM_ROOT: &str = "steadfastRoot";

/// A Lima instance as the state file wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmSpec {
    /// Its name.
    pub instance: InstanceName,
    /// Lima's home directory, absolute.
    pub home: PathBuf,
    /// What it is made from.
    pub template: Template,
    /// Processors; `None` for the template's.
    pub cpus: Option<u32>,
    /// Memory in bytes; `None` for the template's.
    pub memory: Option<u64>,
    /// Size of its disk in bytes; `None` for the template's. It can grow, and never shrink.
    pub disk: Option<u64>,
    /// How Podman in it is reached.
    pub transport: Transport,
    /// What happens when the template changes.
    pub on_template_change: TemplateChange,
    /// How long it may run and answer in no way before it is restarted. Default 5 minutes.
    pub restart_after: Duration,
}

/// A Lima template, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its file, absolute.
    pub path: PathBuf,
    /// What it says.
    pub content: serde_json::Value,
    /// Of what it says, not of how it is written: comments and layout change nothing.
    pub digest: Sha256Digest,
}

/// A host port that is to lead into the machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The address on this host.
    pub host_ip: String,
    /// The port, the same on both sides: Podman in the machine publishes it there.
    pub port: u16,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
}

impl Forward {
    /// What a published port needs.
    pub fn of(port: &Port) -> Self {
        Self { host_ip: port.host_ip.clone(), port: port.host_port, protocol: port.protocol }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colons = self.host_ip.contains(':');
        let (open, close) = if colons { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}/{}", self.host_ip, self.port, self.protocol)
    }
}

/// What is made when an instance is made: the whole of it, so that whoever makes it asks nothing back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmMake {
    /// What is wanted.
    pub spec: VmSpec,
    /// Whose it is.
    pub owner: Ownership,
    /// Ports that lead into it.
    pub forwards: BTreeSet<Forward>,
    /// The directory of artifacts, mounted read-only where Lima can do that natively.
    pub images: PathBuf,
}

/// How a machine is brought to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// It is stopped: it is started.
    Start,
    /// It runs and does not answer: it is stopped, by force if need be, and started.
    Restart,
    /// Half of it is gone: what is left is ended and cleared, and it is started.
    Repair,
}

/// A Lima instance as one observation found it.
#[derive(Debug, Clone, PartialEq)]
pub struct VmState {
    /// Where it stands.
    pub phase: VmPhase,
    /// Whose it is; `None` when we did not make it.
    pub owner: Option<String>,
    /// The mark of its root; `None` when an older version made it.
    pub root: Option<String>,
    /// The digest of the template it was made from, when we made it.
    pub template: Option<String>,
    /// Its directory.
    pub dir: PathBuf,
    /// `qemu`, `vz`, …
    pub vm_type: String,
    /// The Lima that made it, e.g. `2.1.4`.
    pub lima_version: String,
    /// Processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Size of its disk in bytes.
    pub disk: u64,
    /// The port of its sshd on 127.0.0.1, while it runs.
    pub ssh_port: Option<u16>,
    /// The configuration for `ssh -F`.
    pub ssh_config: PathBuf,
    /// Lima's process beside it.
    pub host_agent: Option<Process>,
    /// The process that runs it.
    pub driver: Option<Process>,
    /// Podman's socket in it, and where Lima forwards it to, as its configuration says.
    pub socket: Option<Socket>,
    /// Host directories it sees.
    pub mounts: Vec<VmMount>,
    /// Ports that Lima leads into it.
    pub forwards: BTreeSet<Forward>,
}

impl VmState {
    /// Why it is not this owner's, as the rest of a sentence about it; `None` when it is. What is not ours is looked at from
    /// outside and left alone.
    pub fn foreign_to(&self, owner: &Ownership) -> Option<String> {
        match (&self.owner, &self.root) {
            (Some(name), root) if name == owner.name.as_str() => {
                let theirs = root.as_deref().filter(|root| !owner.root.owns(root))?;
                let id = theirs.get(..8).unwrap_or(theirs);
                Some(format!("belongs to a state file of the same name below another root (id {id}…)"))
            }
            (Some(theirs), _) => Some(format!("belongs to state file `{theirs}`")),
            (None, _) => Some("was not made by this state file".to_owned()),
        }
    }
}

/// Where an instance stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmPhase {
    /// Lima's two processes are alive. That says nothing about whether anything in it answers.
    Running,
    /// Neither is.
    Stopped,
    /// One of the two has only just been started: Lima moves it on.
    Starting,
    /// One of the two is gone, or Lima cannot tell. The sentence is Lima's.
    Broken(String),
    /// A word this build does not know.
    Other(String),
}

impl fmt::Display for VmPhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VmPhase::Running => f.write_str("is running"),
            VmPhase::Stopped => f.write_str("is stopped"),
            VmPhase::Starting => f.write_str("is starting"),
            VmPhase::Broken(why) => write!(f, "is broken: {why}"),
            VmPhase::Other(word) => write!(f, "is `{word}`"),
        }
    }
}

impl VmPhase {
    /// Lima's word for it.
    pub fn word(&self) -> &str {
        match self {
            VmPhase::Running => "Running",
            VmPhase::Stopped => "Stopped",
            VmPhase::Starting => "Starting",
            VmPhase::Broken(_) => "Broken",
            VmPhase::Other(word) => word,
        }
    }
}

/// A process of this host. Pids are used again, so the start time belongs to it.
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// When it was started; `None` where the system does not tell.
    pub started_at: Option<SystemTime>,
}

impl PartialEq for Process {
    /// The system tells when it booted to the second, and not the same second each time: so start times are about the same.
    fn eq(&self, other: &Self) -> bool {
        let started = match (self.started_at, other.started_at) {
            (Some(one), Some(two)) => one.max(two).duration_since(one.min(two)).unwrap_or_default() < SAME_START,
            _ => true,
        };
        self.pid == other.pid && started
    }
}

/// Nobody gets the pid of another process back so soon.
const SAME_START: Duration = Duration::from_secs(3);

/// A unix socket in the machine that is forwarded to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// Its path in the machine.
    pub guest: String,
    /// Its path here.
    pub host: PathBuf,
}

/// A directory of this host that is seen in the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmMount {
    /// The directory here.
    pub host: PathBuf,
    /// Where it is seen.
    pub guest: PathBuf,
    /// `virtiofs`, `reverse-sshfs`, `9p`, …
    pub kind: String,
}

/// How an engine in a virtual machine is reached, and how it went so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// The route in use; `None` while there is none.
    pub route: Option<Route>,
    /// How often each route was tried since we began, in the order of [`Route::ALL`].
    pub counts: [u32; 4],
    /// Since when no route has led to an answer.
    pub silent_for: Option<Duration>,
    /// How many boots in a row nothing has answered after.
    pub failed_boots: u32,
}

impl Reach {
    /// How often each route was tried, by its word.
    pub fn tries(&self) -> BTreeMap<&'static str, u32> {
        Route::ALL.iter().map(|route| (route.word(), self.counts[*route as usize])).collect()
    }
}

/// A route to Podman in a virtual machine, the best first. Restarting the machine stands above them all and is
/// a step of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Route {
    /// The socket that Lima forwards.
    Forward,
    /// The same socket over a new connection, after the one before broke.
    Reconnect,
    /// The socket in the machine through an ssh of our own.
    Ssh,
    /// `limactl shell INSTANCE podman …`.
    Shell,
}

impl Route {
    /// All of them, the best first.
    pub const ALL: [Route; 4] = [Route::Forward, Route::Reconnect, Route::Ssh, Route::Shell];

    /// The fixed word for it.
    pub fn word(self) -> &'static str {
        match self {
            Route::Forward => "forward",
            Route::Reconnect => "reconnect",
            Route::Ssh => "ssh",
            Route::Shell => "shell",
        }
    }

    /// Whether what Lima forwards is gone around.
    pub fn is_low(self) -> bool {
        self >= Route::Ssh
    }

    /// The transport it is.
    pub fn transport(self) -> &'static str {
        match self {
            Route::Forward | Route::Reconnect | Route::Ssh => "api",
            Route::Shell => "shell",
        }
    }
}
