//! `plan`, `apply`, `down`: short functions that differ in their last lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use super::render::progress::Printer;
use super::render::said::{Level, say};
use super::render::{self, plan as render_plan, report as render_report};
use super::settings::{keep_key, state_dir};
use super::signals::Signals;
use super::{ApplyArgs, CliError, DownArgs, ExitStatus, Format, PlanArgs, PolicyArgs, Settings};
use crate::act::Patience;
use crate::backend::World;
use crate::backend::cache::{Cache, CacheOptions};
use crate::backend::podman::Podman;
use crate::handles::Scratch;
use crate::model::Desired;
use crate::plan::Policy;
use crate::reconcile::journal::Journal;
use crate::reconcile::lock::{self, Lock};
use crate::reconcile::{Options, Reconciler, Report, Silent};

fn policy(args: &PolicyArgs, desired: &Desired) -> Result<Policy, CliError> {
    for agent in &args.only {
        if !desired.agents.contains_key(agent) {
            let names: Vec<_> = desired.agents.keys().map(|name| format!("`{name}`")).collect();
            return Err(CliError::new(
                ExitStatus::Usage,
                format!("--only names `{agent}`, which the state file does not have"),
            )
            .hint(format!("it has {}", names.join(", "))));
        }
    }
    Ok(Policy {
        prune: !args.no_prune,
        prune_cache: is_alone(desired),
        adopt: args.adopt,
        only: args.only.iter().cloned().collect::<BTreeSet<_>>(),
    })
}

/// Whether no other state file keeps its state below the same root, and so shares the cache. What cannot be read is taken
/// for shared.
fn is_alone(desired: &Desired) -> bool {
    let own = std::ffi::OsStr::new(desired.name.as_str());
    match std::fs::read_dir(desired.root.join("state")) {
        Ok(owners) => owners.flatten().all(|owner| owner.file_name() == own || !owner.path().is_dir()),
        Err(err) => err.kind() == std::io::ErrorKind::NotFound,
    }
}

fn scratch(desired: &Desired, world: &World<Podman, Cache>) -> Scratch {
    let socket = world.engine.socket().display().to_string();
    Scratch::new(
        &state_dir(desired).join("handles.json"),
        BTreeMap::from([("transport", "api".to_owned()), ("socket", socket)]),
    )
}

/// Shows what `apply` would do.
pub(super) async fn plan(settings: &Settings, args: PlanArgs) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    let options = Options { policy: policy(&args.policy, &desired)?, ..Options::default() };
    let world = settings.world(&desired, CacheOptions::default())?;
    let (journal, scratch) = (Journal::off(), Scratch::off());
    let reconciler = Reconciler {
        world: &world,
        desired: &desired,
        options: &options,
        reporter: &Silent,
        journal: &journal,
        scratch: &scratch,
        cancel: tokio_util::sync::CancellationToken::new(),
    };
    let (_, plan, manifest_invalid) = reconciler.plan().await;
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &render_plan::json(&desired.name, &plan))?,
        Format::Markdown => render::print(&render_plan::markdown(&desired.name, &plan))?,
        Format::Text => render::print(&render_plan::text(&desired.name, &plan, settings.color_stdout))?,
    }
    let report = Report::of_plan(desired.name.clone(), plan, manifest_invalid);
    if !report.troubles.is_empty() {
        render_report::print_troubles(&report, settings.color_stderr);
        return Ok(render_report::status(&report));
    }
    let pending = args.detailed_exitcode && !report.residual.is_empty();
    Ok(if pending { ExitStatus::Pending } else { ExitStatus::Done })
}

/// Converges once and proves it.
pub(super) async fn apply(settings: &Settings, args: ApplyArgs) -> Result<ExitStatus, CliError> {
    let first = settings.load(None)?.desired;
    let mut options = Options {
        parallel: args.parallel.into(),
        downloads: args.parallel_downloads.into(),
        timeout: args.timeout,
        wait: !args.no_wait,
        patience: Patience {
            settle: if args.no_wait { Duration::ZERO } else { args.settle },
            healthy: args.timeout,
            ..Patience::default()
        },
        policy: policy(&args.policy, &first)?,
        allow_empty: args.allow_empty,
    };
    let cache = CacheOptions { parallel: options.downloads, ..CacheOptions::default() };
    let mut world = settings.world(&first, cache)?;
    let _lock = take_lock(settings, &first, "apply", args.lock_timeout).await?;
    let mut desired = load_again(settings, first, &mut world)?;
    options.policy = policy(&args.policy, &desired)?;
    desired.key = keep_key(&desired.root).map_err(|err| {
        CliError::new(
            ExitStatus::Error,
            format!("failed to keep the host key below `{}`: {err}", desired.root.display()),
        )
        .hint("the root directory must be writable: see --root and `root` in the state file")
    })?;
    converge(settings, &desired, &world, &options, "apply").await
}

/// Removes everything this state file owns.
pub(super) async fn down(settings: &Settings, args: DownArgs) -> Result<ExitStatus, CliError> {
    let first = settings.load(None)?.desired;
    let mut world = settings.world(&first, CacheOptions::default())?;
    let _lock = take_lock(settings, &first, "down", args.lock_timeout).await?;
    let desired = load_again(settings, first, &mut world)?;
    let options = Options { timeout: args.timeout, wait: false, allow_empty: true, ..Options::default() };
    converge(settings, &desired, &world, &options, "down").await
}

async fn converge(
    settings: &Settings,
    desired: &Desired,
    world: &World<Podman, Cache>,
    options: &Options,
    verb: &'static str,
) -> Result<ExitStatus, CliError> {
    let printer = Printer::new(settings.quiet, settings.color_stderr, settings.bars);
    let journal = Journal::new(&state_dir(desired).join("journal.jsonl"), verb);
    let signals = Signals::listen("stopping: what is under way on containers is finished; once more stops at once");
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
    let gone = verb == "down";
    let report = if gone { reconciler.down().await } else { reconciler.converge().await };
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
    render_report::print_troubles(&report, settings.color_stderr);
    Ok(match signals.status() {
        Some(status) if report.interrupted => status,
        _ => render_report::status(&report),
    })
}

/// Loads the state file once more, now that the lock is held: it may have changed while another process had the lock,
/// and that one may have applied the newer file already.
fn load_again(settings: &Settings, first: Desired, world: &mut World<Podman, Cache>) -> Result<Desired, CliError> {
    if !settings.can_read_again() {
        return Ok(first);
    }
    let desired = settings.load(None)?.desired;
    let file = settings.file.display();
    let changed = |what, from: &dyn Display, to: &dyn Display| {
        CliError::new(
            ExitStatus::Error,
            format!("`{file}` changed its {what} from `{from}` to `{to}` before the lock was had; nothing was done"),
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
        world.engine = settings.engine(&desired)?;
    }
    Ok(desired)
}

async fn take_lock(settings: &Settings, desired: &Desired, verb: &str, patience: Duration) -> Result<Lock, CliError> {
    let path = state_dir(desired).join("lock");
    let quiet = settings.quiet;
    lock::take(&path, verb, patience, |held| {
        if !quiet {
            say(Level::Info, &format!("waiting: {held}"), &[], settings.color_stderr);
        }
    })
    .await
    .map_err(|err| CliError::from_lock(&err))
}
