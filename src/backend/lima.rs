//! A Lima instance behind [`Vm`]: what limactl is asked for, and when it is believed.

mod render;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::stream;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::command;
use super::limactl::{self, Limactl, Listed};
use super::vm::{Vm, VmError, VmEvents};
use super::{process, ssh};
use crate::files;
use crate::model::vm::{PARAM_NAME, PARAM_ROOT, Process};
use crate::model::{Boot, Forward, InstanceName, Ownership, Protocol, VmMake, VmPhase, VmState};

pub(crate) use render::render;

/// What is kept in an instance's directory to say whose it is, once somebody else's was taken over.
const OWNER_FILE: &str = "steadfast.json";
/// Between the start of the host agent and that of the machine passes so much time at most (Lima fetches and converts images
/// before).
const STARTING: Duration = Duration::from_secs(60);
/// How long a machine that does not answer is given to stop by itself.
const STOP_SILENT: Duration = Duration::from_secs(60);
/// Asking ssh's master for a forward.
const FORWARD: Duration = Duration::from_secs(20);

/// A Lima instance.
#[derive(Debug)]
pub struct Lima {
    limactl: Limactl,
    instance: InstanceName,
}

impl Lima {
    /// The instance of this name. Nothing is called yet.
    pub fn new(limactl: Limactl, instance: InstanceName) -> Self {
        Self { limactl, instance }
    }

    /// How limactl is called.
    pub fn limactl(&self) -> &Limactl {
        &self.limactl
    }

    /// Its name.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    async fn listed(&self) -> Result<Option<Listed>, VmError> {
        let Some(mut listed) = self.limactl.look(&self.instance).await? else { return Ok(None) };
        let state = &mut listed.state;
        // Its parameters say who made it, and cannot be changed while it runs.
        if let Some((owner, root)) = adopted_by(&state.dir) {
            (state.owner, state.root) = (Some(owner), root);
        }
        for (found, role) in [(&mut state.host_agent, "host agent"), (&mut state.driver, "driver")] {
            // Lima trusts its pid files. After a reboot of this host, the pid may be anybody's.
            if let Some(other) = found.filter(|found| !self.is_limas(found, &state.dir)) {
                *found = None;
                state.phase = VmPhase::Broken(format!(
                    "the pid file of its {role} names {}, which is another process",
                    other.pid
                ));
            }
        }
        // To Lima, one whose host agent did not answer within 3 s is broken too. It may only be busy; whether the machine is
        // alive, its Podman tells.
        if let (VmPhase::Broken(why), Some(_), Some(_)) = (&state.phase, &state.host_agent, &state.driver) {
            tracing::debug!(instance = %self.instance, why, "Lima cannot tell how an instance is whose processes run");
            state.phase = VmPhase::Running;
        }
        if state.phase == VmPhase::Running
            && let Some(errors) = limactl::degraded(&state.dir)
        {
            state.phase = VmPhase::Broken(format!("Lima calls it degraded: {errors}"));
        }
        // Lima calls an instance broken between the start of its first process and that of its second.
        if let (VmPhase::Broken(_), Some(agent), None) = (&state.phase, &state.host_agent, &state.driver)
            && is_young(agent)
        {
            state.phase = VmPhase::Starting;
        }
        Ok(Some(listed))
    }

    fn is_limas(&self, process: &Process, dir: &Path) -> bool {
        process::command_line(process.pid).is_none_or(|line| limactl::is_limas(&line, dir))
    }

    /// Its state, when it is there at all.
    async fn there(&self) -> Result<Listed, VmError> {
        self.listed().await?.ok_or_else(|| VmError::Failed {
            command: format!("limactl list {}", self.instance),
            why: "there is no such instance any more".to_owned(),
        })
    }

    /// Ends what is left of it, and clears the files of processes that are not there any more. `gently`, the guest is asked
    /// first to shut down by itself.
    async fn repair(&self, listed: &Listed, gently: bool) -> Result<(), VmError> {
        let state = &listed.state;
        let whole = state.host_agent.is_some() && state.driver.is_some();
        if gently && whole && self.limactl.stop(&self.instance, false, Some(STOP_SILENT)).await.is_ok() {
            return Ok(());
        }
        let dir = &state.dir;
        for file in ["ha.pid".to_owned(), format!("{}.pid", listed.state.vm_type)] {
            let path = dir.join(file);
            let Some(text) = limactl::small(&path) else { continue };
            let named = String::from_utf8_lossy(&text).trim().parse().ok().and_then(process::of);
            // `limactl stop --force` kills what a pid file names, whoever that is now.
            if named.is_none_or(|named| !self.is_limas(&named, dir)) {
                tracing::warn!(path = %path.display(), "removing a stale pid file of Lima's");
                std::fs::remove_file(&path).map_err(|err| VmError::Io { path, err: Arc::new(err) })?;
            }
        }
        if gently && !whole && state.driver.is_some() {
            self.power_off(listed).await;
        }
        self.limactl.stop(&self.instance, true, None).await
    }

    /// Asks the guest itself to shut down, where Lima cannot: what runs in it may have something to write. Best effort.
    async fn power_off(&self, listed: &Listed) {
        let command = ssh::own(&listed.state.ssh_config, &self.instance, &[], "sudo -n systemctl poweroff");
        if command::run(command, &[], FORWARD).await.is_err() {
            return;
        }
        let deadline = tokio::time::Instant::now() + STOP_SILENT;
        while tokio::time::Instant::now() < deadline {
            let driver = listed.state.driver.and_then(|driver| process::of(driver.pid));
            if driver != listed.state.driver {
                return;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Settings that can only be changed while it is stopped, brought to what is wanted.
    async fn settle(&self, listed: &Listed, make: &VmMake) -> Result<(), VmError> {
        let (spec, state) = (&make.spec, &listed.state);
        let mut changes = Vec::new();
        if let Some(cpus) = spec.cpus.filter(|cpus| *cpus != state.cpus) {
            changes.push(format!(".cpus = {cpus}"));
        }
        if let Some(memory) = spec.memory.filter(|memory| *memory != state.memory) {
            changes.push(format!(".memory = \"{memory}B\""));
        }
        // It cannot shrink; the plan says so.
        if let Some(disk) = spec.disk.filter(|disk| *disk > state.disk) {
            changes.push(format!(".disk = \"{disk}B\""));
        }
        if make.forwards != limactl::agents_forwards(&listed.port_forwards) {
            let rules = render::port_forwards(&listed.port_forwards, &make.forwards);
            changes.push(format!(".portForwards = {}", Value::from(rules)));
        }
        if changes.is_empty() { Ok(()) } else { self.limactl.edit(&self.instance, &changes.join(" | ")).await }
    }

    /// Boots it, and believes only what is seen afterwards.
    async fn boot(&self, make: &VmMake) -> Result<(), VmError> {
        // What is found there afterwards is of this boot.
        let _ = std::fs::remove_file(self.limactl.boot_log_file(&self.instance));
        let udp = make.forwards.iter().any(|port| port.protocol == Protocol::Udp);
        let Err(err) = self.limactl.start(&self.instance, udp).await else { return Ok(()) };
        let listed = self.there().await?;
        if listed.state.phase == VmPhase::Stopped {
            return Err(err);
        }
        // Lima leaves a machine running whose provisioning or probes failed. Nobody should take it for one that is ready, and
        // the next start tries them again.
        let log = self.limactl.boot_log(&self.instance).await;
        let log = if log.trim().is_empty() {
            String::new()
        } else {
            format!("\nthe end of its boot log:\n{}", log.trim_end())
        };
        let why = match &err {
            VmError::Failed { why, .. } => why.clone(),
            other => other.to_string(),
        };
        self.stop(false).await?;
        Err(VmError::NotReady { instance: self.instance.to_string(), why: format!("{why}{log}") })
    }

    /// `ssh -O forward` on the master connection that Lima keeps.
    async fn ask_master(&self, listed: &Listed, port: &Forward) -> Result<(), VmError> {
        let command = ssh::ask_master(&listed.state.ssh_config, &self.instance, port);
        let shown = format!("ssh -O forward {port} lima-{}", self.instance);
        match command::run(command, &[], FORWARD).await {
            Ok(output) if output.code == Some(0) => Ok(()),
            Ok(output) => Err(VmError::Failed { command: shown, why: output.stderr.trim().to_owned() }),
            Err(command::RunError::Io(err)) => Err(VmError::Failed { command: shown, why: err.to_string() }),
            Err(_) => Err(VmError::TimedOut { command: shown, limit: FORWARD }),
        }
    }
}

fn rendered(make: &VmMake) -> Result<String, VmError> {
    render(make).map_err(|err| VmError::Unreadable {
        command: format!("the template `{}`", make.spec.template.path.display()),
        why: err.to_string(),
    })
}

fn is_young(process: &Process) -> bool {
    let age = process.started_at.and_then(|started| SystemTime::now().duration_since(started).ok());
    age.is_some_and(|age| age < STARTING)
}

/// Whose the instance in this directory is, and below which root, by its files; [`Vm::look`] asks Lima.
pub(super) fn whose(dir: &Path) -> Option<(String, Option<String>)> {
    adopted_by(dir).or_else(|| Some((limactl::param(dir, PARAM_NAME)?, limactl::param(dir, PARAM_ROOT))))
}

fn adopted_by(dir: &Path) -> Option<(String, Option<String>)> {
    let value: Value = serde_json::from_slice(&limactl::small(&dir.join(OWNER_FILE))?).ok()?;
    let word = |field: &str| Some(value.get(field)?.as_str()?.to_owned());
    Some((word("name")?, word("root")))
}

/// A connection within this machine is there at once or not at all.
const CONNECT: Duration = Duration::from_millis(200);

impl Vm for Lima {
    async fn look(&self) -> Result<Option<VmState>, VmError> {
        Ok(self.listed().await?.map(|listed| listed.state))
    }

    async fn adopt(&self, owner: &Ownership) -> Result<(), VmError> {
        let dir = self.there().await?.state.dir;
        let path: PathBuf = dir.join(OWNER_FILE);
        let owner = json!({ "name": owner.name, "root": owner.root.mark() });
        files::replace(&path, true, |mut file| writeln!(file, "{owner}"))
            .map_err(|err| VmError::Io { path, err: Arc::new(err) })
    }

    async fn create(&self, make: &VmMake) -> Result<(), VmError> {
        if self.listed().await?.is_some() {
            return Ok(());
        }
        // What is mounted has to be there when the machine boots, also before anything was fetched.
        files::make_directory(&make.images)
            .map_err(|err| VmError::Io { path: make.images.clone(), err: Arc::new(err) })?;
        self.limactl.create(&self.instance, &rendered(make)?).await
    }

    async fn validate(&self, make: &VmMake) -> Result<(), VmError> {
        let failed = |err| VmError::Io { path: std::env::temp_dir(), err: Arc::new(err) };
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().map_err(failed)?;
        file.write_all(rendered(make)?.as_bytes()).map_err(failed)?;
        self.limactl.validate(file.path()).await
    }

    async fn start(&self, how: Boot, make: &VmMake) -> Result<(), VmError> {
        let listed = self.there().await?;
        match (how, &listed.state.phase) {
            (Boot::Start | Boot::Repair, VmPhase::Running) => return Ok(()),
            (_, VmPhase::Stopped) => {}
            (_, VmPhase::Running | VmPhase::Broken(_)) => self.repair(&listed, true).await?,
            // Lima moves it on, or knows what we do not.
            (_, phase @ (VmPhase::Starting | VmPhase::Other(_))) => {
                return Err(VmError::Busy { instance: self.instance.to_string(), phase: phase.to_string() });
            }
        }
        self.settle(&self.there().await?, make).await?;
        self.boot(make).await
    }

    async fn stop(&self, force: bool) -> Result<(), VmError> {
        let Some(listed) = self.listed().await? else { return Ok(()) };
        match listed.state.phase {
            VmPhase::Stopped => Ok(()),
            VmPhase::Running if !force => self.limactl.stop(&self.instance, false, None).await,
            _ => self.repair(&listed, !force).await,
        }
    }

    async fn delete(&self) -> Result<(), VmError> {
        let Some(listed) = self.listed().await? else { return Ok(()) };
        if listed.state.phase != VmPhase::Stopped {
            // Whatever it would write on its way down is of no use to anybody.
            self.repair(&listed, false).await?;
        }
        self.limactl.delete(&self.instance).await
    }

    async fn forward(&self, ports: &[Forward]) -> Result<(), VmError> {
        let listed = self.there().await?;
        for port in ports {
            if self.ask_master(&listed, port).await.is_err() {
                self.limactl.make_master(&self.instance).await;
                self.ask_master(&listed, port).await?;
            }
        }
        Ok(())
    }

    async fn is_connectable(&self, port: &Forward) -> bool {
        let ip = match port.host_ip.parse::<IpAddr>() {
            Ok(IpAddr::V4(ip)) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            Ok(IpAddr::V6(ip)) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            Ok(ip) => ip,
            Err(_) => return false,
        };
        let connecting = tokio::net::TcpStream::connect((ip, port.port));
        tokio::time::timeout(CONNECT, connecting).await.is_ok_and(|connected| connected.is_ok())
    }

    async fn events(&self) -> Result<Option<VmEvents>, VmError> {
        let Some(mut command) = self.limactl.watch(&self.instance).await? else { return Ok(None) };
        let failed = |err: std::io::Error| VmError::Failed {
            command: format!("limactl watch --json {}", self.instance),
            why: err.to_string(),
        };
        command.stdout(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        let Some(stdout) = child.stdout.take() else { return Ok(None) };
        // What a line says is not read: whatever it is, it is worth an observation. The child lives as long as the stream.
        let lines =
            stream::unfold((BufReader::new(stdout), child, Vec::new()), |(mut lines, child, mut line)| async move {
                line.clear();
                match lines.read_until(b'\n', &mut line).await {
                    Ok(1..) => Some(((), (lines, child, line))),
                    _ => None,
                }
            });
        Ok(Some(Box::pin(lines)))
    }
}
