//! `plan`, `apply`, `down`: short functions that differ in their last lines.

mod leave;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use super::file;
use super::history::unknown_agent;
use super::kept::{self, Kept};
use super::ownership;
use super::render::progress::Printer;
use super::render::said::{Level, say};
use super::render::{self, plan as render_plan, report as render_report};
use super::settings::{HostWorld, keep_key, state_dir};
use super::signals::Signals;
use super::status::{at_work, view_of_run};
use super::{ApplyArgs, CliError, DownArgs, ExitStatus, Format, PlanArgs, PolicyArgs, Settings};
use crate::act::Patience;
use crate::backend::cache::{self, CacheOptions};
use crate::files;
use crate::handles::Scratch;
use crate::model::Desired;
use crate::overrides;
use crate::plan::{Plan, Policy, Takedown};
use crate::reconcile::journal::Journal;
use crate::reconcile::lock::{self, Lock, LockError};
use crate::reconcile::{Options, Reconciler, Report};
use crate::rollouts::{self, RolloutRecord, quarantined};
use crate::snapshot::Snapshot;
use crate::trust::kept::is_only_trust;

fn policy(args: &PolicyArgs, desired: &Desired) -> Result<Policy, CliError> {
    for agent in &args.only {
        if !desired.agents.contains_key(agent) {
            let names = desired.agents.keys().map(ToString::to_string).collect();
            return Err(unknown_agent(agent, "--only: the state file does not have", &names));
        }
    }
    Ok(Policy {
        prune: !args.no_prune,
        adopt: args.adopt,
        only: args.only.iter().cloned().collect::<BTreeSet<_>>(),
        ..plain_policy(desired)
    })
}

/// The policy of a verb without flags.
pub(super) fn plain_policy(desired: &Desired) -> Policy {
    let quarantined = quarantined(&rollouts::read(&state_dir(desired).join(rollouts::FILE)));
    Policy { prune_cache: is_alone(desired), quarantined, ..Policy::default() }
}

/// Whether no other state file keeps its state below the same root, and so shares the cache. What cannot be read is taken
/// for shared.
pub(super) fn is_alone(desired: &Desired) -> bool {
    let own = std::ffi::OsStr::new(desired.name.as_str());
    match std::fs::read_dir(desired.root.join("state")) {
        Ok(owners) => owners.into_iter().all(|owner| {
            let is_file =
                |owner: &std::fs::DirEntry| std::fs::metadata(owner.path()).is_ok_and(|found| !found.is_dir());
            owner.is_ok_and(|owner| owner.file_name() == own || is_file(&owner) || is_only_trust(&owner.path()))
        }),
        Err(err) => err.kind() == std::io::ErrorKind::NotFound,
    }
}

/// What is remembered of its agents.
pub(super) fn record_of(desired: &Desired) -> Arc<RolloutRecord> {
    Arc::new(RolloutRecord::at(&state_dir(desired).join(rollouts::FILE)))
}

pub(super) fn scratch(desired: &Desired, world: &HostWorld) -> Scratch {
    // In a virtual machine it may change from look to look, and each observation tells.
    let socket = world.engine.socket().filter(|_| desired.vm().is_none());
    let engine = socket
        .map(|socket| BTreeMap::from([("transport", "api".to_owned()), ("socket", socket.display().to_string())]));
    Scratch::new(&state_dir(desired).join("handles.json"), engine.unwrap_or_default())
}

/// Shows what `apply` would do.
pub(super) async fn plan(settings: &Settings, args: PlanArgs) -> Result<ExitStatus, CliError> {
    let loaded = settings.load(None)?;
    file::warn(settings, &loaded, |warning| !warning.planned);
    let desired = loaded.desired;
    if !args.policy.take_over {
        ownership::check(settings, &desired)?;
    }
    let policy = policy(&args.policy, &desired)?;
    let world = settings.world(&desired, CacheOptions::default())?;
    let snapshot = Snapshot::take(&world, &desired, &policy, at_work(&desired).as_deref()).await;
    match settings.output {
        Format::Json | Format::Yaml => {
            let Snapshot { observed, plan, status, .. } = &snapshot;
            let json = render_plan::json(&desired.name, plan, observed.guest.present(), status.converged);
            render::print_data(settings.output, &json)?;
        }
        Format::Markdown => render::print(&render_plan::markdown(&desired, &snapshot))?,
        Format::Text => render::print(&render_plan::text(&desired, &snapshot, settings.color_stdout))?,
    }
    let Snapshot { plan, manifest_fault, .. } = snapshot;
    if !settings.output.is_data() && !plan.is_empty() {
        note_what_backs_off(settings, &desired, &plan).await;
    }
    let report = Report::of_plan(desired.name.clone(), plan, manifest_fault);
    if !report.problems.is_empty() {
        render_report::print_problems(&report, settings.color_stderr);
        return Ok(render_report::status(&report));
    }
    let pending = args.detailed_exitcode && !report.residual.is_empty();
    Ok(if pending { ExitStatus::Pending } else { ExitStatus::Done })
}

/// What is planned is what `apply` would do now. Where `run` keeps the state file and leaves an agent alone for now, that is
/// said beside.
async fn note_what_backs_off(settings: &Settings, desired: &Desired, plan: &Plan) {
    let Some((_, run)) = view_of_run(settings, Some(desired)).await else { return };
    let concerned = plan.concerned();
    for off in run.backing_off {
        let Some(agent) = off.agent.filter(|agent| concerned.contains(agent)) else { continue };
        let until =
            off.retry_at.map_or_else(|| "until the desired state changes".to_owned(), |at| format!("until {at}"));
        let note = format!("note: `steadfast run` leaves agent `{agent}` alone {until}: {}", off.cause);
        say(Level::Info, &note, &["`steadfast apply` has it try at once".to_owned()], settings.color_stderr);
    }
}

/// Converges once and proves it.
pub(super) async fn apply(settings: &Settings, args: ApplyArgs) -> Result<ExitStatus, CliError> {
    let first = match settings.load(None) {
        Ok(loaded) => {
            file::warn(settings, &loaded, |warning| !warning.planned);
            loaded.desired
        }
        // `run` has an environment of its own and may read what we cannot; if not, it says so.
        Err(err) => match kept::find(settings, None) {
            Some(kept) => return leave::ask(settings, &args, &kept).await,
            None => return Err(err),
        },
    };
    let dir = state_dir(&first);
    // Before Podman is looked for: it is for `run` to reach it.
    if let Some(kept) = Kept::at(dir.clone()) {
        return leave::leave_to_run(settings, &args, kept).await;
    }
    if !args.policy.take_over {
        ownership::check(settings, &first)?;
    }
    let mut options = Options {
        parallel: args.parallel.into(),
        downloads: args.parallel_downloads.into(),
        timeout: args.timeout,
        wait: !args.no_wait,
        patience: Patience {
            settle: if args.no_wait { Duration::ZERO } else { args.settle },
            local: first.vm().is_none(),
            ..Patience::default()
        },
        policy: Policy { allow_empty: args.allow_empty, ..policy(&args.policy, &first)? },
        retry_quarantined: args.retry_quarantined,
        ..Options::default()
    };
    let cache = CacheOptions { parallel: options.downloads, ..CacheOptions::default() };
    let mut world = settings.world(&first, cache)?;
    let _lock = match take_lock(settings, &first, "apply", args.lock_timeout).await {
        Err(LockError::Held { holder: Some(holder), .. }) if holder.is_run() => {
            return leave::leave_to_run(settings, &args, Kept { dir, holder }).await;
        }
        taken => taken.map_err(|err| CliError::from_lock(&err, &settings.files))?,
    };
    let mut desired = load_again(settings, first, &mut world)?;
    options.policy = Policy { allow_empty: args.allow_empty, ..policy(&args.policy, &desired)? };
    options.patience.local = desired.vm().is_none();
    if !args.policy.take_over {
        // Somebody else may have had the lock meanwhile.
        ownership::check(settings, &desired)?;
    }
    let unkept = |what: &str, err: std::io::Error| {
        CliError::new(ExitStatus::Error, format!("failed to record {what} below `{}`: {err}", desired.root.display()))
            .hint(render::errors::root_hint(&err))
    };
    let claim = ownership::keep(settings, &desired).map_err(|err| unkept("which state file owns the name", err))?;
    let key = keep_key(&desired.root).map_err(|err| unkept("the host key", err))?;
    (desired.claim, desired.key) = (claim, key);
    options.rollouts = record_of(&desired);
    overrides::sweep(&desired);
    converge(settings, &desired, &world, &options, Goal::Wanted).await
}

/// Removes everything this state file owns.
pub(super) async fn down(settings: &Settings, args: DownArgs) -> Result<ExitStatus, CliError> {
    let first = settings.load(None)?.desired;
    if let Some(kept) = Kept::at(state_dir(&first)) {
        return Err(CliError::kept(&kept.holder, &settings.files));
    }
    if !args.take_over {
        ownership::check(settings, &first)?;
    }
    let mut world = settings.world(&first, CacheOptions::default())?;
    let taken = take_lock(settings, &first, "down", args.lock_timeout).await;
    let _lock = taken.map_err(|err| match &err {
        LockError::Held { holder: Some(holder), .. } if holder.is_run() => CliError::kept(holder, &settings.files),
        err => CliError::from_lock(err, &settings.files),
    })?;
    let desired = load_again(settings, first, &mut world)?;
    if !args.take_over {
        ownership::check(settings, &desired)?;
    }
    let options = Options { timeout: args.timeout, wait: false, ..Options::default() };
    if args.vm && desired.vm().is_none() {
        return Err(CliError::new(
            ExitStatus::Usage,
            "--vm goes with `runtime.lima`: this state file has no virtual machine",
        ));
    }
    let what = Takedown { vm: args.vm, volumes: args.volumes };
    let status = converge(settings, &desired, &world, &options, Goal::Gone(what)).await?;
    if status == ExitStatus::Done {
        ownership::release(&desired);
    }
    Ok(status)
}

/// What a convergence is to come to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// The machine is as the state file says.
    Wanted,
    /// Nothing of the state file is left.
    Gone(Takedown),
}

async fn converge(
    settings: &Settings,
    desired: &Desired,
    world: &HostWorld,
    options: &Options,
    goal: Goal,
) -> Result<ExitStatus, CliError> {
    let verb = if goal == Goal::Wanted { "apply" } else { "down" };
    let printer = Printer::new(settings.quiet, settings.color_stderr, settings.bars);
    let journal = Journal::new(&state_dir(desired).join("journal.jsonl"), verb);
    let signals =
        Signals::listen("stopping: steps in flight on containers are finished; a second signal stops at once");
    let scratch = scratch(desired, world);
    let reconciler = Reconciler {
        world,
        desired,
        options,
        reporter: &printer,
        journal: &journal,
        scratch: &scratch,
        cancel: signals.token.clone(),
    };
    let gone = goal != Goal::Wanted;
    let report = match goal {
        Goal::Wanted => reconciler.converge().await,
        Goal::Gone(what) => reconciler.down(what).await,
    };
    let report = report.map_err(|err| CliError::from_refusal(&err))?;
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &render_report::json(&report))?,
        Format::Text | Format::Markdown => render::print(&render_report::text(&report, gone))?,
    }
    for note in &report.residual.notes {
        if !settings.quiet {
            say(Level::Info, &format!("note: {note}"), &[], settings.color_stderr);
        }
    }
    render_report::print_problems(&report, settings.color_stderr);
    Ok(match signals.status() {
        Some(status) if report.interrupted => status,
        _ => render_report::status(&report),
    })
}

/// Loads the state file once more, now that the lock is held: it may have changed while another process had the lock,
/// and that one may have applied the newer file already.
fn load_again(settings: &Settings, first: Desired, world: &mut HostWorld) -> Result<Desired, CliError> {
    if !settings.can_read_again() {
        return Ok(first);
    }
    let desired = settings.load(None)?.desired;
    let file = &settings.files;
    let changed = |what, from: &dyn Display, to: &dyn Display| {
        CliError::new(
            ExitStatus::Error,
            format!(
                "`{file}` changed its {what} from `{from}` to `{to}` before the lock was acquired; nothing was done"
            ),
        )
        .hint("run it again: the lock belongs to a name and a root")
    };
    if desired.name != first.name {
        return Err(changed("name", &first.name, &desired.name));
    }
    if desired.root != first.root {
        return Err(changed("root", &first.root.display(), &desired.root.display()));
    }
    if desired.runtime != first.runtime {
        world.vm = settings.vm(&desired);
        world.engine = settings.engine(&desired)?;
    }
    Ok(desired)
}

pub(super) async fn take_lock(
    settings: &Settings,
    desired: &Desired,
    verb: &str,
    patience: Duration,
) -> Result<Lock, LockError> {
    let path = state_dir(desired).join("lock");
    let quiet = settings.quiet;
    let lock = lock::take(&path, kept::claim(settings, verb), patience, |err| {
        if !quiet {
            say(Level::Info, &format!("waiting: {err}"), &[], settings.color_stderr);
        }
    })
    .await?;
    // Whoever was killed before us came no further.
    path.ancestors().skip(1).take(2).for_each(files::sweep_own_directory);
    cache::sweep(&desired.root);
    Ok(lock)
}
