//! `status`: desired beside observed, once or for as long as one likes. Where `run` keeps the state file it is `run`'s own
//! view, the newest it published; otherwise we observe ourselves.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::Value;

use super::history::{each, journal_path};
use super::kept::{self, Kept};
use super::reconcile::plain_policy;
use super::render::said::{Level, say};
use super::render::{self, status as render_status};
use super::settings::{HostWorld, state_dir};
use super::{CliError, ExitStatus, Format, Settings, StatusArgs, ownership};
use crate::backend::Engine;
use crate::backend::cache::CacheOptions;
use crate::control::client::{self, AskError, Asked};
use crate::control::{Request, Run};
use crate::model::{AgentName, Desired};
use crate::reconcile::lock::{self, LockError};
use crate::snapshot::Snapshot;
use crate::status::{
    AgentStatus, ConditionKind, ConditionReason, ConditionStatus, HealthStatus, Status, SyncStatus, carry_over,
};
use crate::why::{Past, awaited, still_stands};
use crate::words::Word;

/// How long `--watch` waits for an event before it observes again by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long it lets events gather.
const GATHER: Duration = Duration::from_millis(100);
/// How long `run` has to answer, before we observe ourselves. It looks anew for that, and gives up a second earlier.
const ANSWER_TIME: Duration = Duration::from_secs(4);

pub(super) async fn status(settings: &Settings, args: StatusArgs) -> Result<ExitStatus, CliError> {
    if args.watch {
        return tokio::select! {
            ended = watch(settings) => ended.map(|never| match never {}),
            () = render::reader_gone() => Ok(ExitStatus::Done),
        };
    }
    let loaded = settings.load(None);
    let desired = loaded.as_ref().ok().map(|loaded| &loaded.desired);
    if let Some((view, run)) = view_of_run(settings, desired).await {
        show(settings, &view, false)?;
        return Ok(judge(settings, &view, &run, loaded.err(), args.exit_zero));
    }
    let desired = loaded?.desired;
    ownership::check(settings, &desired)?;
    let world = world(settings, &desired)?;
    let looked = in_json(&look(&world, &desired).await);
    show(settings, &looked, false)?;
    Ok(verdict(&looked, args.exit_zero))
}

// ------------------------------------------------------------------------------------------------------ run's own view

/// What `run` says of the state file, if it keeps it and answers in time.
pub(super) async fn view_of_run(settings: &Settings, desired: Option<&Desired>) -> Option<(Value, Run)> {
    let kept = kept::find(settings, desired)?;
    let asked = tokio::time::timeout(ANSWER_TIME, client::status(&kept.dir)).await;
    let view = match asked {
        Ok(Ok(view)) => view,
        Ok(Err(err)) => {
            tracing::debug!(error = %crate::error::Chain(&err), "`run` does not show its view");
            return None;
        }
        Err(_) => {
            tracing::debug!("`run` does not answer");
            return None;
        }
    };
    let run = readable(settings, &view)?;
    Some((view, run))
}

/// What the view of `run` says of an agent that is not ready.
pub(super) struct NotReady {
    /// How its container is.
    pub health: Word<HealthStatus>,
    /// Why.
    pub reason: Word<ConditionReason>,
    /// A sentence.
    pub message: String,
    /// `run` does nothing about it by itself.
    pub stalled: bool,
}

/// What the view of `run` says of an agent, if that is not ready in it.
pub(super) fn not_ready_in(view: &Value, agent: &AgentName) -> Option<NotReady> {
    let agent = view.get("agents")?.get(agent.as_str())?;
    let suspended = agent["desired"]["suspend"] == true;
    if agent["ready"] == true || suspended {
        return None;
    }
    let condition = agent.get("conditions")?.get(0)?;
    fn text<'v>(of: &'v Value, field: &str) -> &'v str {
        of.get(field).and_then(Value::as_str).unwrap_or_default()
    }
    let is_stalled = |one: &Value| {
        ConditionKind::parse(text(one, "type")) == Some(ConditionKind::Stalled)
            && ConditionStatus::parse(text(one, "status")) == Some(ConditionStatus::True)
    };
    Some(NotReady {
        health: text(agent, "health").into(),
        reason: text(condition, "reason").into(),
        message: text(condition, "message").to_owned(),
        stalled: agent["conditions"].as_array().is_some_and(|all| all.iter().any(is_stalled)),
    })
}

/// What it says of itself, where the view is one of this state file that we can show.
fn readable(settings: &Settings, view: &Value) -> Option<Run> {
    let run = Run::deserialize(view.get("run")?).ok()?;
    (settings.files.are(&run.file, &run.layers) && render_status::text(view, false).is_ok()).then_some(run)
}

/// What `status` ends with when it has shown the view of `run`. A state file that cannot be used is said beside it.
fn judge(settings: &Settings, view: &Value, run: &Run, unreadable: Option<CliError>, exit_zero: bool) -> ExitStatus {
    if let Some(err) = &run.state_file_error {
        // People have it on the page already.
        if settings.output.is_data() {
            say(Level::Error, &err.message, &[], settings.color_stderr);
        }
        return ExitStatus::Invalid;
    }
    if let Some(err) = unreadable {
        let hint = "`steadfast run` can use it: it has another environment, or has not seen the newest edit yet";
        render::errors::print(&err.hint(hint), settings.color_stderr);
    }
    verdict(view, exit_zero)
}

/// What `status` ends with: whether it has converged, unless nobody minds.
fn verdict(status: &Value, exit_zero: bool) -> ExitStatus {
    if status["podman"]["reachable"] != true {
        ExitStatus::Error
    } else if status["converged"] == true || exit_zero {
        ExitStatus::Done
    } else {
        ExitStatus::NotConverged
    }
}

// ---------------------------------------------------------------------------------------------------- looking ourselves

fn world(settings: &Settings, desired: &Desired) -> Result<HostWorld, CliError> {
    settings.world(desired, CacheOptions { retries: 0, ..CacheOptions::default() })
}

async fn look(world: &HostWorld, desired: &Desired) -> Status {
    snapshot(world, desired).await.status
}

/// What `status`, `why` and `doctor` go by: the policy of an `apply` without flags, and the failures that the journal tells of.
pub(super) async fn snapshot(world: &HostWorld, desired: &Desired) -> Snapshot {
    let mut snapshot = Snapshot::take(world, desired, &plain_policy(desired), at_work(desired).as_deref()).await;
    tell_failures(&mut snapshot, desired);
    snapshot
}

/// Who holds the lock, and so may be amid a step.
pub(super) fn at_work(desired: &Desired) -> Option<String> {
    match lock::check(&state_dir(desired).join("lock")) {
        Err(LockError::Held { holder, .. }) => {
            Some(holder.map_or_else(|| "another process".to_owned(), |holder| holder.to_string()))
        }
        Ok(()) | Err(LockError::Io { .. }) => None,
    }
}

/// Adds what the newest try came to, for agents that are not ready. The journal explains and decides nothing: without it
/// that is not told.
fn tell_failures(snapshot: &mut Snapshot, desired: &Desired) {
    let Snapshot { status, plan, .. } = snapshot;
    // Of one whose container is as wanted, that container tells more.
    let out_of_sync = |agent: &AgentStatus| agent.sync != SyncStatus::Synced && !agent.ready && !agent.desired.suspend;
    let unready = status.agents.iter_mut().filter(|(_, agent)| out_of_sync(agent));
    let mut pasts: Vec<_> = unready.map(|(name, agent)| (Past::sharing(name, awaited(name, plan)), agent)).collect();
    if pasts.is_empty() {
        return;
    }
    let read = each(&journal_path(desired), |entry| pasts.iter_mut().for_each(|(past, _)| past.add(entry)));
    if let Err(err) = read {
        tracing::debug!(error = %err.message, "cannot read the journal");
        return;
    }
    for (past, agent) in pasts {
        agent.last_failure = past.newest_failure().filter(|failure| still_stands(failure, plan)).cloned();
    }
}

fn in_json(status: &Status) -> Value {
    // Strings, numbers and mappings by name: there is nothing in it that JSON does not have.
    serde_json::to_value(status).unwrap_or_default()
}

// -------------------------------------------------------------------------------------------------------------- watching

/// Prints again whenever something changes, until the user has seen enough. Follows `run` where it keeps the state file,
/// and observes by itself where it does not.
async fn watch(settings: &Settings) -> Result<Infallible, CliError> {
    let mut shown = Shown::default();
    let mut last_good = None;
    let mut broken = None;
    let mut said = false;
    loop {
        // What came through a pipe is not there a second time.
        if last_good.is_none() || settings.can_read_again() {
            match settings.load(None) {
                Ok(loaded) => {
                    ownership::check(settings, &loaded.desired)?;
                    last_good = Some(loaded.desired);
                    broken = None;
                }
                Err(err) => broken = Some(err),
            }
        }
        let newest = last_good.as_ref().filter(|_| broken.is_none());
        if let Some(kept) = kept::find(settings, newest) {
            said &= !follow(settings, &kept, &mut shown).await?;
        }
        match (&last_good, broken.take()) {
            (Some(desired), _) => look_until_kept(settings, desired.clone(), &mut shown).await?,
            // Shown by `run` all the while, and it may come back.
            (None, Some(err)) if shown.value.is_some() => {
                if !std::mem::replace(&mut said, true) {
                    render::errors::print(&err, settings.color_stderr);
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            (None, Some(err)) => return Err(err),
            (None, None) => {}
        }
    }
}

/// Shows what `run` publishes until it goes away or does not answer. Yields whether there was anything.
async fn follow(settings: &Settings, kept: &Kept, shown: &mut Shown) -> Result<bool, CliError> {
    let first = tokio::time::timeout(ANSWER_TIME, async {
        let mut views = Asked::new(&kept.dir, &Request::Watch).await?;
        let first = views.next().await?;
        Ok::<_, AskError>((views, first))
    });
    let Ok(Ok((mut views, mut view))) = first.await else { return Ok(false) };
    let mut any = false;
    while readable(settings, &view).is_some() {
        shown.show(settings, view)?;
        any = true;
        match views.next().await {
            Ok(next) => view = next,
            Err(_) => break,
        }
    }
    Ok(any)
}

/// Observes by itself until `run` keeps the state file. That is read anew each time, unless it came through a pipe; while it
/// is broken, the last good one goes on.
async fn look_until_kept(settings: &Settings, mut desired: Desired, shown: &mut Shown) -> Result<(), CliError> {
    let mut world = self::world(settings, &desired)?;
    let mut before: Option<Status> = None;
    let mut events = None;
    loop {
        let mut status = look(&world, &desired).await;
        if let Some(before) = &before {
            carry_over(&mut status, before);
        }
        shown.show(settings, in_json(&status))?;
        before = Some(status);
        if events.is_none() {
            events = world.engine.events(&desired.ownership()).await.ok();
        }
        tokio::select! {
            // An event that is lost here costs two seconds, no more.
            event = async { match &mut events { Some(events) => events.next().await, None => std::future::pending().await } } => {
                if !matches!(event, Some(Ok(_))) {
                    events = None;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                tokio::time::sleep(GATHER).await;
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        if settings.can_read_again()
            && let Ok(loaded) = settings.load(None)
        {
            if loaded.desired.runtime != desired.runtime {
                world = self::world(settings, &loaded.desired)?;
                events = None;
            }
            desired = loaded.desired;
        }
        if let Some((view, _)) = view_of_run(settings, Some(&desired)).await {
            shown.show(settings, view)?;
            return Ok(());
        }
    }
}

/// What was shown last.
#[derive(Debug, Default)]
struct Shown {
    value: Option<Value>,
}

impl Shown {
    /// Shows it, unless it says what was shown before: that one looked again is not reported.
    fn show(&mut self, settings: &Settings, value: Value) -> Result<(), CliError> {
        let without_times = without_times(value.clone());
        if self.value.as_ref() != Some(&without_times) {
            show(settings, &value, self.value.is_some())?;
            self.value = Some(without_times);
        }
        Ok(())
    }
}

/// The status without what changes with each observation.
fn without_times(mut status: Value) -> Value {
    let drop = |of: Option<&mut Value>, keys: &[&str]| {
        if let Some(Value::Object(fields)) = of {
            fields.retain(|key, _| !keys.contains(&key.as_str()));
        }
    };
    drop(Some(&mut status), &["observedAt"]);
    drop(status.get_mut("run"), &["wokenBy", "lastPassAt", "passes"]);
    status
}

fn show(settings: &Settings, status: &Value, again: bool) -> Result<(), CliError> {
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, status),
        Format::Text | Format::Markdown => {
            let gap = if again { "\n" } else { "" };
            let text = render_status::text(status, settings.color_stdout)
                .map_err(|err| CliError::new(ExitStatus::Error, format!("cannot serialize the status: {err}")))?;
            render::print(&format!("{gap}{text}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::without_times;

    #[test]
    fn one_more_look_that_saw_the_same_is_no_event() {
        let status = |at: u32, passes: u32, error: Option<&str>| {
            json!({"name": "demo", "observedAt": at,
                "run": {"pid": 1, "wokenBy": passes, "lastPassAt": at, "passes": passes, "stateFileError": error}})
        };
        assert_eq!(without_times(status(1, 1, None)), without_times(status(2, 2, None)));
        assert_ne!(without_times(status(1, 1, None)), without_times(status(1, 1, Some("broken"))));
        let own = json!({"name": "demo", "observedAt": 1});
        assert_ne!(without_times(status(1, 1, None)), without_times(own), "that nobody runs any more is shown");
    }
}
