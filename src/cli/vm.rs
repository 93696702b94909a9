//! `vm`: the Lima instance alone.

use std::fmt::Write;

use serde_json::{Value, json};

use super::kept::Kept;
use super::reconcile::take_lock;
use super::render::progress::Printer;
use super::render::said::{Level, say};
use super::render::{self, units};
use super::settings::{HostWorld, state_dir};
use super::signals::Signals;
use super::{CliError, ExitStatus, Format, Settings, VmActArgs, VmShellArgs, VmStopArgs, VmVerb};
use crate::act::{ActError, Done, Patience, act};
use crate::backend::cache::CacheOptions;
use crate::backend::lima::Lima;
use crate::backend::{Engine, Progress, Routing, Vm};
use crate::model::{Boot, Desired, VmMake, VmPhase, VmState};
use crate::plan::{Action, Reason, Step};
use crate::reconcile::Reporter;
use crate::reconcile::journal::Journal;

/// Works with the virtual machine of the state file.
pub(super) async fn vm(settings: &Settings, verb: VmVerb) -> Result<ExitStatus, CliError> {
    match verb {
        VmVerb::Status(_) => status(settings).await,
        VmVerb::Start(args) => start(settings, args).await,
        VmVerb::Stop(args) => stop(settings, args).await,
        VmVerb::Restart(args) => restart(settings, args).await,
        VmVerb::Delete(args) => delete(settings, args).await,
        VmVerb::Shell(args) => shell(settings, args).await,
    }
}

/// The state file's machine, and all that is needed to make it.
fn wanted(settings: &Settings) -> Result<(Desired, VmMake), CliError> {
    let desired = settings.load(None)?.desired;
    match desired.vm_make() {
        Some(make) => Ok((desired, make)),
        None => Err(CliError::new(
            ExitStatus::Error,
            format!("`{}` runs its agents on a Podman of this host: it has no virtual machine", settings.files),
        )
        .hint("`vm` goes with `runtime.lima`")),
    }
}

async fn look(vm: &Lima) -> Result<Option<VmState>, CliError> {
    vm.look().await.map_err(|err| CliError::from_vm(&err))
}

// --------------------------------------------------------------------------------------------------------------- showing

async fn status(settings: &Settings) -> Result<ExitStatus, CliError> {
    let (desired, make) = wanted(settings)?;
    let world = settings.world(&desired, CacheOptions::default())?;
    let Some(vm) = &world.vm else { return Ok(ExitStatus::Done) };
    let seen = look(vm).await?;
    let mut podman = Err("it does not run".to_owned());
    if let Some(seen) = seen.as_ref().filter(|seen| seen.phase == VmPhase::Running) {
        podman = match seen.foreign_to(&desired.ownership()) {
            Some(whose) => Err(format!("it is not asked: the VM {whose}")),
            None => {
                world.engine.locate(Some(seen));
                world.engine.ping().await.map_err(|err| err.to_string())
            }
        };
    }
    let route = world.engine.reach().route;
    let value = shown(&make, seen.as_ref(), &podman, route.map(crate::model::Route::word));
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &value)?,
        Format::Text | Format::Markdown => render::print(&page(&value))?,
    }
    Ok(if podman.is_ok() { ExitStatus::Done } else { ExitStatus::Error })
}

fn shown(make: &VmMake, seen: Option<&VmState>, podman: &Result<(), String>, route: Option<&str>) -> Value {
    let process = |process: Option<crate::model::vm::Process>| {
        process.map(|process| {
            let started = process.started_at.map(crate::time::rfc3339);
            json!({ "pid": process.pid, "startedAt": started })
        })
    };
    let spec = &make.spec;
    let mut value = json!({
        "instance": spec.instance,
        "status": seen.map_or("Absent", |seen| seen.phase.word()),
        "home": spec.home,
        "template": spec.template.path,
        "templateDigest": spec.template.digest.to_string(),
    });
    let Some(seen) = seen else { return value };
    let more = json!({
        "error": match &seen.phase { VmPhase::Broken(why) => Some(why), _ => None },
        "owner": seen.owner,
        "ours": seen.foreign_to(&make.owner).is_none(),
        "templateChanged": seen.template.as_ref().is_some_and(|digest| *digest != spec.template.digest.to_string()),
        "dir": seen.dir,
        "vmType": seen.vm_type,
        "limaVersion": seen.lima_version,
        "cpus": seen.cpus,
        "memory": seen.memory,
        "disk": seen.disk,
        "hostAgent": process(seen.host_agent),
        "driver": process(seen.driver),
        "sshLocalPort": seen.ssh_port,
        "socket": seen.socket.as_ref().map(|socket| &socket.host),
        "ports": seen.forwards.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "podman": { "reachable": podman.is_ok(), "rung": route, "error": podman.as_ref().err() },
    });
    if let (Value::Object(value), Value::Object(more)) = (&mut value, more) {
        value.extend(more);
    }
    value
}

fn page(value: &Value) -> String {
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut out = format!("VM `{}`: {}", text("instance"), text("status").to_lowercase());
    if let Some(why) = value["error"].as_str() {
        let _ = write!(out, ", {why}");
    }
    out.push('\n');
    if value["dir"].is_null() {
        let _ = writeln!(out, "  `steadfast apply` makes it from `{}`", text("template"));
        return out;
    }
    let size = |key: &str| units::bytes(value[key].as_u64().unwrap_or_default());
    let count = value["cpus"].as_u64().unwrap_or_default();
    let _ = writeln!(out, "  {}, {count} cpus, {} memory, {} disk", text("vmType"), size("memory"), size("disk"));
    let _ = writeln!(out, "  made by Lima {}, in `{}`", text("limaVersion"), text("dir"));
    match (value["ours"] == true, value["owner"].as_str()) {
        (true, _) => {}
        (false, Some(owner)) => {
            let _ = writeln!(out, "  belongs to state file `{owner}`");
        }
        (false, None) => out.push_str("  was not made by this state file\n"),
    }
    if value["templateChanged"] == true {
        let _ = writeln!(out, "  was made from another version of `{}`", text("template"));
    }
    let podman = &value["podman"];
    if value["status"] != "Running" || value["ours"] != true {
        return out;
    }
    match podman["rung"].as_str() {
        Some(route) => {
            let _ = writeln!(out, "  Podman answers ({route})");
        }
        None => {
            let _ = writeln!(out, "  Podman does not answer: {}", podman["error"].as_str().unwrap_or_default());
        }
    }
    out
}

// ---------------------------------------------------------------------------------------------------------------- acting

/// A machine that is about to be changed: nobody else may do so meanwhile.
struct LockedVm {
    world: HostWorld,
    make: VmMake,
    seen: Option<VmState>,
    desired: Desired,
    _lock: crate::reconcile::lock::Lock,
}

async fn lock_vm(settings: &Settings, verb: &str, args: &VmActArgs) -> Result<LockedVm, CliError> {
    let (desired, make) = wanted(settings)?;
    let dir = state_dir(&desired);
    if let Some(kept) = Kept::at(dir) {
        return Err(CliError::kept_vm(&kept.holder));
    }
    let lock = take_lock(settings, &desired, verb, args.lock_timeout)
        .await
        .map_err(|err| CliError::from_lock(&err, &settings.files))?;
    super::ownership::check(settings, &desired)?;
    let world = settings.world(&desired, CacheOptions::default())?;
    let seen = match &world.vm {
        Some(vm) => look(vm).await?,
        None => None,
    };
    if let Some(whose) = seen.as_ref().and_then(|seen| seen.foreign_to(&desired.ownership())) {
        return Err(CliError::foreign(&make.spec.instance, &whose));
    }
    Ok(LockedVm { world, make, seen, desired, _lock: lock })
}

impl LockedVm {
    /// Takes one step, as a convergence would: told, timed and written down.
    async fn take(
        &self,
        settings: &Settings,
        verb: &'static str,
        action: Action,
        reason: Reason,
    ) -> Result<ExitStatus, CliError> {
        let printer = Printer::new(settings.quiet, settings.color_stderr, settings.bars);
        let journal = Journal::new(&state_dir(&self.desired).join("journal.jsonl"), verb);
        let signals =
            Signals::listen("stopping: what Lima has begun goes on; `steadfast vm status` shows where it got to");
        let step = Step { agent: None, action, reason };
        let progress = Progress::new(0);
        printer.started(&step, &progress);
        let began = std::time::Instant::now();
        let patience = Patience::default();
        let outcome: Result<Done, ActError> = tokio::select! {
            outcome = act(&self.world, &step.action, progress, &patience) => outcome,
            () = signals.token.cancelled() => Err(ActError::Interrupted),
        };
        let took = began.elapsed();
        printer.finished(&step, outcome.as_ref(), took);
        journal.step(&step, outcome.as_ref(), took);
        match outcome {
            Ok(_) => Ok(ExitStatus::Done),
            Err(ActError::Interrupted) => Ok(signals.status().unwrap_or(ExitStatus::Interrupted)),
            Err(ActError::Vm(err)) => Err(CliError::from_vm(&err)),
            Err(err) => Err(CliError::new(ExitStatus::Error, crate::error::Chain(&err).to_string())),
        }
    }

    /// There is nothing to be done.
    fn nothing(&self, settings: &Settings, why: &str) -> Result<ExitStatus, CliError> {
        if !settings.quiet {
            say(Level::Info, &format!("VM `{}` {why}", self.make.spec.instance), &[], settings.color_stderr);
        }
        Ok(ExitStatus::Done)
    }
}

async fn start(settings: &Settings, args: VmActArgs) -> Result<ExitStatus, CliError> {
    let locked = lock_vm(settings, "vm start", &args).await?;
    let make = || Box::new(locked.make.clone());
    let (how, reason) = match locked.seen.as_ref().map(|seen| &seen.phase) {
        Some(VmPhase::Running) => return locked.nothing(settings, "runs already"),
        Some(VmPhase::Starting) => return locked.nothing(settings, "is being started already"),
        Some(VmPhase::Broken(why)) => (Boot::Repair, Reason::VmDown(VmPhase::Broken(why.clone()))),
        Some(phase) => (Boot::Start, Reason::VmDown(phase.clone())),
        None => {
            let made = locked.take(settings, "vm start", Action::CreateVm { make: make() }, Reason::VmMissing).await?;
            if made != ExitStatus::Done {
                return Ok(made);
            }
            (Boot::Start, Reason::VmMissing)
        }
    };
    locked.take(settings, "vm start", Action::StartVm { make: make(), how }, reason).await
}

async fn stop(settings: &Settings, args: VmStopArgs) -> Result<ExitStatus, CliError> {
    let locked = lock_vm(settings, "vm stop", &args.act).await?;
    match locked.seen.as_ref().map(|seen| &seen.phase) {
        None => return locked.nothing(settings, "does not exist"),
        Some(VmPhase::Stopped) => return locked.nothing(settings, "is stopped already"),
        Some(_) => {}
    }
    let action = Action::StopVm { instance: locked.make.spec.instance.clone(), force: args.force };
    locked.take(settings, "vm stop", action, Reason::Asked).await
}

async fn restart(settings: &Settings, args: VmActArgs) -> Result<ExitStatus, CliError> {
    let locked = lock_vm(settings, "vm restart", &args).await?;
    if locked.seen.is_none() {
        return Err(CliError::new(ExitStatus::Error, format!("VM `{}` does not exist", locked.make.spec.instance))
            .hint("`steadfast apply` makes it"));
    }
    let action = Action::StartVm { make: Box::new(locked.make.clone()), how: Boot::Restart };
    locked.take(settings, "vm restart", action, Reason::Asked).await
}

async fn delete(settings: &Settings, args: VmActArgs) -> Result<ExitStatus, CliError> {
    let locked = lock_vm(settings, "vm delete", &args).await?;
    if locked.seen.is_none() {
        return locked.nothing(settings, "does not exist");
    }
    let action = Action::DeleteVm { instance: locked.make.spec.instance.clone() };
    locked.take(settings, "vm delete", action, Reason::Asked).await
}

// ------------------------------------------------------------------------------------------------------------- terminal

/// Hands over the terminal. The exit code is the command's.
async fn shell(settings: &Settings, args: VmShellArgs) -> Result<ExitStatus, CliError> {
    let (desired, make) = wanted(settings)?;
    let Some(vm) = settings.vm(&desired) else { return Ok(ExitStatus::Done) };
    let name = &make.spec.instance;
    match look(&vm).await? {
        Some(seen) => {
            if let Some(whose) = seen.foreign_to(&desired.ownership()) {
                return Err(CliError::foreign(name, &whose));
            }
            if seen.phase != VmPhase::Running {
                let why = format!("VM `{name}` {}", seen.phase);
                return Err(CliError::new(ExitStatus::Error, why).hint("`steadfast vm start` starts it"));
            }
        }
        None => {
            return Err(CliError::new(ExitStatus::Error, format!("VM `{name}` does not exist"))
                .hint("`steadfast apply` makes it"));
        }
    }
    let failed = |err: std::io::Error| CliError::new(ExitStatus::ExecFailed, format!("failed to run limactl: {err}"));
    let mut child = vm.limactl().terminal(name.as_str(), &args.command).spawn().map_err(failed)?;
    // Ctrl-C is for what runs there, which hears it too.
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).map_err(failed)?;
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended.map_err(failed)?,
            _ = interrupt.recv() => {}
        }
    };
    super::agent::exit_with(ended.code().unwrap_or(i32::from(ExitStatus::ExecFailed as u8)))
}
