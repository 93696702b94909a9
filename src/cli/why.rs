//! `why`: one fresh look and the journal, for one agent.

use std::time::SystemTime;

use super::history::{each, journal_path, unknown_agent};
use super::render::{self, why as render_why};
use super::status::{not_ready_in, snapshot, view_of_run};
use super::{CliError, ExitStatus, Format, Settings, WhyArgs, ownership};
use crate::act::Patience;
use crate::backend::cache::CacheOptions;
use crate::model::{Desired, Seen};
use crate::observe::{Published, look_at_published};
use crate::plan::Policy;
use crate::readiness::steady_after;
use crate::snapshot::Snapshot;
use crate::status::{ConditionReason, HealthStatus};
use crate::why::{BackingOff, Past, awaited, why as explain};

pub(super) async fn why(settings: &Settings, args: WhyArgs) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    ownership::check(settings, &desired)?;
    let agent = &args.agent;
    if !desired.agents.contains_key(agent) {
        let mut past = Past::of(agent);
        each(&journal_path(&desired), |entry| past.add(entry))?;
        if !past.is_mentioned() {
            let names = desired.agents.keys().map(ToString::to_string).collect();
            return Err(unknown_agent(agent, "the state file does not have", &names));
        }
    }
    let snapshot = match settings.world(&desired, CacheOptions { retries: 0, ..CacheOptions::default() }) {
        Ok(world) => snapshot(&world, &desired).await,
        // Without a socket the rest of the chain is still worth telling.
        Err(err) => {
            let observed = unseen(settings, &desired, err).await?;
            Snapshot::of(&desired, observed, &Policy::default(), steady_after(Patience::default().settle), None)
        }
    };
    let mut past = Past::sharing(agent, awaited(agent, &snapshot.plan));
    each(&journal_path(&desired), |entry| past.add(entry))?;
    let mut why = explain(agent, &desired, &snapshot, past, SystemTime::now());
    if let Some((view, run)) = view_of_run(settings, Some(&desired)).await {
        // What `run` knows of an agent's past, one observation cannot tell; and both are to say one thing.
        if let (Some(said), Some(known)) = (not_ready_in(&view, agent), &mut why.known) {
            let health = said.health.known().unwrap_or(HealthStatus::Progressing);
            let reason = said.reason.known().unwrap_or(ConditionReason::Pending);
            known.status.doubt(health, reason, &said.message, said.stalled);
        }
        if why.known.as_ref().is_some_and(|known| !known.status.ready) && why.backoff.is_none() {
            let off = run.backing_off.into_iter().find(|off| off.agent.as_ref() == Some(agent));
            why.backoff = off.map(|off| BackingOff { until: off.retry_at, why: Some(off.cause) });
        }
    }
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &render_why::json(&why))?,
        Format::Text | Format::Markdown => render::print(&render_why::text(&why, settings.color_stdout))?,
    }
    Ok(if why.podman_unseen.is_some() { ExitStatus::Error } else { ExitStatus::Done })
}

/// What can be seen where Podman has no socket: the cache and the manifest.
async fn unseen(settings: &Settings, desired: &Desired, err: CliError) -> Result<crate::model::Observed, CliError> {
    use crate::backend::Store;

    let store = settings.cache(&desired.root, CacheOptions { retries: 0, ..CacheOptions::default() })?;
    let Published { manifest: published, .. } = look_at_published(&store, desired).await;
    let local = store
        .local(desired.manifest.as_ref())
        .await
        .map_or_else(unknown, |local| local.map_or(Seen::Absent, Seen::Present));
    let artifacts = store.list().await.map_or_else(unknown, Seen::Present);
    let (vm, reach) = (Seen::Absent, crate::model::Reach::default());
    Ok(crate::model::Observed {
        published,
        local,
        artifacts,
        vm,
        reach,
        guest: Seen::Unknown { why: err.message },
        loaded: Default::default(),
        others: Default::default(),
        transfers: Default::default(),
    })
}

fn unknown<T>(err: crate::backend::StoreError) -> Seen<T> {
    Seen::Unknown { why: crate::error::Chain(&err).to_string() }
}
