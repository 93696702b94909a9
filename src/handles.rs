//! The scratch file: handles of live things, written after an observation. Never read to decide anything.
//!
//! It is for people and for other programs that want to reach what is there. It may be deleted, truncated or filled with
//! garbage at any time; the next observation rewrites it.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::Serialize;

use crate::files;
use crate::model::vm::Process;
use crate::model::{
    AgentName, ContainerId, Observed, Owner, Phase, Reach, Route, SessionOrigin, SessionPhase, VmState,
};
use crate::mutex::guard;
use crate::time::rfc3339;

/// Where handles are kept.
#[derive(Debug)]
pub struct Scratch {
    path: Option<PathBuf>,
    engine: BTreeMap<&'static str, String>,
    last: Mutex<Option<String>>,
    problem: Mutex<Option<String>>,
}

#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Handles<'a> {
    schema_version: u32,
    engine: &'a BTreeMap<&'static str, String>,
    podman_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vm: Option<VmHandle<'a>>,
    containers: BTreeMap<&'a str, Handle<'a>>,
}

#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct VmHandle<'a> {
    dir: &'a Path,
    status: &'a str,
    template_digest: Option<&'a str>,
    host_agent: Option<ProcessHandle>,
    driver: Option<ProcessHandle>,
    ssh_port: Option<u16>,
    ssh_config: &'a Path,
    socket: Option<&'a Path>,
    transport: Option<&'static str>,
    #[serde(rename = "rung")]
    route: Option<&'static str>,
}

/// Pids are used again: without its start time one says nothing.
#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct ProcessHandle {
    pid: u32,
    started_at: Option<String>,
}

impl From<Process> for ProcessHandle {
    fn from(process: Process) -> Self {
        Self { pid: process.pid, started_at: process.started_at.map(rfc3339) }
    }
}

impl<'a> VmHandle<'a> {
    fn of(vm: &'a VmState, reach: &Reach) -> Self {
        Self {
            dir: &vm.dir,
            status: vm.phase.word(),
            template_digest: vm.template.as_deref(),
            host_agent: vm.host_agent.map(ProcessHandle::from),
            driver: vm.driver.map(ProcessHandle::from),
            ssh_port: vm.ssh_port,
            ssh_config: &vm.ssh_config,
            socket: vm.socket.as_ref().map(|socket| socket.host.as_path()),
            transport: reach.route.map(Route::transport),
            route: reach.route.map(Route::word),
        }
    }
}

#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct Handle<'a> {
    id: &'a str,
    agent: Option<&'a str>,
    state: &'static str,
    pid: Option<u32>,
    started_at: Option<String>,
    image: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    sessions: BTreeMap<&'a str, SessionHandle<'a>>,
}

/// A session that runs: its process in the container, which its start time tells from another of that number.
#[derive(Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
struct SessionHandle<'a> {
    id: &'a str,
    pid: Option<i32>,
    pid_started: Option<u64>,
    declared: bool,
}

fn sessions<'a>(
    observed: &'a Observed,
    agent: Option<&AgentName>,
    id: &ContainerId,
) -> BTreeMap<&'a str, SessionHandle<'a>> {
    let inside = agent.and_then(|agent| observed.inside.get(agent)).filter(|inside| inside.container == *id);
    let found = inside.and_then(|inside| inside.sessions.present()).into_iter().flatten();
    let running = found.filter(|(_, state)| state.phase == SessionPhase::Running);
    let handle = running.map(|(name, state)| {
        let declared = matches!(state.origin, SessionOrigin::Declared(_));
        (name.as_str(), SessionHandle { id: &state.id, pid: state.pid, pid_started: state.pid_started, declared })
    });
    handle.collect()
}

impl Scratch {
    /// Handles in this file. `engine` tells how Podman is reached (`socket`, …).
    pub fn new(path: &Path, engine: BTreeMap<&'static str, String>) -> Self {
        Self { path: Some(path.to_owned()), ..Self::kept_nowhere(engine) }
    }

    /// Handles that are not kept.
    pub fn off() -> Self {
        Self::kept_nowhere(BTreeMap::new())
    }

    fn kept_nowhere(engine: BTreeMap<&'static str, String>) -> Self {
        Self { path: None, engine, last: Mutex::new(None), problem: Mutex::new(None) }
    }

    /// Why the handles could not be written the last time, if so. `None` again as soon as they could be.
    pub fn problem(&self) -> Option<String> {
        guard(&self.problem).clone()
    }

    /// Writes what was seen, unless it is what stands there. A failure is not fatal, and logged when it is the first in a
    /// row.
    pub async fn record(&self, observed: &Observed) {
        let Some(path) = &self.path else { return };
        let (guest, vm) = (observed.guest.present(), observed.vm.present());
        if guest.is_none() && vm.is_none() {
            return;
        }
        let containers = guest
            .into_iter()
            .flat_map(|guest| &guest.containers)
            .filter_map(|(name, seen)| {
                let Owner::Ours { agent, .. } = &seen.owner else { return None };
                let handle = Handle {
                    id: seen.id.as_str(),
                    agent: agent.as_ref().map(AgentName::as_str),
                    state: word(&seen.phase),
                    pid: seen.pid,
                    started_at: seen.started_at.map(rfc3339),
                    image: seen.image.as_str(),
                    sessions: sessions(observed, agent.as_ref(), &seen.id),
                };
                Some((name.as_str(), handle))
            })
            .collect();
        let handles = Handles {
            schema_version: 1,
            engine: &self.engine,
            podman_version: guest.map(|guest| guest.version.as_str()),
            vm: vm.map(|vm| VmHandle::of(vm, &observed.reach)),
            containers,
        };
        let Ok(mut text) = serde_json::to_string_pretty(&handles) else { return };
        text.push('\n');
        if guard(&self.last).as_ref() == Some(&text) {
            return;
        }
        if files::read(path).is_ok_and(|there| there == text.as_bytes()) {
            files::sweep(path);
            *guard(&self.problem) = None;
            return;
        }
        match files::replace(path, false, |mut file| file.write_all(text.as_bytes())) {
            Ok(()) => {
                *guard(&self.last) = Some(text);
                *guard(&self.problem) = None;
            }
            Err(err) => {
                // What was written before does not say any more what is there.
                *guard(&self.last) = None;
                let problem = format!("cannot write `{}`: {err}", path.display());
                if guard(&self.problem).replace(problem).is_none() {
                    tracing::warn!(path = %path.display(), error = %err, "cannot write the handles; going on without them");
                }
            }
        }
    }
}

/// The word for a phase in JSON.
pub fn word(phase: &Phase) -> &'static str {
    match phase {
        Phase::Created => "created",
        Phase::Running => "running",
        Phase::Paused => "paused",
        Phase::Stopping => "stopping",
        Phase::Exited { .. } => "exited",
        Phase::Removing => "removing",
        Phase::Other(_) => "unknown",
    }
}
